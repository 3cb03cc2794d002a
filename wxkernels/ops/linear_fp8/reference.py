"""The specification of the e4m3 linear layer in plain PyTorch. Every other backend is held to it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels.ops._linear.reference import epilogue, epilogue_dtype
from wxkernels.ops.quantize_rows.reference import quantize_rows_fp8, quantized


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


def linear_fp8(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
    activation: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """y = act(x_scale * weight_scale * (x @ weight.T) + bias) + residual.

    Floating x (..., K) is cut to e4m3 by `quantize_rows_fp8` first, which gives its x_scale. With out_scale
    and out_dtype e4m3 the result is that of y / out_scale, beyond 448 as 448. Products, which have eight bits
    and are exact, are summed in float32 as the epilogue is computed, or in float64 where x, residual or the
    result has it.
    """
    dtype = epilogue_dtype(x, residual, out_dtype)
    if x_scale is None:
        x, x_scale = quantize_rows_fp8(x)
    y = epilogue(F.linear(x.to(dtype), weight.to(dtype)), x_scale, weight_scale, bias, activation, residual)
    if out_scale is not None:
        return quantized(y / out_scale.to(dtype), torch.float8_e4m3fn).contiguous()
    return y.to(out_dtype).contiguous()
