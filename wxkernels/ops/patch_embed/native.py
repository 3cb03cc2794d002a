"""The patch embedding in C++ on the CPU: patches are gathered as the product reads them."""

import torch
from torch import Tensor

from wxkernels import _memory, _native

POS_DTYPES = {**_native.DTYPES, torch.int8: "int8"}


def unavailable() -> str | None:
    return _native.reason


def unsupported(
    x: Tensor, weight: Tensor, bias: Tensor | None, pos_embed: Tensor | None, pos_scale: Tensor | None
) -> str | None:
    return _native.unsupported("x", x)


def patch_embed(
    x: Tensor, weight: Tensor, bias: Tensor | None, pos_embed: Tensor | None, pos_scale: Tensor | None
) -> Tensor:
    """The formula of `reference`."""
    assert _native.core is not None
    B, C, H, W = x.shape
    D, _, p, q = weight.shape
    out = _memory.empty(B, H // p, W // q, D, dtype=x.dtype)
    if out.numel() == 0:
        return out
    x = x.contiguous()
    weight, weight_dtype = _native.weight(weight)
    if pos_embed is not None:
        pos_embed = (pos_embed if pos_embed.dtype in POS_DTYPES else pos_embed.to(torch.float32)).contiguous()
    bias, pos_scale = _native.float32(bias), _native.float32(pos_scale)
    _native.core.patch_embed(
        x=x.data_ptr(),
        out=out.data_ptr(),
        dtype=_native.DTYPES[x.dtype],
        shape=(B, C, H, W),
        patch=(p, q),
        dim=D,
        weight_dtype=weight_dtype,
        weight=weight.data_ptr(),
        bias=_native.address(bias),
        pos=_native.address(pos_embed),
        pos_dtype="float32" if pos_embed is None else POS_DTYPES[pos_embed.dtype],
        pos_scale=_native.address(pos_scale),
        threads=torch.get_num_threads(),
    )
    return out
