"""Triton kernel of a floating linear layer. Imports triton at the top: import it only where it is used."""

import triton
import triton.language as tl

from wxkernels.ops.linear_int8.triton_kernels import gelu, gelu_tanh


@triton.jit
def linear(
    x,  # (M, K), last stride 1, row stride x_stride
    weight,  # (N, K), contiguous
    bias,  # (N,) float32, or None
    residual,  # (M, N), last stride 1, row stride r_stride, or None
    y,  # (M, N), contiguous
    M,
    N,
    K,
    x_stride,
    r_stride,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of y = act(x @ weight.T + bias) + residual, float32 from the sums to the rounding."""
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    # Tiles of the same rows of x run next to each other, so that L2 serves all but the first.
    m0, n0 = (pid // tiles_n) * BLOCK_M, (pid % tiles_n) * BLOCK_N
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    inside_m, inside_n = m < M - m0, n < N - n0
    x += m0.to(tl.int64) * x_stride
    weight += n0.to(tl.int64) * K

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        inside_k = (k0 + k) < K
        at = x + m[:, None] * x_stride + (k0 + k)[None, :]
        x_tile = tl.load(at, mask=inside_m[:, None] & inside_k[None, :], other=0.0)
        at = weight + n[None, :] * K + (k0 + k)[:, None]
        w_tile = tl.load(at, mask=inside_k[:, None] & inside_n[None, :], other=0.0)
        acc = tl.dot(x_tile.to(w_tile.dtype), w_tile, acc, input_precision=PRECISION)

    if residual is not None:
        residual += m0.to(tl.int64) * r_stride
    y += m0.to(tl.int64) * N
    # Half of the columns at a time: the numbers in flight then leave registers for a second program.
    halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
    for half in tl.static_range(2):
        n = n0 + half * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        inside_n = n < N
        inside = inside_m[:, None] & inside_n[None, :]
        z = halves[half]
        if bias is not None:
            z += tl.load(bias + n, mask=inside_n, other=0.0)[None, :]
        if ACTIVATION == "gelu":
            z = gelu(z)
        elif ACTIVATION == "gelu_tanh":
            z = gelu_tanh(z)
        if residual is not None:
            at = residual + m[:, None] * r_stride + n[None, :]
            z += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + m[:, None] * N + n[None, :], z.to(y.dtype.element_ty), mask=inside)
