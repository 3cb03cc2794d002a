"""linear_int8: a linear layer whose product is exact in integers, with its epilogue."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops._linear import BATCHED, SCHEMA, checked, fake
from wxkernels.ops._registration import register
from wxkernels.ops.linear_int8 import cuda, native, reference, triton

OP = backends.Op("linear_int8", {"native": native, "cuda": cuda, "triton": triton, "reference": reference})


def linear_int8(
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
    """y = act(x_scale * weight_scale * (x @ weight.T) + bias) + residual, the product exact in integers.

    x (..., K): floating (its rows are cut to int8 as `quantize_rows` does) or int8 with x_scale, floating, of
    shape x.shape[:-1] or one element. weight int8 (N, K) and weight_scale (N,): the layer's weight is their
    product; int8 values lie in [-127, 127], K <= 131072. bias (N,) floating; activation None, "gelu" (erf) or
    "gelu_tanh"; residual (..., N) floating. The epilogue is float32, float64 where x or residual is.

    Result (..., N): int8, clamp(round_half_even(y / out_scale), -127, 127), where the one-element tensor
    out_scale is given; else out_dtype, or the dtype of residual, or of a floating x, or float32. A row of x
    with a NaN gives NaN, in int8 results 0. Not differentiable. Raises ValueError for an argument of another
    shape, dtype or range.
    """
    return torch.ops.wxkernels.linear_int8(
        *checked(
            torch.int8,
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
