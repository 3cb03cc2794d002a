"""The specification against nn.Conv2d."""

import pytest
import torch
from torch import nn

from wxkernels.ops.patch_embed import reference


@pytest.mark.parametrize(("h", "w", "p", "q"), [(1, 1, 1, 1), (3, 5, 2, 3), (4, 2, 8, 8)])
def test_equals_the_convolution(h, w, p, q):
    module = nn.Conv2d(3, 10, kernel_size=(p, q), stride=(p, q), dtype=torch.float64)
    x = torch.randn(2, 3, h * p, w * q, dtype=torch.float64)
    pos_embed = torch.randn(1, h * w, 10, dtype=torch.float64)
    expected = (module(x).flatten(2).transpose(1, 2) + pos_embed).view(2, h, w, 10)
    found = reference.patch_embed(x, module.weight, module.bias, pos_embed, None)
    torch.testing.assert_close(found, expected)


def test_bfloat16_weights_round_x_only():
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(10, 3, 4, 4).bfloat16()
    found = reference.patch_embed(x, weight, None, None, None)
    rounded = reference.patch_embed(x.bfloat16().double(), weight.double(), None, None, None)
    whole = reference.patch_embed(x.double(), weight.double(), None, None, None)
    assert found.dtype == torch.float32
    assert (found - rounded).abs().max() < 1e-4 < (found - whole).abs().mean()
