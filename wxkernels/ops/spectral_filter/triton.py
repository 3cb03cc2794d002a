"""Triton backend of the spectral filter (CUDA, ROCm): Fourier transforms are products with constant matrices.

Three steps, each a launch or more of `triton_kernels`:
  (a) transform over W, real to complex, only the kept columns;
  (b) transform over H (only the kept rows), block MLP, softshrink, inverse transform over H;
  (c) inverse transform over W, complex to real, plus x.
In half precision with bs <= 128, (b) is two launches: transform, MLP and softshrink on chip, then the
inverse. Otherwise it is four: transform, layer, layer, transform. The inverse stays apart because its
accumulators of 128 x 128 complex numbers (90 x 96 padded) take half the registers of a program: with them,
every tile of more than 16 rows spilled on sm_80, sm_90 and gfx942.

The orthonormal factor is split, 1 / sqrt(W) in (a) and (c) and 1 / sqrt(H) in (b), so that half-precision
spectra stay below sqrt(H W) max|x|. It multiplies the float32 sums, not the matrices: rounded with these it
would be off by the same fraction in every mode, nearly 4 times PyTorch's float16 error where modes add up.

Operands have the dtype of x, accumulators and biases are float32. float32 is multiplied as such: by mfma on
ROCm, by FMA on CUDA, whose tensor cores have no such product. Where the user allows PyTorch's products
TF32 (torch.backends.cuda.matmul), it is three TF32 products there. That is no default: emulated with
accumulators that truncate, as tensor cores do, the largest error is 1.9 times PyTorch's float32 error at
90 x 180 and 4 times at 8 x 16. With weights in bfloat16, to which the reference rounds what it multiplies
with them, it is one TF32 product of operands rounded to nearest: emulated at 90 x 180, its RMS error is a
quarter of the reference's, its largest error the same. A program works on one sample, in an order that does
not depend on B: deterministic and batch-invariant.

Held to float64 in Triton's interpreter and compiled ahead of time by ci/aot.py; no GPU has run it yet.
"""

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wxkernels.ops import _triton
from wxkernels.ops._triton import Launch, Target
from wxkernels.ops.layer_norm.reference import layer_norm
from wxkernels.ops.spectral_filter import dft
from wxkernels.ops.spectral_filter.reference import kept_modes

unavailable = _triton.unavailable


