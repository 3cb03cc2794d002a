"""The layer norm in C++ on the CPU: x is read once."""

import torch
from torch import Tensor

from wxkernels import _memory, _native


def unavailable() -> str | None:
    return _native.reason


def unsupported(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    return _native.unsupported("x", x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The formula of `reference`; x with unit stride over C and one stride over rows is read in place."""
    out = _memory.empty(*x.shape, dtype=x.dtype)
    _run(x, out, None, weight, bias, eps)
    return out


def layer_norm_int8(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Norm and rounding in one pass."""
    q = _memory.empty(*x.shape, dtype=torch.int8)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32)
    _run(x, q, scale, weight, bias, eps)
    return q, scale


def _run(
    x: Tensor, out: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> None:
    assert _native.core is not None
    if out.numel() == 0:
        return
    rows = _native.rows(x)
    weight, bias = weight.to(torch.float32).contiguous(), _native.float32(bias)
    _native.core.layer_norm(
        x=rows.data_ptr(),
        out=out.data_ptr(),
        scale=_native.address(scale),
        dtype=_native.DTYPES[x.dtype],
        rows=rows.shape[0],
        channels=rows.shape[1],
        row_stride=rows.stride(0),
        weight=weight.data_ptr(),
        bias=_native.address(bias),
        eps=eps,
        threads=torch.get_num_threads(),
    )
