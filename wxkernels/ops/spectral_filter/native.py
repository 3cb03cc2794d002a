"""The spectral filter in C++ on the CPU: fused over channel blocks, only the kept columns computed."""

import torch
from torch import Tensor

from wxkernels import _native
from wxkernels.ops.spectral_filter.reference import kept_modes

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def unavailable() -> str | None:
    return _native.reason


def unsupported(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> str | None:
    if x.device.type != "cpu":
        return f"it runs on the CPU, and x is on {x.device}"
    if x.dtype not in _DTYPES:
        return f"it takes {', '.join(_DTYPES.values())}, and x is {str(x.dtype).removeprefix('torch.')}"
    return None


def spectral_filter(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    sparsity_threshold: float,
    hard_thresholding_fraction: float,
) -> Tensor:
    """The formula of `reference`; float32 inside; products in bfloat16 where x and the CPU have it.

    x (B, H, W, C) float32, bfloat16 or float16 on the CPU. With unit stride over C it is read where it lies.
    """
    assert _native.core is not None
    B, H, W, C = x.shape
    out = torch.empty(x.shape, dtype=x.dtype)
    if out.numel() == 0:
        return out
    if x.stride(3) != 1 and C > 1:
        x = x.contiguous()
    w1, b1, w2, b2 = (p.to(torch.float32).contiguous() for p in (w1, b1, w2, b2))
    _native.core.spectral_filter(
        x=x.data_ptr(),
        out=out.data_ptr(),
        dtype=_DTYPES[x.dtype],
        shape=(B, H, W, C),
        strides=x.stride(),
        blocks=w1.shape[1],
        hidden_size=w1.shape[3],
        w1=w1.data_ptr(),
        b1=b1.data_ptr(),
        w2=w2.data_ptr(),
        b2=b2.data_ptr(),
        threshold=sparsity_threshold,
        kept=kept_modes(H, W, hard_thresholding_fraction),
        threads=torch.get_num_threads(),
    )
    return out
