"""Discrete Fourier transforms as constant matrices, in float64 and without a factor, for the GPU backends."""

import math

import torch
from torch import Tensor


def over_width(W: int, columns: int) -> tuple[Tensor, Tensor]:
    """Real matrices of rfft to the first `columns` and of irfft from them: (2 columns, W) and (W, 2 columns).

    Row 2 k is the real and 2 k + 1 the imaginary part of column k. The inverse counts a column twice, for its
    mirror, except k = 0 and the Nyquist; their imaginary parts meet exact zeros, as irfft drops them.
    """
    e = _roots(torch.arange(columns), torch.arange(W), W)  # (columns, W)
    forward = torch.stack([e.real, e.imag], dim=1).view(2 * columns, W)
    twice = torch.full((columns, 1, 1), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if 2 * (columns - 1) == W:
        twice[-1] = 1.0
    inverse = (forward.view(columns, 2, W) * twice).view(2 * columns, W).T
    return forward, inverse


def over_height(H: int, start: int, stop: int) -> Tensor:
    """Complex matrix of fft to rows [start, stop): (rows, H). Its conjugate transpose is the inverse."""
    return _roots(torch.arange(start, stop), torch.arange(H), H)


def _roots(k: Tensor, n: Tensor, N: int) -> Tensor:
    """exp(-2 pi i k n / N), complex128; the angle is reduced in integers, the real axis hit exactly."""
    turn = torch.outer(k, n) % N
    angle = turn.double() * (2 * math.pi / N)
    sin = torch.where(2 * turn % N == 0, 0.0, angle.sin())
    return torch.complex(angle.cos(), -sin)
