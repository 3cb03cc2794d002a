"""The specification of the layer norm in plain PyTorch. Every other backend is held to it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels.ops._reference import sum_dtype
from wxkernels.ops.quantize_rows.reference import quantized_rows


def unavailable() -> str | None:
    return None


def unsupported(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    return None


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension; var is the biased variance.

    Differentiable; float64 stays float64, other dtypes compute in float32 and y is rounded to x's dtype.
    x (..., C), weight and bias (C,). Source: Ba, Kiros, Hinton 2016 (arXiv 1607.06450).
    """
    return normalized(x, weight, bias, eps).to(x.dtype).contiguous()


def layer_norm_int8(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of the same y before it is rounded to x's dtype: q int8 like x, scale x.shape[:-1]."""
    return layer_norm_rows(x, weight, bias, eps, torch.int8)


def layer_norm_rows(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The same in int8 or e4m3."""
    q, scale = quantized_rows(normalized(x, weight, bias, eps), dtype)
    return q.contiguous(), scale.contiguous()


def normalized(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The layer norm of x in the dtype of sums."""
    dtype = sum_dtype(x)
    bias = None if bias is None else bias.to(dtype)
    return F.layer_norm(x.to(dtype), x.shape[-1:], weight.to(dtype), bias, eps)
