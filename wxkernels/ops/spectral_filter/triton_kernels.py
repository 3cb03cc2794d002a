"""Triton kernels of the spectral filter. Imports triton at the top: import this module only where it is used.

A complex spectrum is kept as (..., 2, rows, C), real part first: a row of either part is contiguous in C, and
a discrete Fourier transform is a real matrix product. Tiles are powers of two: loads of data are masked,
constant matrices come padded with zeros to whole tiles.
"""

import triton
import triton.language as tl


@triton.jit
def transform(
    a,  # (M, K) constant matrix, padded to whole tiles, row stride a_stride
    x,  # (I, J, K, N), last stride 1
    residual,  # (I, J, M, N), last stride 1, or None
    y,  # (I, J, M, N), last stride 1
    scale,
    J,
    M,
    K,
    N,
    a_stride,
    x_stride_i,
    x_stride_j,
    x_stride_k,
    r_stride_i,
    r_stride_j,
    r_stride_m,
    y_stride_i,
    y_stride_j,
    y_stride_m,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[i, j] = scale a @ x[i, j] (+ residual[i, j]), accumulated in float32."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    # Tiles of one x tile run next to each other, so that L2 serves all but the first.
    ij, tile = pid // (tiles_m * tiles_n), pid % (tiles_m * tiles_n)
    i, j = (ij // J).to(tl.int64), (ij % J).to(tl.int64)
    m = (tile % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tile // tiles_m) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x += i * x_stride_i + j * x_stride_j

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        a_tile = operand(tl.load(a + m[:, None] * a_stride + (k0 + k)[None, :]), PRECISION)
        inside = ((k0 + k) < K)[:, None] & (n < N)[None, :]
        x_tile = tl.load(x + (k0 + k)[:, None] * x_stride_k + n[None, :], mask=inside, other=0.0)
        acc = tl.dot(a_tile, operand(x_tile, PRECISION), acc, input_precision=PRECISION)

    acc *= scale
    inside = (m < M)[:, None] & (n < N)[None, :]
    if residual is not None:
        residual += i * r_stride_i + j * r_stride_j
        acc += tl.load(residual + m[:, None] * r_stride_m + n[None, :], mask=inside, other=0.0).to(tl.float32)
    y += i * y_stride_i + j * y_stride_j
    tl.store(y + m[:, None] * y_stride_m + n[None, :], acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def column_mlp(
    e,  # (3, rows, H): re, im and -im of the transform over H, padded to whole tiles
    s,  # (B * columns, 2, H, nb * bs) spectrum over W
    w1,  # (2, nb, bs, hidden)
    b1,  # (2, nb, hidden) float32
    w2,  # (2, nb, hidden, bs)
    b2,  # (2, nb, bs) float32
    y,  # (B * columns, 2, rows, nb * bs)
    scale,
    threshold,
    H,
    rows,
    nb,
    bs,
    hidden,
    e_stride,
    e_plane,
    PRECISION: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows of a column k_w and channel block: transform over H, both layers of the MLP, softshrink, on chip.

    BLOCK_I covers bs; hidden channels, any number, pass in tiles of BLOCK_J.
    """
    pid = tl.program_id(0)
    tiles_f = tl.cdiv(rows, BLOCK_F)
    # Tiles of one column and block run next to each other: they read the same part of s.
    tile_f, pid = pid % tiles_f, pid // tiles_f
    block, column = pid % nb, (pid // nb).to(tl.int64)
    C = nb * bs
    s += column * (2 * H * C) + block * bs
    y += column * (2 * rows * C) + block * bs
    w1 += block * bs * hidden
    w2 += block * hidden * bs
    b1 += block * hidden
    b2 += block * bs
    dtype = s.dtype.element_ty

    f = tile_f * BLOCK_F + tl.arange(0, BLOCK_F)
    i = tl.arange(0, BLOCK_I)
    k = tl.arange(0, BLOCK_K)
    x_re = tl.zeros((BLOCK_F, BLOCK_I), tl.float32)
    x_im = tl.zeros((BLOCK_F, BLOCK_I), tl.float32)
    for k0 in range(0, H, BLOCK_K):
        at = e + f[:, None] * e_stride + (k0 + k)[None, :]
        e_re, e_im, e_minus_im = tl.load(at), tl.load(at + e_plane), tl.load(at + 2 * e_plane)
        inside = ((k0 + k) < H)[:, None] & (i < bs)[None, :]
        at = s + (k0 + k)[:, None] * C + i[None, :]
        s_re = tl.load(at, mask=inside, other=0.0)
        s_im = tl.load(at + H * C, mask=inside, other=0.0)
        x_re = tl.dot(e_re, s_re, x_re, input_precision=PRECISION)
        x_re = tl.dot(e_minus_im, s_im, x_re, input_precision=PRECISION)
        x_im = tl.dot(e_re, s_im, x_im, input_precision=PRECISION)
        x_im = tl.dot(e_im, s_re, x_im, input_precision=PRECISION)
    x_re, x_im = (x_re * scale).to(dtype), (x_im * scale).to(dtype)

    o2_re = tl.zeros((BLOCK_F, BLOCK_I), tl.float32)
    o2_im = tl.zeros((BLOCK_F, BLOCK_I), tl.float32)
    for j0 in range(0, hidden, BLOCK_J):
        j = j0 + tl.arange(0, BLOCK_J)
        inside = (i < bs)[:, None] & (j < hidden)[None, :]
        at = w1 + i[:, None] * hidden + j[None, :]
        w_re = tl.load(at, mask=inside, other=0.0)
        w_im = tl.load(at + nb * bs * hidden, mask=inside, other=0.0)
        o1_re = tl.dot(x_re, w_re, -tl.dot(x_im, w_im, input_precision=PRECISION), input_precision=PRECISION)
        o1_im = tl.dot(x_re, w_im, tl.dot(x_im, w_re, input_precision=PRECISION), input_precision=PRECISION)
        o1_re += tl.load(b1 + j, mask=j < hidden, other=0.0)[None, :]
        o1_im += tl.load(b1 + nb * hidden + j, mask=j < hidden, other=0.0)[None, :]
        o1_re, o1_im = relu(o1_re).to(dtype), relu(o1_im).to(dtype)
        inside = (j < hidden)[:, None] & (i < bs)[None, :]
        at = w2 + j[:, None] * bs + i[None, :]
        w_re = tl.load(at, mask=inside, other=0.0)
        w_im = tl.load(at + nb * bs * hidden, mask=inside, other=0.0)
        o2_re = tl.dot(o1_re, w_re, o2_re, input_precision=PRECISION)
        o2_re = tl.dot(-o1_im, w_im, o2_re, input_precision=PRECISION)
        o2_im = tl.dot(o1_im, w_re, o2_im, input_precision=PRECISION)
        o2_im = tl.dot(o1_re, w_im, o2_im, input_precision=PRECISION)

    o2_re += tl.load(b2 + i, mask=i < bs, other=0.0)[None, :]
    o2_im += tl.load(b2 + nb * bs + i, mask=i < bs, other=0.0)[None, :]
    inside = (f < rows)[:, None] & (i < bs)[None, :]
    at = y + f[:, None] * C + i[None, :]
    tl.store(at, softshrink(o2_re, threshold).to(dtype), mask=inside)
    tl.store(at + rows * C, softshrink(o2_im, threshold).to(dtype), mask=inside)


@triton.jit
def block_linear(
    x,  # (B * columns, 2, rows, nb * K) spectrum
    w,  # (2, nb, K, N)
    b,  # (2, nb, N) float32
    y,  # (B * columns, 2, rows, nb * N)
    threshold,
    rows,
    nb,
    K,
    N,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A layer of the block MLP, y = act(x w + b), complex; act is relu or softshrink of each part."""
    tiles_m, tiles_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    tile_n, pid = pid % tiles_n, pid // tiles_n
    block, pid = pid % nb, pid // nb
    tile_m, column = pid % tiles_m, (pid // tiles_m).to(tl.int64)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x += column * (2 * rows * nb * K) + block * K
    y += column * (2 * rows * nb * N) + block * N
    w_re, w_im = w + block * K * N, w + (nb + block) * K * N
    b_re, b_im = b + block * N, b + (nb + block) * N
    dtype = x.dtype.element_ty

    # re * re and im * im apart: to subtract in the loop, an operand would pass through registers.
    acc_rr = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc_ii = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc_im = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        inside = (m < rows)[:, None] & ((k0 + k) < K)[None, :]
        at = x + m[:, None] * (nb * K) + (k0 + k)[None, :]
        x_re = operand(tl.load(at, mask=inside, other=0.0), PRECISION)
        x_im = operand(tl.load(at + rows * nb * K, mask=inside, other=0.0), PRECISION)
        inside = ((k0 + k) < K)[:, None] & (n < N)[None, :]
        w_re_tile = tl.load(w_re + (k0 + k)[:, None] * N + n[None, :], mask=inside, other=0.0)
        w_im_tile = tl.load(w_im + (k0 + k)[:, None] * N + n[None, :], mask=inside, other=0.0)
        acc_rr = tl.dot(x_re, w_re_tile, acc_rr, input_precision=PRECISION)
        acc_ii = tl.dot(x_im, w_im_tile, acc_ii, input_precision=PRECISION)
        acc_im = tl.dot(x_im, w_re_tile, acc_im, input_precision=PRECISION)
        acc_im = tl.dot(x_re, w_im_tile, acc_im, input_precision=PRECISION)

    acc_re = acc_rr - acc_ii + tl.load(b_re + n, mask=n < N, other=0.0)[None, :]
    acc_im += tl.load(b_im + n, mask=n < N, other=0.0)[None, :]
    if RELU:
        acc_re, acc_im = relu(acc_re), relu(acc_im)
    else:
        acc_re, acc_im = softshrink(acc_re, threshold), softshrink(acc_im, threshold)
    inside = (m < rows)[:, None] & (n < N)[None, :]
    at = y + m[:, None] * (nb * N) + n[None, :]
    tl.store(at, acc_re.to(dtype), mask=inside)
    tl.store(at + rows * nb * N, acc_im.to(dtype), mask=inside)


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """x as it enters a product: rounded to nearest where that is TF32, to which tensor cores cut it.

    What is cut shrinks every mode alike: where modes add up, the error was 20 times that of bfloat16 weights.
    """
    if PRECISION == "tf32" and x.dtype == tl.float32:
        bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x


@triton.jit
def relu(z):
    """max(z, 0); a NaN stays a NaN, which tl.maximum drops by default."""
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def softshrink(z, threshold):
    """sign(z) max(|z| - threshold, 0); z * 0 keeps a NaN a NaN."""
    return tl.where(z > threshold, z - threshold, tl.where(z < -threshold, z + threshold, z * 0.0))
