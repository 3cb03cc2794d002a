"""spectral_filter: the AFNO token mixer of FourCastNet, with its residual and the layer norm before it."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops import _checks
from wxkernels.ops._registration import register
from wxkernels.ops.spectral_filter import cuda, native, reference, triton

OP = backends.Op(
    "spectral_filter", {"native": native, "cuda": cuda, "triton": triton, "reference": reference}
)


def spectral_filter(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    sparsity_threshold: float = 0.01,
    hard_thresholding_fraction: float = 1.0,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """AFNO2D of FourCastNet: y = irfft2(softshrink(MLP(rfft2(x)))) + x; the mathematics is in `reference`.

    With norm_weight it is the first half of an AFNO block, n = LN(x) and y = AFNO2D(n) + x.
    x (B, H, W, C), float32, bfloat16, float16 or float64, any strides; the result has its shape and dtype.
    w1 (2, nb, bs, bs * f), b1 (2, nb, bs * f), w2 (2, nb, bs * f, bs), b2 (2, nb, bs), any floating dtype,
    nb * bs = C; index 0 is the real part. With w1 in bfloat16 the operands of the products are rounded to it,
    else they are float32 (a backend may round them to x's dtype). norm_weight, norm_bias (C,) floating.
    Runs under torch.compile, inference_mode and autocast, which changes nothing; gradients are those of the
    reference. Raises ValueError for an argument of another shape or range.
    """
    _check(x, w1, b1, w2, b2, sparsity_threshold, hard_thresholding_fraction)
    if norm_weight is None and norm_bias is not None:
        raise ValueError("norm_bias: expected None without norm_weight, got a tensor")
    _checks.norm(x, norm_weight=norm_weight, norm_bias=norm_bias, eps=eps)
    return torch.ops.wxkernels.spectral_filter(
        x, w1, b1, w2, b2, sparsity_threshold, hard_thresholding_fraction, norm_weight, norm_bias, eps
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
    _checks.shape("b1", b1, (2, nb, hidden), "from w1")
    _checks.shape("w2", w2, (2, nb, hidden, bs), "from w1")
    _checks.shape("b2", b2, (2, nb, bs), "from w1")
    _checks.floating(x=x, w1=w1, b1=b1, w2=w2, b2=b2)
    _checks.device_of_first(x=x, w1=w1, b1=b1, w2=w2, b2=b2)
    if not 0 <= fraction <= 1:
        raise ValueError(f"hard_thresholding_fraction: expected 0 <= fraction <= 1, got {fraction}")
    if not threshold >= 0:
        raise ValueError(f"sparsity_threshold: expected >= 0, got {threshold}")


def _fake(x: Tensor, *others: object) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


register(
    OP,
    "(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, float sparsity_threshold,"
    " float hard_thresholding_fraction, Tensor? norm_weight, Tensor? norm_bias, float eps) -> Tensor",
    _fake,
)
