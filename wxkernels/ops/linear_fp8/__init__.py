"""linear_fp8: a linear layer of 8-bit floats (e4m3), with the epilogue of linear_int8."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops._linear import BATCHED, SCHEMA, checked, fake
from wxkernels.ops._registration import register
from wxkernels.ops.linear_fp8 import reference, triton

OP = backends.Op("linear_fp8", {"triton": triton, "reference": reference})


def linear_fp8(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    out_scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """y = act(x_scale * weight_scale * (x @ weight.T) + bias) + residual, x and weight in float8_e4m3fn.

    x (..., K): floating (its rows are cut to e4m3 as `quantize_rows` does) or e4m3 with x_scale, floating, of
    shape x.shape[:-1] or one element. weight e4m3 (N, K) and weight_scale (N,): the layer's weight is their
    product. bias (N,) floating; activation None, "gelu" (erf) or "gelu_tanh"; residual (..., N) floating.
    Products are exact; sums and the epilogue are float32, float64 where x or residual is.

    Result (..., N): e4m3 of y / out_scale, half to even, beyond 448 as 448, where the one-element tensor
    out_scale is given; else out_dtype, or the dtype of residual, or of a floating x, or float32. A row of x
    with a NaN gives NaN. Not differentiable. Raises ValueError for an argument of another shape, dtype or
    range.
    """
    return torch.ops.wxkernels.linear_fp8(
        *checked(
            torch.float8_e4m3fn,
            x,
            weight,
            weight_scale,
            bias,
            x_scale,
            activation,
            residual,
            out_scale,
            out_dtype,
        )
    )


register(OP, SCHEMA, fake, BATCHED)