class Tiles(_triton.Tiles):
    """Chosen with ci/aot.py, not by timing: no spills on any of its targets, at most 64 KiB of shared memory
    on ROCm, 99 KiB on sm_80 (sm_86 and sm_89 have no more), 512 columns of tensor memory on sm_100.
    """

    @classmethod
    def transform(cls, target: Target, dtype: torch.dtype, M: int, N: int) -> "Tiles":
        """128 rows, or 64 where that pads M less."""
        block_m = min(64 if -M % 64 < -M % 128 else 128, _cover(M))
        fp32 = dtype == torch.float32
        sizes = {"BLOCK_M": block_m, "BLOCK_N": min(128, _cover(N)), "BLOCK_K": 16 if fp32 else 32}
        few = block_m < 128 and (not fp32 or target.float32 == "tf32")
        return cls(sizes, 4 if few else 8, 3 if target.backend == "cuda" else 2)

    @classmethod
    def column_mlp(cls, target: Target, rows: int, bs: int) -> "Tiles":
        """Loads ahead of the products (two stages) cost ROCm registers that it has not."""
        block_j, num_stages = (32, 2) if target.backend == "cuda" else (16, 1)
        sizes = {"BLOCK_F": min(64, _cover(rows)), "BLOCK_I": _cover(bs), "BLOCK_J": block_j, "BLOCK_K": 32}
        return cls(sizes, 8, num_stages)

    @classmethod
    def block_linear(cls, dtype: torch.dtype) -> "Tiles":
        """Three TF32 products hold both parts of both operands in registers: smaller tiles for float32."""
        if dtype == torch.float32:
            return cls({"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 16}, 8, 2)
        return cls({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, 4, 2)


def unsupported(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
) -> str | None:
    if reason := _triton.unsupported(x=x):
        return reason
    _, H, W, C = x.shape
    hidden = w1.shape[1] * w1.shape[3]
    # Offsets inside a sample, a weight or a constant matrix are 32-bit.
    extents = (
        W * x.stride(2),
        (W + 2) * H * C,
        2 * H * hidden,
        w1.numel(),
        (W + 128) ** 2,
        (2 * H + 128) ** 2,
    )
    if max(extents) >= 2**31:
        return f"at H {H}, W {W}, C {C} an offset inside a sample passes 32 bits"
    return _triton.unsupported_device(x)


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
    """`reference.spectral_filter` on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU."""
    start, stop, columns = kept_modes(x.shape[1], x.shape[2], hard_thresholding_fraction)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.stride(3) != 1:
        x = x.contiguous()
    residual = x
    if norm_weight is not None:
        n = layer_norm(x, norm_weight, norm_bias, eps)
        x, residual = n, n + x
    if y.numel() == 0 or columns == 0:
        return y.copy_(residual)
    weights = w1.dtype
    w1, w2 = w1.to(x.dtype).contiguous(), w2.to(x.dtype).contiguous()
    b1, b2 = b1.float().contiguous(), b2.float().contiguous()
    modes, threshold = (start, stop, columns), sparsity_threshold
    target = multiplying(Target.of(x.device), weights)
    _triton.run(launches(x, residual, w1, b1, w2, b2, y, threshold, modes, target), x.device)
    return y


def multiplying(target: Target, weights: torch.dtype) -> Target:
    """The target, which multiplies float32 in one TF32 product where bfloat16 weights ask for no more."""
    if weights == torch.bfloat16 and target.backend == "cuda":
        return replace(target, float32="tf32")
    return target


def launches(
    x: Tensor,
    residual: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    y: Tensor,
    threshold: float,
    modes: tuple[int, int, int],
    target: Target,
) -> Iterator[Launch]:
    """The launches that write the filter of x, plus residual, to y; `modes` is what `kept_modes` gave.

    x and residual (B, H, W, C), last stride 1; w1, w2 contiguous, in x's dtype; b1, b2 contiguous float32.
    """
    B, H, W, C = x.shape
    _, nb, bs, hidden = w1.shape
    start, stop, columns = modes
    rows = stop - start
    empty = functools.partial(torch.empty, dtype=x.dtype, device=x.device)
    forward_w, inverse_w = _w_matrices(W, columns, x.dtype, x.device)
    forward_h, inverse_h = _h_matrices(H, start, stop, x.dtype, x.device)

    s = empty(B, columns, 2, H, C)
    s_over_w = s.view(B, 2 * columns, H, C).transpose(1, 2)  # (B, H, 2 columns, C)
    s_over_h = s.view(B, columns, 2 * H, C)
    o = empty(B, columns, 2, rows, C)
    o_over_h = o.view(B, columns, 2 * rows, C)

    yield _transform(forward_w, x, s_over_w, W**-0.5, target)
    if x.dtype != torch.float32 and bs <= 128:
        planes = _h_planes(H, start, stop, x.dtype, x.device)
        yield _column_mlp(planes, s, w1, b1, w2, b2, o, H**-0.5, threshold, target)
    else:
        o1 = empty(B, columns, 2, rows, nb * hidden)
        yield _transform(forward_h, s_over_h, o_over_h, H**-0.5, target)
        yield _block_linear(o, w1, b1, o1, threshold, target, relu=True)
        yield _block_linear(o1, w2, b2, o, threshold, target, relu=False)
    yield _transform(inverse_h, o_over_h, s_over_h, H**-0.5, target)
    yield _transform(inverse_w, s_over_w, y, W**-0.5, target, residual)


def _transform(
    a: Tensor, x: Tensor, y: Tensor, scale: float, target: Target, residual: Tensor | None = None
) -> Launch:
    """y[i, j] = scale a @ x[i, j] (+ residual[i, j]) for x (I, J, K, N) and y (I, J, M, N)."""
    samples, J, K, N = x.shape
    M = y.shape[2]
    tiles = Tiles.transform(target, x.dtype, M, N)
    arguments: dict[str, Any] = {"a": a, "x": x, "residual": residual, "y": y, "scale": scale}
    arguments |= {"J": J, "M": M, "K": K, "N": N, "a_stride": a.stride(0)}
    for name, tensor, axes in (
        ("x", x, "ijk"),
        ("r", y if residual is None else residual, "ijm"),
        ("y", y, "ijm"),
    ):
        arguments |= {f"{name}_stride_{axis}": tensor.stride(n) for n, axis in enumerate(axes)}
    extents, shape = {"BLOCK_M": M, "BLOCK_N": N}, ("J", "M", "K", "N")
    constants = {"PRECISION": target.float32}
    return Launch("spectral_filter", "transform", extents, shape, arguments, constants, tiles, samples * J)


def _column_mlp(
    e: Tensor,
    s: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    y: Tensor,
    scale: float,
    threshold: float,
    target: Target,
) -> Launch:
    """y = softshrink(MLP(scale e s)) for s (B, columns, 2, H, C) and y (B, columns, 2, rows, C)."""
    B, columns, _, rows, _ = y.shape
    _, nb, bs, hidden = w1.shape
    tiles = Tiles.column_mlp(target, rows, bs)
    arguments: dict[str, Any] = {"e": e, "s": s, "w1": w1, "b1": b1, "w2": w2, "b2": b2, "y": y}
    arguments |= {"scale": scale, "threshold": threshold}
    arguments |= {"H": s.shape[3], "rows": rows, "nb": nb, "bs": bs, "hidden": hidden}
    arguments |= {"e_stride": e.stride(1), "e_plane": e.stride(0)}
    shape, constants = ("H", "rows", "nb", "bs", "hidden"), {"PRECISION": target.float32}
    samples = B * columns * nb
    return Launch(
        "spectral_filter", "column_mlp", {"BLOCK_F": rows}, shape, arguments, constants, tiles, samples
    )


def _block_linear(
    x: Tensor, w: Tensor, b: Tensor, y: Tensor, threshold: float, target: Target, *, relu: bool
) -> Launch:
    """y = relu or softshrink of x w + b, block by block, for x (B, columns, 2, rows, nb * K)."""
    B, columns, _, rows, _ = x.shape
    _, nb, K, N = w.shape
    tiles = Tiles.block_linear(x.dtype)
    arguments: dict[str, Any] = {"x": x, "w": w, "b": b, "y": y, "threshold": threshold}
    arguments |= {"rows": rows, "nb": nb, "K": K, "N": N}
    constants = {"RELU": relu, "PRECISION": target.float32}
    extents, shape = {"BLOCK_M": rows, "BLOCK_N": N}, ("rows", "nb", "K", "N")
    samples = B * columns * nb
    return Launch("spectral_filter", "block_linear", extents, shape, arguments, constants, tiles, samples)


@functools.cache  # a CUDA graph may read it as long as the process lives
def _w_matrices(W: int, columns: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """`dft.over_width`, padded."""
    forward, inverse = dft.over_width(W, columns)
    return _padded(forward, dtype, device), _padded(inverse, dtype, device)


@functools.cache  # a CUDA graph may read it as long as the process lives
def _h_matrices(
    H: int, start: int, stop: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Transform over H to rows [start, stop), and back, without a factor, parts stacked, padded.

    (2 rows, 2 H) and (2 H, 2 rows).
    """
    e = dft.over_height(H, start, stop)
    forward = torch.cat([torch.cat([e.real, -e.imag], dim=1), torch.cat([e.imag, e.real], dim=1)])
    return _padded(forward, dtype, device), _padded(forward.T, dtype, device)


@functools.cache  # a CUDA graph may read it as long as the process lives
def _h_planes(H: int, start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, rows, H), padded: real, imaginary and negated imaginary part of the transform over H."""
    e = dft.over_height(H, start, stop)
    return torch.stack([_padded(part, dtype, device) for part in (e.real, e.imag, -e.imag)])


def _padded(matrix: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros up to whole tiles, so that kernels read constants without masks and in 16-byte pieces."""
    M, K = matrix.shape
    return torch.nn.functional.pad(matrix, (0, -K % 64, 0, -M % 128)).to(device, dtype).contiguous()


def _cover(n: int) -> int:
    """The power of two that covers n, at least 16, the least side of tl.dot."""
    return max(16, _triton.cover(n))
