"""What the quantised linear layers share: their arguments and schema."""

import torch
from torch import Tensor

from wxkernels.ops import _checks

#: Products of at most this many terms fit int32: 131072 * 127 * 127 < 2^31.
MAX_K = 131072

SCHEMA = (
    "(Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor? x_scale, Tensor? residual,"
    " Tensor? out_scale, str activation, ScalarType out_dtype) -> Tensor"
)
BATCHED = ("x", "x_scale", "residual")
_NAMES = {torch.int8: "int8", torch.float8_e4m3fn: "float8_e4m3fn"}


def checked(
    dtype: torch.dtype,
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
    out_dtype: torch.dtype | None,
) -> tuple[
    Tensor,
    Tensor,
    Tensor,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    str,
    torch.dtype,
]:
    """The arguments of SCHEMA; ValueError as `ops.linear_int8` says, with `dtype` in the place of int8."""
    _checks.rows("x", x, "K")
    K = x.shape[-1]
    if dtype == torch.int8 and K > MAX_K:
        raise ValueError(f"x: expected K <= {MAX_K}, above which sums pass 32 bits, got {K}")
    name = _NAMES[dtype]
    if weight.dtype != dtype:
        raise ValueError(f"weight: expected {name}, got {weight.dtype}")
    if weight.dim() != 2 or weight.shape[1] != K:
        raise ValueError(f"weight: expected (N, {K}) for x (..., {K}), got shape {tuple(weight.shape)}")
    N = weight.shape[0]
    _checks.shape("weight_scale", weight_scale, (N,), "from weight")
    if bias is not None:
        _checks.shape("bias", bias, (N,), "from weight")
    if x.dtype == dtype:
        if x_scale is None:
            raise ValueError(f"x_scale: expected a scale for {name} x, got None")
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
        if out_dtype not in (None, dtype):
            raise ValueError(f"out_dtype: expected None or {name} with out_scale, got {out_dtype}")
        out_dtype = dtype
    elif out_dtype is None:
        source = x if residual is None else residual
        out_dtype = torch.float32 if source.dtype == dtype else source.dtype
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
    return (
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


def fake(
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
