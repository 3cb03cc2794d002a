"""AFNONet, the network of FourCastNet, with the parameter names of NVlabs/FourCastNet networks/afnonet.py."""

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from wxkernels.errors import UserError
from wxkernels.nn import AFNO2D, AFNOBlock, Mlp, PatchEmbed, PatchHead
from wxkernels.quantization import Scheme, apply

#: Keys that checkpoints carry and forward never uses: the final LayerNorm of NVlabs.
DEAD_KEYS = ("norm.weight", "norm.bias")


class AFNONet(nn.Module):
    """FourCastNet's network: patch embedding, `depth` AFNO blocks, linear head.

    x (B, in_chans, H, W) -> (B, out_chans, H, W) in the dtype of x, which the tokens keep throughout; each
    layer computes in the precision of its weights. A member's result is bit for bit the same in every batch.
    State dict keys are those of NVlabs/FourCastNet and physicsnemo, without the unused `norm.*`; a quantised
    network (`scheme`) has scales beside them. Raises ValueError for an img_size (H, W) that is not whole
    patches and for x of another shape.
    """

    def __init__(
        self,
        img_size: tuple[int, int] = (720, 1440),
        patch_size: tuple[int, int] = (8, 8),
        in_chans: int = 20,
        out_chans: int = 20,
        embed_dim: int = 768,
        depth: int = 12,
        mlp_ratio: float = 4.0,
        num_blocks: int = 8,
        sparsity_threshold: float = 0.01,
        hard_thresholding_fraction: float = 1.0,
        hidden_size_factor: int = 1,
    ):
        super().__init__()
        (H, W), (p, q) = img_size, patch_size
        if H % p or W % q:
            raise ValueError(f"img_size: expected whole patches of {p} x {q}, got {H} x {W}")
        if embed_dim % num_blocks:
            raise ValueError(f"embed_dim: expected a multiple of num_blocks = {num_blocks}, got {embed_dim}")
        #: What rebuilds this network: AFNONet(**net.config).
        self.config: dict[str, Any] = {
            "img_size": (H, W),
            "patch_size": (p, q),
            "in_chans": in_chans,
            "out_chans": out_chans,
            "embed_dim": embed_dim,
            "depth": depth,
            "mlp_ratio": mlp_ratio,
            "num_blocks": num_blocks,
            "sparsity_threshold": sparsity_threshold,
            "hard_thresholding_fraction": hard_thresholding_fraction,
            "hidden_size_factor": hidden_size_factor,
        }
        self.img_size, self.patch_size = (H, W), (p, q)
        self.in_chans, self.out_chans = in_chans, out_chans
        hidden = int(embed_dim * mlp_ratio + 1e-6)  # a ratio taken from shapes must give those shapes back
        #: The precisions of a quantised network (wxkernels.quantization), else None.
        self.scheme: Scheme | None = None
        self.pos_embed = nn.Parameter(torch.zeros(1, (H // p) * (W // q), embed_dim))
        self.register_buffer("pos_scale", None)  # (h * w,) of int8 positions
        self.patch_embed = PatchEmbed(in_chans, embed_dim, (p, q))
        self.blocks = nn.ModuleList(
            AFNOBlock(
                nn.LayerNorm(embed_dim, eps=1e-6),
                AFNO2D.create(
                    embed_dim,
                    num_blocks,
                    hidden_size_factor=hidden_size_factor,
                    sparsity_threshold=sparsity_threshold,
                    hard_thresholding_fraction=hard_thresholding_fraction,
                ),
                nn.LayerNorm(embed_dim, eps=1e-6),
                Mlp(nn.Linear(embed_dim, hidden), nn.Linear(hidden, embed_dim)),
            )
            for _ in range(depth)
        )
        self.head = PatchHead(embed_dim, out_chans, (p, q))
        self._initialise()

    def _initialise(self) -> None:
        """As published: truncated normal of 0.02 for linear layers and positions, zero biases."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        expected = (self.in_chans, *self.img_size)
        if x.dim() != 4 or x.shape[1:] != expected:
            raise ValueError(f"x: expected (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        tokens = self.patch_embed(x, self.pos_embed, self.pos_scale)  # (B, h, w, C)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of fields and tokens: float32, or float64 with such weights; layers may be coarser."""
        return torch.promote_types(self.head.weight.dtype, torch.float32)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        img_size: tuple[int, int] | None = None,
        sparsity_threshold: float = 0.01,
        hard_thresholding_fraction: float = 1.0,
        scheme: Scheme | None = None,
        source: str = "state dict",
    ) -> Self:
        """The network whose sizes are the shapes in `state`, with those weights, in the dtype of `pos_embed`.

        The threshold and the fraction leave no trace in shapes. Neither does the aspect of the grid: without
        img_size it is H x 2H, as on every equiangular grid of the globe. scheme: that of a quantised network.
        Raises UserError, one line that begins with `source` and names the key, for a key that is missing,
        unexpected or of another shape or dtype, and for scales that are not finite and positive.
        """
        state = {key: value for key, value in state.items() if key not in DEAD_KEYS}
        config = _config(state, img_size, source)
        config |= {
            "sparsity_threshold": sparsity_threshold,
            "hard_thresholding_fraction": hard_thresholding_fraction,
        }
        try:
            with torch.device("meta"):  # no time spent on initial values
                net = cls(**config)
                if scheme is not None:
                    apply(net, scheme)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from None
        check_state(net, state, source, exact=scheme is not None)
        if scheme is None:
            net.to(state["pos_embed"].dtype)
        net = net.to_empty(device="cpu")
        net.load_state_dict(dict(state))
        return net


def check_state(net: nn.Module, state: Mapping[str, Tensor], source: str, *, exact: bool = False) -> None:
    """UserError unless `state` has the keys and shapes of `net`; it names the first that differs.

    Any floating dtype is as good as another, unless `exact`. Scales are finite and positive.
    """
    expected = net.state_dict()
    kind = type(net).__name__
    if missing := [key for key in expected if key not in state]:
        raise UserError(
            f"{source}: {len(missing)} keys of {kind} are missing, first '{missing[0]}' (expected shape "
            f"{tuple(expected[missing[0]].shape)}, got nothing); save the whole state dict of the network"
        )
    if unexpected := [key for key in state if key not in expected]:
        raise UserError(
            f"{source}: {len(unexpected)} unexpected keys, first '{unexpected[0]}' (expected only keys of "
            f"{kind}, got shape {tuple(state[unexpected[0]].shape)}); this is another network, or remove them"
        )
    for key, tensor in expected.items():
        found = state[key]
        floating = found.is_floating_point() and tensor.is_floating_point() and not exact
        if found.shape != tensor.shape or not (floating or found.dtype == tensor.dtype):
            wanted = "floating numbers" if tensor.is_floating_point() and not exact else tensor.dtype
            raise UserError(
                f"{source}: key '{key}': expected {wanted} of shape {tuple(tensor.shape)}, got "
                f"{found.dtype} {tuple(found.shape)}; the file mixes two networks: save it again from one"
            )
        if key.endswith("_scale") and not (found.isfinite() & (found > 0)).all():
            raise UserError(
                f"{source}: key '{key}': expected finite scales above 0, got others; quantise the model again"
            )


def _config(state: Mapping[str, Tensor], img_size: tuple[int, int] | None, source: str) -> dict[str, Any]:
    def shape(key: str, dims: int) -> tuple[int, ...]:
        if key not in state:
            found = ", ".join(sorted(state)[:3]) or "none"
            raise UserError(
                f"{source}: key '{key}' of AFNONet is missing (found {len(state)} keys: {found} ...); "
                "give a FourCastNet (AFNO) checkpoint"
            )
        if state[key].dim() != dims or 0 in state[key].shape:
            raise UserError(
                f"{source}: key '{key}': expected {dims} dimensions, none of them 0, got shape "
                f"{tuple(state[key].shape)}; give a FourCastNet (AFNO) checkpoint"
            )
        return tuple(state[key].shape)

    _, patches, _ = shape("pos_embed", 3)
    embed_dim, in_chans, p, q = shape("patch_embed.proj.weight", 4)
    _, num_blocks, bs, hidden = shape("blocks.0.filter.w1", 4)
    head, _ = shape("head.weight", 2)
    mlp_hidden, _ = shape("blocks.0.mlp.fc1.weight", 2)
    if img_size is None:
        h = math.isqrt(patches * q // (2 * p))  # h p = H, w q = 2 H, h w = patches
        img_size = (h * p, 2 * h * p)
        hint = "no H x 2H grid gives that count: pass img_size=(H, W)"
    else:
        hint = "pass the img_size the network was trained on"
    if (img_size[0] // p) * (img_size[1] // q) != patches:
        raise UserError(
            f"{source}: key 'pos_embed': expected {img_size[0] // p} x {img_size[1] // q} patches for "
            f"{img_size[0]} x {img_size[1]} points in patches of {p} x {q}, got {patches}; {hint}"
        )
    if head % (p * q):
        raise UserError(
            f"{source}: key 'head.weight': expected a multiple of {p} * {q} rows (points of a patch), got "
            f"{head}; the file mixes two networks: save it again from one"
        )
    return {
        "img_size": tuple(img_size),
        "patch_size": (p, q),
        "in_chans": in_chans,
        "out_chans": head // (p * q),
        "embed_dim": embed_dim,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "mlp_ratio": mlp_hidden / embed_dim,
        "num_blocks": num_blocks,
        "hidden_size_factor": max(hidden // bs, 1),
    }
