"""The int8 linear layer in C++ on the CPU: the int32 product never reaches memory."""

import torch
from torch import Tensor

from wxkernels import _memory, _native

DTYPES = {**_native.DTYPES, torch.int8: "int8"}


def unavailable() -> str | None:
    return _native.reason


def unsupported(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
) -> str | None:
    if x.dtype != torch.int8 and (reason := _native.unsupported("x", x)):
        return reason
    if residual is not None and (reason := _native.unsupported("residual", residual)):
        return reason
    return None if x.device.type == "cpu" else f"it runs on the CPU, and x is on {x.device}"


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
) -> Tensor:
    """The formula of `reference`; x with unit stride over K and one stride over rows is read in place."""
    assert _native.core is not None
    N, K = weight.shape
    out = _memory.empty(*x.shape[:-1], N, dtype=out_dtype)
    if out.numel() == 0:
        return out
    rows, weight = _native.rows(x), weight.contiguous()
    residual_rows = None if residual is None else _native.rows(residual)
    weight_scale = weight_scale.to(torch.float32).contiguous()
    bias, x_scale = _native.float32(bias), _native.float32(x_scale)
    _native.core.linear_int8(
        x=rows.data_ptr(),
        x_dtype=DTYPES[x.dtype],
        x_scale=_native.address(x_scale),
        x_scale_stride=0 if x_scale is None or x_scale.dim() == 0 else 1,
        M=rows.shape[0],
        N=N,
        K=K,
        row_stride=rows.stride(0),
        weight=weight.data_ptr(),
        weight_scale=weight_scale.data_ptr(),
        bias=_native.address(bias),
        activation=activation,
        residual=_native.address(residual_rows),
        residual_dtype="float32" if residual is None else DTYPES[residual.dtype],
        residual_stride=0 if residual_rows is None else residual_rows.stride(0),
        out=out.data_ptr(),
        out_dtype=DTYPES[out_dtype],
        out_scale=1.0 if out_scale is None else out_scale.item(),
        threads=torch.get_num_threads(),
    )
    return out
