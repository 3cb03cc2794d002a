"""One step of the published FourCastNet, as it is and patched."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wxkernels.bench.cases.spectral_filter import flops as filter_flops
from wxkernels.bench.engine import Call, Problem, Variant
from wxkernels.errors import UserError
from wxkernels.patching import patch

AXES = "H x W x channels x patch x dim x depth"
SHAPES = {"fourcastnet": (720, 1440, 20, 8, 768, 12), "small": (64, 128, 20, 8, 64, 2)}
DTYPES = (torch.float32,)


def backends(device: torch.device) -> dict[str, str | None]:
    """The published network, eager and compiled, and the same patched; None, or why it is not here."""
    reason = None
    try:
        import ai_models_fourcastnet.afnonet  # noqa: F401
    except Exception as error:  # a timm that does not fit torch raises more than ImportError
        reason = f"the published network is not here ({error}); pip install ai-models-fourcastnet"
    return dict.fromkeys(("eager", "compiled", "patched"), reason)


def problem(
    batch: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, names: Sequence[str]
) -> Problem:
    H, W, channels, p, dim, depth = shape
    if H % p or W % p:
        raise UserError(f"shape: {H} x {W} is not whole patches of {p}")
    here = backends(device)
    if reason := here["eager"]:
        raise UserError(reason)
    published = _published(shape).to(device)
    generator = torch.Generator().manual_seed(0)
    inputs = [[torch.randn(batch, channels, H, W, generator=generator).to(device)] for _ in range(2)]
    variants = []
    for name in names:
        network: nn.Module = published
        if name == "patched":
            network = copy.deepcopy(published)
            patch(network)
        elif name == "compiled":
            network = torch.compile(copy.deepcopy(published), dynamic=False)  # type: ignore[assignment]
        variants.append(Variant(name, _call(network), plain=name != "patched"))
    parameters = sum(w.nbytes for w in published.parameters())
    N = (H // p) * (W // p)
    return Problem(
        op="fourcastnet",
        shape=(batch, channels, H, W),
        dtype=dtype,
        inputs=inputs,
        exact=lambda x: _exact(published, x),
        variants=variants,
        flops=flops(batch, shape),
        # The weights, the fields in and out, and the residual stream read and written twice a block.
        bytes=parameters + dtype.itemsize * batch * (2 * channels * H * W + 4 * depth * N * dim),
        command=(
            f"wxkernels-bench fourcastnet --shape {'x'.join(map(str, shape))} --batch {batch}"
            f" --threads {torch.get_num_threads()}"
        ),
    )


def flops(batch: int, shape: tuple[int, ...]) -> float:
    """Products of the embedding, the head and the MLPs (16 N dim^2 a block), and the filters."""
    H, W, channels, p, dim, depth = shape
    h, w = H // p, W // p
    per_block = 16 * h * w * dim**2 + filter_flops(1, h, w, dim, math.gcd(dim, 8))
    return batch * (2 * 2 * h * w * channels * p**2 * dim + depth * per_block)


def _published(shape: tuple[int, ...]) -> nn.Module:
    from ai_models_fourcastnet.afnonet import AFNONet

    H, W, channels, p, dim, depth = shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AFNONet(
            img_size=(H, W),
            patch_size=(p, p),
            in_chans=channels,
            out_chans=channels,
            embed_dim=dim,
            depth=depth,
            num_blocks=math.gcd(dim, 8),
        ).eval()


def _call(network: nn.Module) -> Call:
    return lambda tensors: network(*tensors)


def _exact(network: nn.Module, tensors: Sequence[Tensor]) -> Tensor:
    """The network in float64: its own filters cast to float32 on the way, patched ones run the reference."""
    double = copy.deepcopy(network).double()
    patch(double)
    return double(*(t.double() for t in tensors))
