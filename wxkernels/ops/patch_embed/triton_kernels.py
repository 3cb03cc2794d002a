"""Triton kernel of the patch embedding. Imports triton at the top: import it only where it is used."""

import triton
import triton.language as tl


@triton.jit
def patch_embed(
    x,  # (B, C, h P, w Q), last stride 1
    weight,  # (N, C P Q), contiguous
    bias,  # (N,) float32, or None
    pos,  # (h w, N), contiguous, or None
    pos_scale,  # (h w,) float32 where pos is int8, else None
    y,  # (B, h w, N), contiguous
    h,
    w,
    N,
    K,
    x_stride_b,
    x_stride_c,
    x_stride_h,
    P: tl.constexpr,
    Q: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Channels of tokens of one sample: patches are gathered as the product reads them, sums are float32."""
    tokens = h * w
    tiles_m, tiles_n = tl.cdiv(tokens, BLOCK_M), tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    # Tiles of the same patches run next to each other, so that L2 serves all but the first.
    tile_n, pid = pid % tiles_n, pid // tiles_n
    tile_m, sample = pid % tiles_m, (pid // tiles_m).to(tl.int64)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_m, inside_n = m < tokens, n < N
    x += sample * x_stride_b
    corner = (m // w) * (P * x_stride_h) + (m % w) * Q

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        inside_k = k < K
        point = k // (P * Q) * x_stride_c + k // Q % P * x_stride_h + k % Q
        at = x + corner[:, None] + point[None, :]
        x_tile = tl.load(at, mask=inside_m[:, None] & inside_k[None, :], other=0.0)
        at = weight + n[None, :] * K + k[:, None]
        w_tile = tl.load(at, mask=inside_k[:, None] & inside_n[None, :], other=0.0)
        acc = tl.dot(x_tile.to(w_tile.dtype), w_tile, acc, input_precision=PRECISION)

    if pos_scale is not None:
        row_scale = tl.load(pos_scale + m, mask=inside_m, other=0.0)
    y += sample * tokens * N
    # Half of the columns at a time: the numbers in flight then leave registers for a second program.
    halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
    for half in tl.static_range(2):
        n = tile_n * BLOCK_N + half * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        inside_n = n < N
        inside = inside_m[:, None] & inside_n[None, :]
        at = m[:, None] * N + n[None, :]
        z = halves[half]
        if bias is not None:
            z += tl.load(bias + n, mask=inside_n, other=0.0)[None, :]
        if pos is not None:
            position = tl.load(pos + at, mask=inside, other=0).to(tl.float32)
            if pos_scale is not None:
                # fma by name: what the compiler fuses could depend on the tile.
                z = tl.fma(position, row_scale[:, None], z)
            else:
                z += position
        tl.store(y + at, z.to(y.dtype.element_ty), mask=inside)
