"""AFNONet, the network of FourCastNet, with the parameter names of NVlabs/FourCastNet networks/afnonet.py."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wxkernels import ops
from wxkernels.errors import UserError

#: Keys that checkpoints carry and forward never uses: the final LayerNorm of NVlabs.
DEAD_KEYS = ("norm.weight", "norm.bias")


class AFNO2D(nn.Module):
    """The spectral filter with its weights: x (B, H, W, C) -> (B, H, W, C), its own input included."""

    def __init__(
        self,
        dim: int,
        num_blocks: int,
        sparsity_threshold: float,
        hard_thresholding_fraction: float,
        hidden_size_factor: int,
    ):
        super().__init__()
        self.sparsity_threshold = sparsity_threshold
        self.hard_thresholding_fraction = hard_thresholding_fraction
        bs = dim // num_blocks
        hidden = bs * hidden_size_factor
        self.w1 = nn.Parameter(0.02 * torch.randn(2, num_blocks, bs, hidden))
        self.b1 = nn.Parameter(0.02 * torch.randn(2, num_blocks, hidden))
        self.w2 = nn.Parameter(0.02 * torch.randn(2, num_blocks, hidden, bs))
        self.b2 = nn.Parameter(0.02 * torch.randn(2, num_blocks, bs))

    def forward(self, x: Tensor) -> Tensor:
        return ops.spectral_filter(
            x,
            self.w1,
            self.b1,
            self.w2,
            self.b2,
            sparsity_threshold=self.sparsity_threshold,
            hard_thresholding_fraction=self.hard_thresholding_fraction,
        )


class Mlp(nn.Module):
    """fc2(gelu(fc1(x))) with the exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """t = filter(norm1(x)) + x; y = mlp(norm2(t)) + t, on x (B, H, W, C)."""

    def __init__(self, dim: int, hidden: int, **filter_options: Any):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.filter = AFNO2D(dim, **filter_options)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        t = self.filter(self.norm1(x))
        t += x
        if torch.is_grad_enabled():
            return t + self.mlp(self.norm2(t))
        for member in t.split(1):  # the hidden layer is 4x the stream: one member of it at a time
            member += self.mlp(self.norm2(member))
        return t


class PatchEmbed(nn.Module):
    """Convolution with stride = kernel = patch (p, q): x (B, C_in, H, W) -> (B, h, w, C)."""

    def __init__(self, in_chans: int, dim: int, patch_size: tuple[int, int]):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        p, q = self.proj.kernel_size
        patches = x.reshape(B, C, H // p, p, W // q, q).permute(0, 2, 4, 1, 3, 5)
        # As a matrix product it takes a third of the convolution's time at 720 x 1440 on a CPU.
        return F.linear(patches.flatten(3), self.proj.weight.flatten(1), self.proj.bias)


class AFNONet(nn.Module):
    """FourCastNet's network: patch embedding, `depth` AFNO blocks, linear head.

    x (B, in_chans, H, W) -> (B, out_chans, H, W), in the dtype of the weights (or autocast's). While autograd
    does not record (no_grad, inference_mode) a member's result is bit for bit the same in every batch.
    State dict keys are those of NVlabs/FourCastNet and physicsnemo, without the unused `norm.*`. Raises
    ValueError for an img_size (H, W) that is not whole patches and for x of another shape.
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
        self.pos_embed = nn.Parameter(torch.zeros(1, (H // p) * (W // q), embed_dim))
        self.patch_embed = PatchEmbed(in_chans, embed_dim, (p, q))
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                hidden,
                num_blocks=num_blocks,
                sparsity_threshold=sparsity_threshold,
                hard_thresholding_fraction=hard_thresholding_fraction,
                hidden_size_factor=hidden_size_factor,
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(embed_dim, out_chans * p * q, bias=False)
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
        tokens = each_member(self._embed, x)  # (B, h, w, C)
        for block in self.blocks:
            tokens = block(tokens)
        return each_member(self._fields, tokens)

    def _embed(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x)  # (B, h, w, C)
        return tokens + self.pos_embed.view(1, *tokens.shape[1:])

    def _fields(self, tokens: Tensor) -> Tensor:
        B, h, w, _ = tokens.shape
        p, q = self.patch_size
        y = self.head(tokens).view(B, h, w, p, q, self.out_chans)  # the channel is the fastest index
        return y.permute(0, 5, 1, 3, 2, 4).reshape(B, self.out_chans, h * p, w * q)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        img_size: tuple[int, int] | None = None,
        sparsity_threshold: float = 0.01,
        hard_thresholding_fraction: float = 1.0,
        source: str = "state dict",
    ) -> Self:
        """The network whose sizes are the shapes in `state`, with those weights, in the dtype of `pos_embed`.

        The threshold and the fraction leave no trace in shapes. Neither does the aspect of the grid: without
        img_size it is H x 2H, as on every equiangular grid of the globe. Raises UserError, one line that
        begins with `source` and names the key, for a key that is missing, unexpected or of another shape.
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
        except ValueError as error:
            raise UserError(f"{source}: {error}") from None
        check_state(net, state, source)
        net = net.to(state["pos_embed"].dtype).to_empty(device="cpu")
        net.load_state_dict(dict(state))
        return net


def each_member(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x), one member at a time while autograd does not record: no member's bits depend on the batch.

    BLAS and convolution kernels choose their blocking by the shape and the alignment of what they get; so
    each member comes alone and as a fresh, aligned copy. x (B, ...), f maps (1, ...) to (1, ...).
    """
    if torch.is_grad_enabled() or len(x) == 0:
        return f(x)
    return torch.cat([f(member.clone(memory_format=torch.contiguous_format)) for member in x.split(1)])


def check_state(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """UserError unless `state` has exactly the keys and shapes of `net`; it names the first that differs."""
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
        if found.shape != tensor.shape or not found.is_floating_point():
            raise UserError(
                f"{source}: key '{key}': expected floating numbers of shape {tuple(tensor.shape)}, got "
                f"{found.dtype} {tuple(found.shape)}; the file mixes two networks: save it again from one"
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
