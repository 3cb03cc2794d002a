"""Triton kernel of int8 and e4m3 rows, and what others share of it. Imports triton at the top."""

import triton
import triton.language as tl


@triton.jit
def quantize_rows(
    x,  # (M, K), last stride 1, row stride x_stride
    q,  # (M, K) int8 or e4m3, contiguous
    scale,  # (M,) float32
    M,
    K,
    x_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """BLOCK_M rows; BLOCK_K covers K, so that x is read once."""
    m0 = tl.program_id(0) * BLOCK_M
    m, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    inside_m = m < M - m0
    inside = inside_m[:, None] & (k < K)[None, :]
    x += m0.to(tl.int64) * x_stride
    tile = tl.load(x + m[:, None] * x_stride + k[None, :], mask=inside, other=0.0).to(tl.float32)
    tile, row_scale = quantized_rows(tile, q.dtype.element_ty)
    tl.store(q + m0.to(tl.int64) * K + m[:, None] * K + k[None, :], tile, mask=inside)
    tl.store(scale + m0 + m, row_scale, mask=inside_m)


@triton.jit
def quantized_rows(y, dtype: tl.constexpr):
    """(q, scale) of each row of y, float32 and zero beyond its end, as the reference of quantize_rows."""
    largest: tl.constexpr = 127.0 if dtype == tl.int8 else 448.0
    magnitude = tl.abs(y)
    # A maximum drops a NaN but keeps an infinity; either makes the scale NaN.
    amax = tl.max(tl.where(magnitude < float("inf"), magnitude, float("inf")), axis=1)
    scale = tl.div_rn(amax, largest)
    scale = tl.where(scale == 0.0, 1.0, tl.where(scale < float("inf"), scale, float("nan")))
    return quantized(tl.div_rn(y, scale[:, None]), dtype), scale


@triton.jit
def quantized(y, dtype: tl.constexpr):
    """Float32 y in int8 or e4m3."""
    if dtype == tl.int8:
        q = to_int8(y)
    else:
        # NaN stays one; the cast of a larger number would be one too, or not, by the target.
        y = tl.clamp(y, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
        q = y.to(dtype)
    return q


@triton.jit
def to_int8(y):
    """clamp(round_half_even(y), -127, 127), and 0 for a NaN."""
    y = tl.clamp(tl.where(y == y, y, 0.0), -127.0, 127.0)
    # At 1.5 * 2^23 float32 counts in ones: the sum is rounded half to even, its low byte is the integer.
    return (y + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
