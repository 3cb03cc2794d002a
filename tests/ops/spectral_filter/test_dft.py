"""The constant matrices against torch.fft."""

import pytest
import torch

from wxkernels.ops.spectral_filter import dft


@pytest.mark.parametrize(("W", "columns"), [(8, 5), (8, 3), (7, 4), (90, 46), (1, 1), (2, 2)])
def test_over_width_is_rfft_and_irfft(W, columns):
    """irfft drops the imaginary part of k = 0 and of the Nyquist column; so must the matrix."""
    forward, inverse = dft.over_width(W, columns)
    x = torch.randn(W, 3, dtype=torch.float64)
    parts = (forward @ x).view(columns, 2, 3)
    X = torch.fft.rfft(x, dim=0)[:columns]
    torch.testing.assert_close(torch.complex(parts[:, 0], parts[:, 1]), X, rtol=0, atol=1e-12)
    Y = torch.randn(columns, 3, dtype=torch.complex128)
    y = inverse @ torch.view_as_real(Y).transpose(1, 2).reshape(2 * columns, 3)
    torch.testing.assert_close(y, torch.fft.irfft(Y, n=W, dim=0, norm="forward"), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("H", "start", "stop"), [(8, 0, 8), (9, 2, 7), (90, 23, 69)])
def test_over_height_is_fft_and_its_conjugate_transpose_the_inverse(H, start, stop):
    e = dft.over_height(H, start, stop)
    x = torch.randn(H, 3, dtype=torch.complex128)
    X = torch.fft.fft(x, dim=0)
    torch.testing.assert_close(e @ x, X[start:stop], rtol=0, atol=1e-12)
    X[:start], X[stop:] = 0, 0
    back = e.conj().T @ X[start:stop]
    torch.testing.assert_close(back, torch.fft.ifft(X, dim=0, norm="forward"), rtol=0, atol=1e-12)
