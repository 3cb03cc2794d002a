"""Triton kernel of a linear layer in floats, int8 or e4m3. Imports triton at the top."""

import triton
import triton.language as tl

from wxkernels.ops.quantize_rows.triton_kernels import quantized


@triton.jit
def linear(
    x,  # (M, K), last stride 1, row stride x_stride
    x_scale,  # (M,) float32, or one for all where x_scale_stride is 0; None where x is no int8 or e4m3
    weight,  # (N, K), contiguous
    weight_scale,  # (N,) float32 where there is an x_scale, else None
    bias,  # (N,) float32, or None
    residual,  # (M, N), last stride 1, row stride r_stride, or None
    out_scale,  # one float32 where y is int8 or e4m3, else None
    start,  # (N,) int32 that int8 sums begin with, or None
    out_offset,  # what int8 y is shifted by, float32
    y,  # (M, N), contiguous
    M,
    N,
    K,
    x_stride,
    x_scale_stride,
    r_stride,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of y = act(x_scale * weight_scale * (x @ weight.T) + bias) + residual.

    The sums are int32 for int8, else float32, and so is what follows them.
    """
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    # Tiles of the same rows of x run next to each other, so that L2 serves all but the first.
    m0, n0 = (pid // tiles_n) * BLOCK_M, (pid % tiles_n) * BLOCK_N
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    inside_m, inside_n = m < M - m0, n < N - n0
    x += m0.to(tl.int64) * x_stride
    weight += n0.to(tl.int64) * K

    operand: tl.constexpr = weight.dtype.element_ty
    sums: tl.constexpr = tl.int32 if operand == tl.int8 else tl.float32
    # Hopper adds e4m3 products with about 14 bits: after so many of them the sum goes to a float32 one.
    few: tl.constexpr = BLOCK_K if operand == tl.float8e4nv else None
    acc = tl.zeros((BLOCK_M, BLOCK_N), sums)
    for k0 in range(0, K, BLOCK_K):
        inside_k = (k0 + k) < K
        at = x + m[:, None] * x_stride + (k0 + k)[None, :]
        x_tile = tl.load(at, mask=inside_m[:, None] & inside_k[None, :], other=0.0)
        at = weight + n[None, :] * K + (k0 + k)[:, None]
        w_tile = tl.load(at, mask=inside_k[:, None] & inside_n[None, :], other=0.0)
        acc = tl.dot(x_tile.to(operand), w_tile, acc, PRECISION, max_num_imprecise_acc=few, out_dtype=sums)

    if x_scale is not None:
        row_scale = tl.load(x_scale + (m0 + m) * x_scale_stride, mask=inside_m, other=0.0)
    y += m0.to(tl.int64) * N
    if residual is not None:
        residual += m0.to(tl.int64) * r_stride
    # Half of the columns at a time: the numbers in flight then leave registers for a second program.
    halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
    for half in tl.static_range(2):
        n = n0 + half * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        inside_n = n < N
        inside = inside_m[:, None] & inside_n[None, :]
        z = halves[half]
        if start is not None:
            z += tl.load(start + n, mask=inside_n, other=0)[None, :]
        z = z.to(tl.float32)
        if bias is not None:
            biases = tl.load(bias + n, mask=inside_n, other=0.0)[None, :]
        if x_scale is not None:
            scale = row_scale[:, None] * tl.load(weight_scale + n, mask=inside_n, other=0.0)[None, :]
            # Sums of products are fma by name: what the compiler fuses could depend on the tile.
            if bias is not None:
                z = tl.fma(z, scale, biases)
            else:
                z *= scale
        elif bias is not None:
            z += biases
        if ACTIVATION == "gelu":
            z = gelu(z)
        elif ACTIVATION == "gelu_tanh":
            z = gelu_tanh(z)
        if residual is not None:
            at = residual + m[:, None] * r_stride + n[None, :]
            z += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        if out_scale is not None:
            # The reciprocal, once: a quotient within 1e-5 of a tie may round to the other side.
            z = tl.fma(z, tl.div_rn(1.0, tl.load(out_scale)), out_offset)
            z = quantized(z, y.dtype.element_ty)
        tl.store(y + m[:, None] * N + n[None, :], z.to(y.dtype.element_ty), mask=inside)


@triton.jit
def gelu(z):
    """z Phi(z) = z / 2 + z / 2 erf(z / sqrt(2))."""
    half = 0.5 * z
    return tl.fma(half, tl.erf(z * 0.7071067811865476), half)


@triton.jit
def gelu_tanh(z):
    """z / 2 (1 + tanh u) = z / (1 + exp(-2 u)) with u = sqrt(2 / pi) (z + 0.044715 z^3)."""
    minus_2u = -1.5957691216057308 * (z * tl.fma(0.044715 * z, z, 1.0))
    return z / (1.0 + tl.exp(minus_2u))
