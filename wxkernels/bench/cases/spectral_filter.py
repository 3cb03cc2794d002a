"""The AFNO spectral filter against the plain PyTorch layer, eager and compiled."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from wxkernels import ops
from wxkernels.bench.case import Case, Here, compiled, implementations, on_backend
from wxkernels.bench.engine import Call, Problem, Size, Variant, Work
from wxkernels.bench.models import MODELS
from wxkernels.errors import UserError
from wxkernels.ops.spectral_filter import OP, reference


def ours(device: torch.device) -> Here:
    probe = [
        torch.zeros(shape, device=device)
        for shape in ((1, 2, 2, 8), (2, 1, 8, 8), (2, 1, 8), (2, 1, 8, 8), (2, 1, 8))
    ]
    return implementations(OP, *probe)


def peers(device: torch.device) -> Here:
    """On a GPU these are the cuFFT path."""
    return {"eager": None, "compiled": None}


def problem(size: Size, names: Sequence[str]) -> Problem:
    B, (H, W, C, nb) = size.batch, size.shape
    if C % nb:
        raise UserError(f"shape: {C} channels do not divide into {nb} blocks")
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*sizes, generator=generator) * scale).to(size.device)

    bs = C // nb
    weights = [normal(2, nb, bs, bs, scale=0.02), normal(2, nb, bs, scale=0.02)]
    weights += [normal(2, nb, bs, bs, scale=0.02), normal(2, nb, bs, scale=0.02)]
    work = Work(
        flops(B, H, W, C, nb, size.dtype),
        2 * B * H * W * C * size.dtype.itemsize + sum(w.nbytes for w in weights),
    )
    variants = []
    for name in names:
        if name in ("eager", "compiled"):
            build = partial(_plain, size, compile=name == "compiled")
            variants.append(Variant(name, build, work, "pytorch"))
        else:
            variants.append(Variant(name, partial(on_backend, name, ops.spectral_filter), work))
    return Problem(
        case="spectral_filter",
        op="spectral_filter",
        size=size,
        shape=(B, H, W, C),
        sample=lambda: [normal(B, H, W, C).to(size.dtype), *(w.clone() for w in weights)],
        exact=_exact,
        variants=variants,
    )


def flops(B: int, H: int, W: int, C: int, nb: int, dtype: torch.dtype) -> dict[torch.dtype, float]:
    """The block MLP on the kept modes in `dtype`, three real products a complex one; the transforms.

    They take 2.5 n log2 n (real) and 5 n log2 n, in float32 whatever the dtype, as the published layer does.
    """
    start, stop, columns = reference.kept_modes(H, W, 1.0)
    mlp = 2 * 6 * (stop - start) * columns * C * (C // nb)
    transforms = 2 * C * (H * 2.5 * W * math.log2(W) + columns * 5 * H * math.log2(H))
    if dtype == torch.float32:
        return {dtype: B * (mlp + transforms)}
    return {dtype: B * mlp, torch.float32: B * transforms}


def _exact(tensors: Sequence[Tensor]) -> Tensor:
    x, w1, b1, w2, b2 = (t.double() for t in tensors)
    return reference.spectral_filter(x, w1, b1, w2, b2, 0.01, 1.0)


def _plain(size: Size, *, compile: bool) -> Call:
    """The PyTorch layer; for a half dtype under autocast, so that its products run in that dtype too."""
    half = size.dtype in (torch.bfloat16, torch.float16)
    layer: Callable[..., Tensor] = reference.spectral_filter
    if compile:
        layer = compiled(layer)

    def run(tensors: Sequence[Tensor]) -> Tensor:
        with torch.autocast(size.device.type, dtype=size.dtype) if half else nullcontext():
            return layer(*tensors, 0.01, 1.0)

    return run


CASE = Case(
    name="spectral_filter",
    summary="the AFNO token mixer with its residual",
    axes="H x W x C x blocks",
    shapes={name: (*m.tokens, m.dim, m.blocks) for name, m in MODELS.items()},
    dtypes=(torch.float32, torch.bfloat16, torch.float16),
    ours=ours,
    peers=peers,
    problem=problem,
)
