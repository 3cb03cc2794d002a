"""Arguments of the spectral filter for the tests of its GPU backends."""

import torch


def arguments(B, H, W, nb, bs, f, dtype):
    """Weights that keep the filter's part of the result as large as x, so that its error is seen."""
    generator = torch.Generator().manual_seed(B + H + W + nb + bs)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = [
        normal(B, H, W, nb * bs),
        normal(2, nb, bs, bs * f) / (2 * bs) ** 0.5,
        normal(2, nb, bs * f) * 0.1,
        normal(2, nb, bs * f, bs) / (bs * f) ** 0.5,
        normal(2, nb, bs) * 0.1,
    ]
    return [t.to(dtype) for t in tensors]
