"""The patch head in C++ on the CPU: the product is written straight to its place in the fields."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wxkernels import _memory, _native


def unavailable() -> str | None:
    return _native.reason


def unsupported(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    return _native.unsupported("tokens", tokens)


def patch_head(tokens: Tensor, weight: Tensor, bias: Tensor | None, patch_size: Sequence[int]) -> Tensor:
    """The formula of `reference`."""
    assert _native.core is not None
    B, h, w, D = tokens.shape
    p, q = patch_size
    channels = weight.shape[0] // (p * q)
    out = _memory.empty(B, channels, h * p, w * q, dtype=tokens.dtype)
    if out.numel() == 0:
        return out
    tokens = tokens.contiguous()
    weight, weight_dtype = _native.weight(weight)
    bias = _native.float32(bias)
    _native.core.patch_head(
        tokens=tokens.data_ptr(),
        out=out.data_ptr(),
        dtype=_native.DTYPES[tokens.dtype],
        shape=(B, h, w, D),
        patch=(p, q),
        out_chans=channels,
        weight_dtype=weight_dtype,
        weight=weight.data_ptr(),
        bias=_native.address(bias),
        threads=torch.get_num_threads(),
    )
    return out
