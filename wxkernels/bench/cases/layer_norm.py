"""Layer norm over channels, in the dtype of its input and quantised to int8 rows."""

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
from wxkernels.ops.layer_norm import OP, OP_INT8, reference

EPS = 1e-6


def ours(quantize: bool, device: torch.device) -> Here:
    probe = [torch.zeros(shape, device=device) for shape in ((1, 2), (2,), (2,))]
    return implementations(OP_INT8 if quantize else OP, *probe)


def peers(device: torch.device) -> Here:
    return {"eager": None, "compiled": None}


def problem(quantize: bool, size: Size, names: Sequence[str]) -> Problem:
    rows, C = size.batch * size.shape[0], size.shape[1]
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(C, generator=generator).to(size.device) for _ in range(2))

    def sample() -> list[Tensor]:
        x = torch.randn(rows, C, generator=generator).to(size.device, size.dtype)
        return [x, weight.clone(), bias.clone()]

    out = rows * (C + 4) if quantize else rows * C * size.dtype.itemsize
    # Per element: mean, variance, scaling (8) and, in int8, the largest, the division, the rounding (3).
    flops = (11.0 if quantize else 8.0) * rows * C
    work = Work({torch.float32: flops}, rows * C * size.dtype.itemsize + out + weight.nbytes + bias.nbytes)
    finish = _dequantised if quantize else _as_it_is
    variants = []
    for name in names:
        if name in ("eager", "compiled"):
            build = partial(_plain, quantize, compile=name == "compiled")
            variants.append(Variant(name, build, work, "pytorch", finish))
        else:
            call = partial(ops.layer_norm, eps=EPS, quantize=quantize)
            variants.append(Variant(name, partial(on_backend, name, call), work, "ours", finish))
    return Problem(
        case="layer_norm_int8" if quantize else "layer_norm",
        op="layer_norm",
        size=size,
        shape=(rows, C),
        sample=sample,
        exact=_exact,
        variants=variants,
    )


def _plain(quantize: bool, *, compile: bool) -> Call:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        x = x.float() if quantize else x
        y = F.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), EPS)
        return _quantised(y) if quantize else y

    layer = compiled(run) if compile else run
    return lambda tensors: layer(*tensors)


def _quantised(y: Tensor) -> tuple[Tensor, Tensor]:
    """int8 rows in plain PyTorch: what a dynamic quantisation composes."""
    scale = y.abs().amax(-1) / 127
    return (y / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale


def _dequantised(result: Any, inputs: Sequence[Tensor]) -> Tensor:
    q, scale = result
    return q.float() * scale[..., None]


def _exact(tensors: Sequence[Tensor]) -> Tensor:
    x, weight, bias = (t.double() for t in tensors)
    return reference.layer_norm(x, weight, bias, EPS)


def _as_it_is(result: Any, inputs: Sequence[Tensor]) -> Tensor:
    return result


def _case(quantize: bool) -> Case:
    return Case(
        name="layer_norm_int8" if quantize else "layer_norm",
        summary="layer norm quantised to int8 rows" if quantize else "layer norm in the dtype of its input",
        axes="rows x C",
        shapes={name: (m.rows, m.dim) for name, m in MODELS.items()},
        dtypes=(torch.float32, torch.bfloat16),
        ours=partial(ours, quantize),
        peers=peers,
        problem=partial(problem, quantize),
    )


CASE, CASE_INT8 = _case(False), _case(True)
