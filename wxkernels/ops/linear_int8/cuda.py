"""The int8 linear layer in CUDA C++ on NVIDIA GPUs: CUTLASS's product, our epilogue on its sums in registers.

sm_90a has a kernel of its own (TMA, wgmma); sm_80 and everything newer run the other (cp.async, mma.sync).
ci/cuda.sh runs the epilogue on the CPU, with the places that the tensor cores give to sums, and looks at the
resources of the compiled kernels. No GPU has run them yet.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels import _native
from wxkernels.ops import _cuda
from wxkernels.ops.linear_int8.native import DTYPES

unavailable = _cuda.unavailable


def unsupported(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
) -> str | None:
    N, K = weight.shape
    if N % 8:
        return f"it writes 8 columns at once, and N is {N}"
    if x.numel() // K >= 2**31 - 256:
        return f"it takes fewer than 2^31 - 256 rows, and x has {x.numel() // K}"
    for name, tensor in {"x": x, "residual": residual}.items():
        if tensor is not None and tensor.dtype not in DTYPES:
            return f"it takes {', '.join(DTYPES.values())}, and {name} is {tensor.dtype}"
    if x.device.type != "cuda":
        return f"x is on {x.device}; it needs a CUDA device"
    return _refusal(x.device.index)


@cache
def _refusal(device: int) -> str | None:
    assert _native.core is not None
    return _native.core.linear_int8_cuda_refusal(device) or None


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
    """The formula of `reference`, on the current stream of x's device; `quantize_rows` cuts floating x.

    Rows of x and residual that lie at multiples of 16 bytes are read where they lie. Where K is no multiple
    of 16, x and weight are copied: zeros behind K add nothing to a product.
    """
    assert _native.core is not None
    N, K = weight.shape
    out = torch.empty(*x.shape[:-1], N, dtype=out_dtype, device=x.device)
    if out.numel() == 0:
        return out
    if x_scale is None:
        x, x_scale = torch.ops.wxkernels.quantize_rows(x)
    rows, weight = (
        F.pad(t, (0, -K % 16)) if K % 16 else _aligned(t) for t in (_native.rows(x), weight.contiguous())
    )
    residual_rows = None if residual is None else _aligned(_native.rows(residual))
    scales = [
        None if t is None else _aligned(t.to(torch.float32).contiguous())
        for t in (weight_scale, bias, x_scale, out_scale)
    ]
    weight_scales, biases, x_scales, out_scales = map(_native.address, scales)
    _native.core.linear_int8_cuda(
        x=rows.data_ptr(),
        x_scale=x_scales,
        x_scale_stride=0 if x_scale.dim() == 0 else 1,
        M=rows.shape[0],
        N=N,
        K=weight.shape[1],
        row_stride=rows.stride(0),
        weight=weight.data_ptr(),
        weight_scale=weight_scales,
        bias=biases,
        activation=activation,
        residual=_native.address(residual_rows),
        residual_dtype="float32" if residual is None else DTYPES[residual.dtype],
        residual_stride=0 if residual_rows is None else residual_rows.stride(0),
        out=out.data_ptr(),
        out_dtype=DTYPES[out_dtype],
        out_scale=out_scales,
        device=x.device.index,
        stream=torch.cuda.current_stream(x.device).cuda_stream,
    )
    return out


def _aligned(t: Tensor) -> Tensor:
    """t, or a copy: contiguous, or rows that do not overlap, at multiples of 16 bytes."""
    apart = t.dim() < 2 or (t.stride(0) >= t.shape[1] and t.stride(0) * t.element_size() % 16 == 0)
    return t if apart and t.data_ptr() % 16 == 0 else t.clone(memory_format=torch.contiguous_format)
