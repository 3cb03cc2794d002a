"""int8 rows in C++ on the CPU."""

import torch
from torch import Tensor

from wxkernels import _memory, _native


def unavailable() -> str | None:
    return _native.reason


def unsupported(x: Tensor) -> str | None:
    return _native.unsupported("x", x)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The formula of `reference`; x with unit stride over K and one stride over rows is read in place."""
    assert _native.core is not None
    q = _memory.empty(*x.shape, dtype=torch.int8)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32)
    if q.numel() == 0:
        return q, scale
    rows = _native.rows(x)
    _native.core.quantize_rows(
        x=rows.data_ptr(),
        out=q.data_ptr(),
        scale=scale.data_ptr(),
        dtype=_native.DTYPES[x.dtype],
        rows=rows.shape[0],
        channels=rows.shape[1],
        row_stride=rows.stride(0),
        threads=torch.get_num_threads(),
    )
    return q, scale
