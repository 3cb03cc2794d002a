"""Triton kernel of the patch head. Imports triton at the top: import it only where it is used."""

import triton
import triton.language as tl


@triton.jit
def patch_head(
    x,  # (B, h w, K), last stride 1, row stride x_stride
    weight,  # (P Q C, K), contiguous
    bias,  # (P Q C,) float32, or None
    y,  # (B, C, h P, w Q), contiguous
    h,
    w,
    N,
    K,
    x_stride,
    P: tl.constexpr,
    Q: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Points of tokens of one sample, written where they belong in the fields; sums are float32.

    Columns are taken in the order (channel, row, column of the patch): neighbours in it, and the patches of
    neighbouring tokens, are neighbours in a row of a field.
    """
    tokens = h * w
    tiles_m, tiles_n = tl.cdiv(tokens, BLOCK_M), tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    # Tiles of the same tokens run next to each other, so that L2 serves all but the first.
    tile_n, pid = pid % tiles_n, pid // tiles_n
    tile_m, sample = pid % tiles_m, (pid // tiles_m).to(tl.int64)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    inside_m, inside_n = m < tokens, n < N
    fields = N // (P * Q)
    row = n % (P * Q) * fields + n // (P * Q)  # of weight
    x += (sample * tokens + tile_m * BLOCK_M) * x_stride

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        inside_k = (k0 + k) < K
        at = x + tl.arange(0, BLOCK_M)[:, None] * x_stride + (k0 + k)[None, :]
        x_tile = tl.load(at, mask=inside_m[:, None] & inside_k[None, :], other=0.0)
        at = weight + row[None, :] * K + (k0 + k)[:, None]
        w_tile = tl.load(at, mask=inside_k[:, None] & inside_n[None, :], other=0.0)
        acc = tl.dot(x_tile.to(w_tile.dtype), w_tile, acc, input_precision=PRECISION)

    y += sample * tokens * N
    corner = (m // w) * (P * w * Q) + (m % w) * Q
    # Half of the columns at a time: the numbers in flight then leave registers for a second program.
    halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
    for half in tl.static_range(2):
        n = tile_n * BLOCK_N + half * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        inside_n = n < N
        channel, point = n // (P * Q), n % (P * Q)
        z = halves[half]
        if bias is not None:
            z += tl.load(bias + point * fields + channel, mask=inside_n, other=0.0)[None, :]
        place = channel * (tokens * P * Q) + point // Q * (w * Q) + point % Q
        at = y + corner[:, None] + place[None, :]
        tl.store(at, z.to(y.dtype.element_ty), mask=inside_m[:, None] & inside_n[None, :])
