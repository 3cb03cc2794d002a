"""The second half of an AFNO block, x + fc2(gelu(fc1(LN(x)))), in each precision."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels import ops
from wxkernels.bench.case import Case, Here, compiled, implementations, on_backend
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

    norm = [1 + normal(C, scale=0.1), normal(C, scale=0.1)]
    fc1 = [normal(D, C, scale=C**-0.5), normal(D, scale=0.1)]
    fc2 = [normal(C, D, scale=D**-0.5), normal(C, scale=0.1)]

    def sample() -> list[Tensor]:
        return [normal(rows, C).to(size.dtype), *norm, *fc1, *fc2]

    calibration = sample()
    variants = []
    for name in names:
        head, _, tail = name.rpartition("-")
        precision = tail if tail in PRECISIONS else "fp32"
        work = _work(rows, C, D, precision)
        if name in PYTORCH:
            build = partial(_plain, size.device, precision == "bf16", name.startswith("compiled"))
            variants.append(Variant(name, build, work, "pytorch"))
        else:
            variants.append(Variant(name, partial(_ours, head, precision, calibration), work))
    return Problem(
        case="mlp",
        op="mlp",
        size=size,
        shape=(rows, C, D),
        sample=sample,
        exact=lambda tensors: _mlp(*(t.double() for t in tensors)),
        variants=variants,
    )


def _work(rows: int, C: int, D: int, precision: str) -> Work:
    dtype = PRECISIONS[precision]
    return Work({dtype: 4.0 * rows * C * D}, 2 * 4 * rows * C + 2 * dtype.itemsize * C * D)


def _mlp(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    n = F.layer_norm(x, (x.shape[-1],), norm_weight, norm_bias, EPS)
    return x + F.linear(F.gelu(F.linear(n, w1, b1)), w2, b2)


def _plain(device: torch.device, bf16: bool, compile: bool) -> Call:
    mlp = compiled(_mlp) if compile else _mlp

    def run(tensors: Sequence[Tensor]) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            return mlp(*tensors)

    return run


def _ours(backend: str, precision: str, tensors: Sequence[Tensor]) -> Call:
    """Our op on weights in `precision`; the hidden layer in one byte by its least and largest value."""
    x, norm_weight, norm_bias, w1, b1, w2, b2 = tensors
    scales: dict[str, Any] = {}
    dtype = PRECISIONS[precision]
    if dtype.itemsize == 1:
        n = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, EPS)
        hidden = F.gelu(F.linear(n, w1, b1))
        scale = hidden_scale_fp8(hidden.max().item())
        if precision == "int8":
            scale, scales["hidden_offset"] = hidden_code(hidden.min().item(), hidden.max().item())
        scales["hidden_scale"] = torch.tensor(scale, device=x.device)
        w1, scales["fc1_scale"] = ops.quantize_rows(w1, dtype)
        w2, scales["fc2_scale"] = ops.quantize_rows(w2, dtype)
    else:
        w1, w2 = (w.to(dtype) for w in (w1, w2))

    def call(x: Tensor, *others: Tensor) -> Tensor:
        return ops.mlp(x, norm_weight, norm_bias, w1, b1, w2, b2, eps=EPS, **scales)

    return on_backend(backend, call)


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
