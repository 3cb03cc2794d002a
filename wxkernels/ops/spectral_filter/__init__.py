"""spectral_filter: the AFNO token mixer of FourCastNet, with its residual."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops.spectral_filter import native, reference, triton

OP = backends.Op("spectral_filter", {"native": native, "triton": triton, "reference": reference})


def spectral_filter(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    sparsity_threshold: float = 0.01,
    hard_thresholding_fraction: float = 1.0,
) -> Tensor:
    """AFNO2D of FourCastNet: y = irfft2(softshrink(MLP(rfft2(x)))) + x; the mathematics is in `reference`.

    x (B, H, W, C), float32, bfloat16, float16 or float64, any strides; the result has its shape and dtype.
    w1 (2, nb, bs, bs * f), b1 (2, nb, bs * f), w2 (2, nb, bs * f, bs), b2 (2, nb, bs), any floating dtype,
    nb * bs = C; index 0 is the real part. Runs under torch.compile, inference_mode and autocast; gradients
    are those of the reference. Raises ValueError for an argument of another shape or range.
    """
    _check(x, w1, b1, w2, b2, sparsity_threshold, hard_thresholding_fraction)
    return torch.ops.wxkernels.spectral_filter(
        x, w1, b1, w2, b2, sparsity_threshold, hard_thresholding_fraction
    )


def _check(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, threshold: float, fraction: float
) -> None:
    if x.dim() != 4:
        raise ValueError(f"x: expected (B, H, W, C), got shape {tuple(x.shape)}")
    C = x.shape[3]
    if w1.dim() != 4 or w1.shape[0] != 2 or w1.shape[1] * w1.shape[2] != C:
        raise ValueError(
            f"w1: expected (2, nb, bs, bs * f) with nb * bs = C = {C}, got shape {tuple(w1.shape)}"
        )
    nb, bs, hidden = w1.shape[1:]
    expected = {"b1": (b1, (2, nb, hidden)), "w2": (w2, (2, nb, hidden, bs)), "b2": (b2, (2, nb, bs))}
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {tuple(shape)} from w1, got {tuple(tensor.shape)}")
    for name, tensor in {"x": x, "w1": w1, "b1": b1, "w2": w2, "b2": b2}.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected on the device of x, {x.device}, got {tensor.device}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"hard_thresholding_fraction: expected 0 <= fraction <= 1, got {fraction}")
    if not threshold >= 0:
        raise ValueError(f"sparsity_threshold: expected >= 0, got {threshold}")


torch.library.define(
    "wxkernels::spectral_filter",
    "(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, float sparsity_threshold,"
    " float hard_thresholding_fraction) -> Tensor",
)


@torch.library.impl("wxkernels::spectral_filter", ("CPU", "CUDA"))
def _run(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, threshold: float, fraction: float
) -> Tensor:
    backend = OP.choose(x, w1, b1, w2, b2)
    if backend is reference and len(x) > 1:
        # BLAS and FFT libraries sum in an order that depends on the batch and the alignment: one at a time.
        samples = [
            backend.spectral_filter(sample.clone(), w1, b1, w2, b2, threshold, fraction)
            for sample in x.split(1)
        ]
        return torch.cat(samples)
    return backend.spectral_filter(x, w1, b1, w2, b2, threshold, fraction)


@torch.library.register_fake("wxkernels::spectral_filter")
def _fake(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, threshold: float, fraction: float
) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.threshold, ctx.fraction = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad: Tensor):
    with torch.enable_grad():
        tensors = [t.detach().requires_grad_(t.is_floating_point()) for t in ctx.saved_tensors]
        x, w1, b1, w2, b2 = tensors
        y = reference.spectral_filter(x, w1, b1, w2, b2, ctx.threshold, ctx.fraction)
    wanted = [t for t, needed in zip(tensors, ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y, wanted, grad))
    gradients = [next(found) if needed else None for needed in ctx.needs_input_grad[:5]]
    return (*gradients, None, None)


torch.library.register_autograd("wxkernels::spectral_filter", _backward, setup_context=_setup_context)
