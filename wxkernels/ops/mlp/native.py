"""The MLP of a block in C++ on the CPU: neither LN(x) nor the hidden layer reaches memory as a whole."""

import torch
from torch import Tensor

from wxkernels import _memory, _native


def unavailable() -> str | None:
    return _native.reason


def unsupported(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    fc1_scale: Tensor | None,
    fc2_scale: Tensor | None,
    hidden_scale: Tensor | None,
) -> str | None:
    if fc1_weight.dtype == torch.float8_e4m3fn:
        return "it has no products of e4m3"
    return _native.unsupported("x", x)


def mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    fc1_scale: Tensor | None,
    fc2_scale: Tensor | None,
    hidden_scale: Tensor | None,
    hidden_offset: int,
    eps: float,
    activation: str,
) -> Tensor:
    """The formula of `reference`; x with unit stride over C and one stride over rows is read in place."""
    assert _native.core is not None
    out = _memory.empty(*x.shape, dtype=x.dtype)
    if out.numel() == 0:
        return out
    rows = _native.rows(x)
    fc1_weight, weight_dtype = _native.weight(fc1_weight)
    fc2_weight, _ = _native.weight(fc2_weight)
    norm_weight, norm_bias = norm_weight.to(torch.float32).contiguous(), _native.float32(norm_bias)
    fc1_bias, fc2_bias = _native.float32(fc1_bias), _native.float32(fc2_bias)
    fc1_scale, fc2_scale = _native.float32(fc1_scale), _native.float32(fc2_scale)
    _native.core.mlp(
        x=rows.data_ptr(),
        out=out.data_ptr(),
        dtype=_native.DTYPES[x.dtype],
        rows=rows.shape[0],
        channels=rows.shape[1],
        hidden=fc1_weight.shape[0],
        row_stride=rows.stride(0),
        norm_weight=norm_weight.data_ptr(),
        norm_bias=_native.address(norm_bias),
        eps=eps,
        weight_dtype=weight_dtype,
        fc1_weight=fc1_weight.data_ptr(),
        fc1_scale=_native.address(fc1_scale),
        fc1_bias=_native.address(fc1_bias),
        fc2_weight=fc2_weight.data_ptr(),
        fc2_scale=_native.address(fc2_scale),
        fc2_bias=_native.address(fc2_bias),
        hidden_scale=1.0 if hidden_scale is None else hidden_scale.item(),
        hidden_offset=hidden_offset,
        activation=activation,
        threads=torch.get_num_threads(),
    )
    return out
