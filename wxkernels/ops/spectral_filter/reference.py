"""The specification of the AFNO spectral filter in plain PyTorch. Every other backend is held to it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels.ops._reference import operand, sum_dtype
from wxkernels.ops.layer_norm.reference import layer_norm


def kept_modes(H: int, W: int, hard_thresholding_fraction: float) -> tuple[int, int, int]:
    """Modes that the block MLP sees: rows [start, stop) of H and the first `columns` of W // 2 + 1.

    `kept` comes from H but cuts W too: at 90 x 180 with fraction 1 only 46 of 91 columns survive. A fraction
    below 1 keeps the rows around the H Nyquist and drops the low ones. Both are the published behaviour.
    """
    total = H // 2 + 1
    kept = int(total * hard_thresholding_fraction)
    # kept <= total for a fraction in [0, 1], so start is never negative: a negative one would wrap around.
    return total - kept, min(total + kept, H), min(kept, W // 2 + 1)


def unavailable() -> str | None:
    return None


def unsupported(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
) -> str | None:
    return None


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
    """y = irfft2(softshrink(MLP(rfft2(x)))) + x, with a complex block-diagonal MLP on the kept modes.

    X = rfft2(x, norm="ortho"); per block of bs channels, on the kept modes (all others are exactly 0):
    o1 = crelu(X w1 + b1), o2 = o1 w2 + b2 (complex products; crelu acts on real and imaginary part alone);
    softshrink on both parts; y = irfft2(o2, norm="ortho") + x. Differentiable; float64 stays float64, other
    dtypes compute in float32. bfloat16 weights are multiplied by X, or o1, rounded to bfloat16.
    With norm_weight: n = LN(x), y = irfft2(...(n)) + n + x, both skips of an AFNO block.

    x (B, H, W, C); w1 (2, nb, bs, bs * f), b1 (2, nb, bs * f), w2 (2, nb, bs * f, bs), b2 (2, nb, bs), where
    index 0 is the real and 1 the imaginary part. Source: AFNO2D of NVlabs/FourCastNet, networks/afnonet.py.
    """
    if norm_weight is not None:
        n = layer_norm(x, norm_weight, norm_bias, eps)
        y = spectral_filter(n, w1, b1, w2, b2, sparsity_threshold, hard_thresholding_fraction)
        return (y + x).contiguous()
    B, H, W, C = x.shape
    if x.numel() == 0:
        return x.clone(memory_format=torch.contiguous_format)
    compute = sum_dtype(x)
    b1, b2 = b1.to(compute), b2.to(compute)
    nb, bs = w1.shape[1], w1.shape[2]
    start, stop, columns = kept_modes(H, W, hard_thresholding_fraction)

    X = torch.fft.rfft2(x.to(compute), dim=(1, 2), norm="ortho")  # (B, H, W // 2 + 1, C) complex
    X = X[:, start:stop, :columns].reshape(B, stop - start, columns, nb, bs)
    o1_re = F.relu(_product(X.real, w1[0]) - _product(X.imag, w1[1]) + b1[0])  # (..., nb, bs * f)
    o1_im = F.relu(_product(X.imag, w1[0]) + _product(X.real, w1[1]) + b1[1])
    o2_re = _product(o1_re, w2[0]) - _product(o1_im, w2[1]) + b2[0]  # (..., nb, bs)
    o2_im = _product(o1_im, w2[0]) + _product(o1_re, w2[1]) + b2[1]
    o2 = F.softshrink(torch.stack([o2_re, o2_im], dim=-1), sparsity_threshold)
    kept = torch.view_as_complex(o2).reshape(B, stop - start, columns, C)
    Y = F.pad(torch.view_as_real(kept), (0, 0, 0, 0, 0, W // 2 + 1 - columns, start, H - stop))
    y = torch.fft.irfft2(torch.view_as_complex(Y), s=(H, W), dim=(1, 2), norm="ortho")
    return (y.to(x.dtype) + x).contiguous()


def _product(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("...bi,bio->...bo", operand(x, w), w.to(x.dtype))
