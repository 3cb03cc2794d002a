"""The spectral filter in CUDA C++ on NVIDIA GPUs, sm_80 and newer: products with constants by mma.sync.

Three kernels (csrc/cuda/spectral_filter_kernels.h), after one for the moments of a norm:
  (a) transform over W, real to complex, only the kept columns, of x or, normalised as it is read, of LN(x);
  (b) a column and channel block: transform over H, block MLP, softshrink, inverse transform, all on chip;
  (c) inverse transform over W, plus x, or plus LN(x) and x.

Operands have the dtype of x, sums are float32. float32 is multiplied as such, by FMA, as tensor cores have no
such product; where the user allows PyTorch's products TF32 (torch.backends.cuda.matmul), so are these, and so
are those with bfloat16 weights. Sides are padded to multiples of 16 and no further. docs/spectral_filter.md
has the bytes, the operations and the time they should take.

tests/ops/spectral_filter/test_cuda.py runs the source of the kernels on a CPU against float64; ci/cuda.sh
looks at the machine code. No GPU has run them.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from wxkernels import _native
from wxkernels.ops import _cuda
from wxkernels.ops.layer_norm.reference import layer_norm
from wxkernels.ops.spectral_filter import dft
from wxkernels.ops.spectral_filter.reference import kept_modes

unavailable = _cuda.unavailable

#: Samples whose x is this much or less in all go through the steps together.
SAMPLE_BYTES = 2**25

#: Columns of a fragment, 16 rows of a constant matrix (csrc/cuda/product.h), by the operands of products.
#: Order in memory: row % 8, second, first, row // 8, third, where column = (first, second, third).
FRAGMENTS = {"bfloat16": (2, 4, 2), "float16": (2, 4, 2), "tf32": (2, 4, 1), "float32": (1, 1, 8)}


def unsupported(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
) -> str | None:
    if x.dtype not in _native.DTYPES:
        return (
            f"it takes {', '.join(_native.DTYPES.values())}, and x is {str(x.dtype).removeprefix('torch.')}"
        )
    bs, chunk = w1.shape[2], _chunk(x)
    if bs % chunk:
        return f"it moves 16 bytes at once, {chunk} channels, and a block has {bs}"
    if x.device.type != "cuda":
        return f"x is on {x.device}; it needs a CUDA device"
    sizes = (_native.DTYPES[x.dtype], _tf32(x, w1), tuple(x.shape), w1.shape[1], w1.shape[3])
    return _refusal(*sizes, x.device.index)


@functools.cache
def _refusal(
    dtype: str, tf32: bool, shape: tuple[int, ...], blocks: int, hidden: int, device: int
) -> str | None:
    assert _native.core is not None
    start, stop, columns = kept_modes(shape[1], shape[2], 1.0)
    sizes = (dtype, tf32, shape, blocks, hidden, (stop - start, columns))
    return _native.core.spectral_filter_cuda_refusal(*sizes, device) or None


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
    """`reference.spectral_filter` on the current stream of x's device.

    x is read where it lies if its channels have unit stride and its tokens lie at multiples of 16 bytes.
    """
    assert _native.core is not None
    stream = torch.cuda.current_stream(x.device).cuda_stream
    run = functools.partial(_native.core.spectral_filter_cuda, device=x.device.index, stream=stream)
    thresholds = (sparsity_threshold, hard_thresholding_fraction)
    return filtered(run, x, w1, b1, w2, b2, *thresholds, norm_weight, norm_bias, eps, _tf32(x, w1))


def filtered(
    run: Callable[..., None],
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    sparsity_threshold: float,
    hard_thresholding_fraction: float,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    tf32: bool,
) -> Tensor:
    """The same with `run` for the compiled function, its device and stream given."""
    B, H, W, C = x.shape
    _, nb, _, hidden = w1.shape
    start, stop, columns = kept_modes(H, W, hard_thresholding_fraction)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    if x.stride(3) != 1 or x.data_ptr() % 16 or any(stride % _chunk(x) for stride in x.stride()[:3]):
        x = x.clone(memory_format=torch.contiguous_format)
    if columns == 0:
        return out.copy_(x if norm_weight is None else x + layer_norm(x, norm_weight, norm_bias, eps))
    operands = "tf32" if tf32 else _native.DTYPES[x.dtype]
    samples = max(1, min(B, SAMPLE_BYTES // (H * W * C * x.element_size())))
    spectrum = torch.empty(samples, columns, 2, H, C, dtype=x.dtype, device=x.device)
    moments = None if norm_weight is None else x.new_empty(samples, H, W, 2, dtype=torch.float32)
    constants = _constants(H, W, start, stop, columns, operands, x.dtype, x.device)
    constants += tuple(fragments(w.permute(1, 0, 3, 2), operands, x.dtype, x.device) for w in (w1, w2))
    biases = [_native.float32(b) for b in (b1, b2)]
    norm = [_native.float32(p) for p in (norm_weight, norm_bias)]
    forward_width, inverse_width, forward_height, inverse_height, w1_fragments, w2_fragments = constants
    run(
        x=x.data_ptr(),
        out=out.data_ptr(),
        dtype=_native.DTYPES[x.dtype],
        tf32=tf32,
        shape=(B, H, W, C),
        strides=x.stride(),
        blocks=nb,
        hidden_size=hidden,
        kept=(stop - start, columns),
        forward_width=forward_width.data_ptr(),
        inverse_width=inverse_width.data_ptr(),
        forward_height=forward_height.data_ptr(),
        inverse_height=inverse_height.data_ptr(),
        w1=w1_fragments.data_ptr(),
        w2=w2_fragments.data_ptr(),
        b1=_native.address(biases[0]),
        b2=_native.address(biases[1]),
        threshold=sparsity_threshold,
        norm_weight=_native.address(norm[0]),
        norm_bias=_native.address(norm[1]),
        eps=eps,
        samples=samples,
        spectrum=spectrum.data_ptr(),
        moments=_native.address(moments),
    )
    return out


def _tf32(x: Tensor, weight: Tensor) -> bool:
    return x.dtype == torch.float32 and (weight.dtype == torch.bfloat16 or _cuda.tf32_allowed())


def _chunk(x: Tensor) -> int:
    return 16 // x.element_size()


@functools.cache  # a CUDA graph may read them as long as the process lives
def _constants(
    H: int,
    W: int,
    start: int,
    stop: int,
    columns: int,
    operands: str,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """The transform over W and its inverse, real, that over H and its inverse, complex, in fragments."""
    e = dft.over_height(H, start, stop)
    height = torch.stack([e.real, e.imag]), torch.stack([e.real.T, -e.imag.T])
    return tuple(fragments(a, operands, dtype, device) for a in (*dft.over_width(W, columns), *height))


def fragments(a: Tensor, operands: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrices (..., M, K), padded with zeros to multiples of 16, as the kernels read them."""
    M, K = a.shape[-2:]
    if M % 16 or K % 16:
        a = torch.nn.functional.pad(a, (0, -K % 16, 0, -M % 16))
    a = a.unflatten(-1, (-1, *FRAGMENTS[operands])).unflatten(-5, (-1, 2, 8))
    # (..., tile, row // 8, row % 8, step, first, second, third)
    lead = range(a.dim() - 7)
    tile, half, row, step, first, second, third = range(a.dim() - 7, a.dim())
    a = a.permute(*lead, tile, step, row, second, first, half, third)
    return torch.empty(a.shape, dtype=dtype, device=device).copy_(a)
