"""layer_norm: over the last dimension, with int8 rows as an option."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops import _checks
from wxkernels.ops._registration import register
from wxkernels.ops.layer_norm import native, reference, triton

IMPLEMENTATIONS = {"native": native, "triton": triton, "reference": reference}
OP = backends.Op("layer_norm", IMPLEMENTATIONS)
OP_INT8 = backends.Op("layer_norm_int8", IMPLEMENTATIONS, "layer_norm")


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float = 1e-6, quantize: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension.

    x (..., C), any floating dtype and strides; weight and bias (C,) floating, bias may be None. Sums are
    float32 (float64 for float64). Result: y in x's shape and dtype; with `quantize` the pair (q, scale) that
    `quantize_rows` makes of y before it is rounded to x's dtype: int8 of x's shape, float32 x.shape[:-1].
    Gradients are those of the reference; (q, scale) have none. Raises ValueError for an argument of another
    shape, dtype or range. Source: Ba, Kiros, Hinton 2016 (arXiv 1607.06450).
    """
    _checks.rows("x", x, "C")
    _checks.norm(x, weight=weight, bias=bias, eps=eps)
    _checks.floating(x=x)
    op = torch.ops.wxkernels.layer_norm_int8 if quantize else torch.ops.wxkernels.layer_norm
    return op(x, weight, bias, eps)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _fake_int8(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    return q, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


register(OP, "(Tensor x, Tensor weight, Tensor? bias, float eps) -> Tensor", _fake)
register(OP_INT8, "(Tensor x, Tensor weight, Tensor? bias, float eps) -> (Tensor, Tensor)", _fake_int8)
