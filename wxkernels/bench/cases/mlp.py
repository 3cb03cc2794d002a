"""The second half of an AFNO block, x + fc2(gelu(fc1(LN(x)))), in each precision."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels import ops
from wxkernels.bench.case import Case, Here, all_in, compiled, implementations, on_backend, split
from wxkernels.bench.engine import Call, Problem, Size, Variant, Work
from wxkernels.bench.models import MODELS
from wxkernels.ops.mlp import OP
from wxkernels.quantization.scheme import hidden_code, hidden_scale_fp8

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}
PYTORCH = ("eager", "compiled", "eager-bf16", "compiled-bf16")
EPS = 1e-6


def ours(device: torch.device) -> Here:
    here: Here = {}
    x, row, scalar = (torch.zeros(s, device=device) for s in ((2, 2), (2,), ()))
    for name, dtype in PRECISIONS.items():
        weight = x.to(dtype)
        scales = (row, row, scalar) if dtype.itemsize == 1 else (None, None, None)
        found = implementations(OP, x, row, row, weight, row, weight, row, *scales)
        here |= {f"{backend}-{name}": reason for backend, reason in found.items()}
    return here


def peers(device: torch.device) -> Here:
    return dict.fromkeys(PYTORCH)


def problem(size: Size, names: Sequence[str]) -> Problem:
    rows, C, D = size.batch * size.shape[0], size.shape[1], size.shape[2]
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*sizes, generator=generator) * scale).to(size.device)

    weights = [1 + normal(C, scale=0.1), normal(C, scale=0.1)]
    weights += [normal(D, C, scale=C**-0.5), normal(D, scale=0.1)]
    weights += [normal(C, D, scale=D**-0.5), normal(C, scale=0.1)]

    def sample() -> list[Tensor]:
        return [normal(rows, C).to(size.dtype), *(w.clone() for w in weights)]

    calibration = sample()
    variants = []
    for name in names:
        how, precision = split(name)
        dtype = PRECISIONS[precision]
        if name in PYTORCH:
            build, adapt = partial(_plain, how == "compiled"), partial(all_in, dtype)
            variants.append(Variant(name, build, _work(rows, C, D, dtype, dtype), "pytorch", adapt=adapt))
        else:
            build, adapt = partial(_ours, how, precision, calibration), partial(_weights_in, precision)
            variants.append(Variant(name, build, _work(rows, C, D, size.dtype, dtype), adapt=adapt))
    return Problem(
        case="mlp",
        op="mlp",
        size=size,
        shape=(rows, C, D),
        sample=sample,
        exact=lambda tensors: _mlp(*(t.double() for t in tensors)),
        variants=variants,
    )


def _work(rows: int, C: int, D: int, io: torch.dtype, dtype: torch.dtype) -> Work:
    """Of rows in `io` and products in `dtype`."""
    return Work({dtype: 4.0 * rows * C * D}, 2 * io.itemsize * rows * C + 2 * dtype.itemsize * C * D)


def _mlp(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    n = F.layer_norm(x, (x.shape[-1],), norm_weight, norm_bias, EPS)
    return x + F.linear(F.gelu(F.linear(n, w1, b1)), w2, b2)


def _plain(compile: bool) -> Call:
    mlp = compiled(_mlp) if compile else _mlp
    return lambda tensors: mlp(*tensors)


def _ours(backend: str, precision: str, calibration: Sequence[Tensor]) -> Call:
    """Our op; the hidden layer in one byte by the least and the largest value of `calibration`."""
    options: dict[str, Any] = {}
    if PRECISIONS[precision].itemsize == 1:
        x, norm_weight, norm_bias, w1, b1, *_ = calibration
        hidden = F.gelu(F.linear(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, EPS), w1, b1))
        scale = hidden_scale_fp8(hidden.max().item())
        if precision == "int8":
            scale, options["hidden_offset"] = hidden_code(hidden.min().item(), hidden.max().item())
        options["hidden_scale"] = torch.tensor(scale, device=x.device)

    def call(
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        scale1: Tensor | None = None,
        scale2: Tensor | None = None,
    ) -> Tensor:
        block = (x, norm_weight, norm_bias, w1, b1, w2, b2)
        return ops.mlp(*block, eps=EPS, fc1_scale=scale1, fc2_scale=scale2, **options)

    return on_backend(backend, call)


def _weights_in(precision: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What our op takes: the weights of the layers in `precision`; in one byte their scales, too."""
    x, norm_weight, norm_bias, w1, b1, w2, b2 = tensors
    dtype = PRECISIONS[precision]
    if dtype.itemsize == 1:
        (w1, scale1), (w2, scale2) = ops.quantize_rows(w1, dtype), ops.quantize_rows(w2, dtype)
        return [x, norm_weight, norm_bias, w1, b1, w2, b2, scale1, scale2]
    return [x, norm_weight, norm_bias, w1.to(dtype), b1, w2.to(dtype), b2]


CASE = Case(
    name="mlp",
    summary="x + fc2(gelu(fc1(LN(x)))) in each precision",
    axes="rows x C x D",
    shapes={name: (m.rows, m.dim, m.hidden) for name, m in MODELS.items()},
    dtypes=(torch.float32,),
    ours=ours,
    peers=peers,
    problem=problem,
    baselines=PYTORCH,
)
