"""Triton kernel of the layer norm. Imports triton at the top: import this module only where it is used."""

import triton
import triton.language as tl

from wxkernels.ops.quantize_rows.triton_kernels import quantized_rows


@triton.jit
def layer_norm(
    x,  # (M, C), last stride 1, row stride x_stride
    weight,  # (C,) float32
    bias,  # (C,) float32, or None
    y,  # (M, C), contiguous; int8 or e4m3 where there is a scale
    scale,  # (M,) float32, or None
    eps,
    M,
    C,
    x_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """BLOCK_M rows; BLOCK_C covers C, so that x is read once. Mean first, then the variance about it."""
    m0 = tl.program_id(0) * BLOCK_M
    m, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    inside_m, inside_c = m < M - m0, c < C
    inside = inside_m[:, None] & inside_c[None, :]
    x += m0.to(tl.int64) * x_stride
    tile = tl.load(x + m[:, None] * x_stride + c[None, :], mask=inside, other=0.0).to(tl.float32)
    tile = tl.where(inside, tile - (tl.sum(tile, axis=1) / C)[:, None], 0.0)
    deviation = tl.sqrt_rn(tl.sum(tile * tile, axis=1) / C + eps)
    tile *= tl.div_rn(1.0, deviation)[:, None]
    tile *= tl.load(weight + c[None, :], mask=inside_c[None, :], other=0.0)
    if bias is not None:
        tile += tl.load(bias + c[None, :], mask=inside_c[None, :], other=0.0)
    if scale is not None:
        tile, row_scale = quantized_rows(tile, y.dtype.element_ty)
        tl.store(scale + m0 + m, row_scale, mask=inside_m)
    y += m0.to(tl.int64) * C
    tl.store(y + m[:, None] * C + c[None, :], tile.to(y.dtype.element_ty), mask=inside)
