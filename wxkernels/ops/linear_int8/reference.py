"""The specification of the int8 linear layer in plain PyTorch. Every other backend is held to it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels.ops._linear.reference import epilogue, epilogue_dtype
from wxkernels.ops.quantize_rows.reference import quantize_rows, to_int8

#: Terms of a product whose sum is exact in float32: 1024 * 128 * 128 = 2^24.
EXACT_TERMS = 1024


def unavailable() -> str | None:
    return None


def unsupported(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
) -> str | None:
    return None


def linear_int8(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
    activation: str,
    out_dtype: torch.dtype,
    x_offset: int = 0,
    out_offset: int = 0,
) -> Tensor:
    """y = act(x_scale * weight_scale * (x @ weight.T) + bias) + residual; the product is exact in integers.

    Floating x (..., K) is cut to int8 by `quantize_rows` first, which gives its x_scale. With out_scale and
    out_dtype int8 the result is clamp(round_half_even(y / out_scale), -127, 127), and 0 where y is NaN. The
    epilogue runs in float32, or in float64 where x, residual or the result has it.
    Offsets, which the op has none of and the MLP has: x - x_offset in the place of x, y / out_scale +
    out_offset in that of y / out_scale.
    """
    dtype = epilogue_dtype(x, residual, out_dtype)
    if x_scale is None:
        x, x_scale = quantize_rows(x)
    total = product(x, weight)
    if x_offset != 0:
        total = total - x_offset * weight.sum(-1, dtype=torch.int32)
    y = epilogue(total.to(dtype), x_scale, weight_scale, bias, activation, residual)
    if out_scale is not None:
        return to_int8(y / out_scale.to(dtype) + out_offset).contiguous()
    return y.to(out_dtype).contiguous()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T as int32, exact: x (..., K), weight (N, K), int8, K <= 131072.

    Integers of eight bits are exact in every floating dtype, and their sums in float32 up to EXACT_TERMS.
    """
    total = torch.zeros(*x.shape[:-1], len(weight), dtype=torch.int32, device=x.device)
    for a, b in zip(x.split(EXACT_TERMS, -1), weight.split(EXACT_TERMS, -1), strict=True):
        total += F.linear(a.float(), b.float()).to(torch.int32)
    return total
