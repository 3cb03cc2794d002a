"""linear_int8: a linear layer whose product is exact in integers, with its epilogue."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops import _checks
from wxkernels.ops._registration import register
from wxkernels.ops.linear_int8 import cuda, native, reference, triton

#: Products of at most this many terms fit int32: 131072 * 127 * 127 < 2^31.
MAX_K = 131072

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
    _checks.rows("x", x, "K")
    K = x.shape[-1]
    if K > MAX_K:
        raise ValueError(f"x: expected K <= {MAX_K}, above which sums pass 32 bits, got {K}")
    if weight.dtype != torch.int8:
        raise ValueError(f"weight: expected int8, got {weight.dtype}")
    if weight.dim() != 2 or weight.shape[1] != K:
        raise ValueError(f"weight: expected (N, {K}) for x (..., {K}), got shape {tuple(weight.shape)}")
    N = weight.shape[0]
    _checks.shape("weight_scale", weight_scale, (N,), "from weight")
    if bias is not None:
        _checks.shape("bias", bias, (N,), "from weight")
    if x.dtype == torch.int8:
        if x_scale is None:
            raise ValueError("x_scale: expected a scale for int8 x, got None")
        if x_scale.numel() == 1:
            x_scale = x_scale.reshape(())
        else:
            _checks.shape("x_scale", x_scale, x.shape[:-1], "from x, or one element")
    else:
        _checks.floating(x=x)
        if x_scale is not None:
            raise ValueError(f"x_scale: expected None for {x.dtype} x, which is scaled here, got a tensor")
    if residual is not None:
        _checks.shape("residual", residual, (*x.shape[:-1], N), "from x and weight")
    if out_scale is not None:
        if out_scale.numel() != 1:
            raise ValueError(f"out_scale: expected one element, got shape {tuple(out_scale.shape)}")
        if out_dtype not in (None, torch.int8):
            raise ValueError(f"out_dtype: expected None or int8 with out_scale, got {out_dtype}")
        out_dtype = torch.int8
    elif out_dtype is None:
        source = x if residual is None else residual
        out_dtype = source.dtype if source.is_floating_point() else torch.float32
    elif out_dtype not in (torch.float32, torch.bfloat16, torch.float16) and not (
        out_dtype == torch.float64 in (x.dtype, None if residual is None else residual.dtype)
    ):
        raise ValueError(
            "out_dtype: expected float32, bfloat16 or float16 (float64 only with a float64 x or residual)"
            f" without out_scale, got {out_dtype}"
        )
    _checks.floating(
        weight_scale=weight_scale, bias=bias, x_scale=x_scale, residual=residual, out_scale=out_scale
    )
    _checks.device_of_first(
        x=x,
        weight=weight,
        weight_scale=weight_scale,
        bias=bias,
        x_scale=x_scale,
        residual=residual,
        out_scale=out_scale,
    )
    return torch.ops.wxkernels.linear_int8(
        x,
        weight,
        weight_scale,
        bias,
        x_scale,
        residual,
        out_scale,
        _checks.activation(activation),
        out_dtype,
    )


def _fake(
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
    return torch.empty(*x.shape[:-1], weight.shape[0], dtype=out_dtype, device=x.device)


register(
    OP,
    "(Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor? x_scale, Tensor? residual,"
    " Tensor? out_scale, str activation, ScalarType out_dtype) -> Tensor",
    _fake,
    batched=("x", "x_scale", "residual"),
)
