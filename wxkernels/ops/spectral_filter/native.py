"""The spectral filter in C++ on the CPU: fused over channel blocks, only the kept columns computed."""

import torch
from torch import Tensor

from wxkernels import _memory, _native
from wxkernels.ops.spectral_filter.reference import kept_modes


def unavailable() -> str | None:
    return _native.reason


def unsupported(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
) -> str | None:
    return _native.unsupported("x", x)


def spectral_filter(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    sparsity_threshold: float,
    hard_thresholding_fraction: float,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """The formula of `reference`; float32 inside; products in bfloat16 where x or w1 and the CPU have it.

    x (B, H, W, C) float32, bfloat16 or float16 on the CPU. With unit stride over C it is read where it lies.
    """
    assert _native.core is not None
    B, H, W, C = x.shape
    out = _memory.empty(*x.shape, dtype=x.dtype)
    if out.numel() == 0:
        return out
    if x.stride(3) != 1 and C > 1:
        x = x.contiguous()
    bf16 = torch.bfloat16 in (x.dtype, w1.dtype)
    norm_weight, norm_bias = _native.float32(norm_weight), _native.float32(norm_bias)
    w1, b1, w2, b2 = (p.to(torch.float32).contiguous() for p in (w1, b1, w2, b2))
    _native.core.spectral_filter(
        x=x.data_ptr(),
        out=out.data_ptr(),
        dtype=_native.DTYPES[x.dtype],
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
        norm_weight=_native.address(norm_weight),
        norm_bias=_native.address(norm_bias),
        eps=eps,
        bf16=bf16,
        threads=torch.get_num_threads(),
    )
    return out
