"""The specification against nn.Linear and the index formula, point by point."""

import itertools

import pytest
import torch
from torch import nn

from wxkernels.ops.patch_head import reference


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("h", "w", "p", "q", "N"), [(1, 1, 1, 1, 1), (2, 3, 4, 2, 3), (3, 1, 1, 5, 2)])
def test_equals_the_linear_layer_with_the_channel_fastest(h, w, p, q, N, bias):
    module = nn.Linear(6, p * q * N, bias=bias, dtype=torch.float64)
    tokens = torch.randn(2, h, w, 6, dtype=torch.float64)
    y = module(tokens)
    expected = torch.empty(2, N, h * p, w * q, dtype=torch.float64)
    for i, j, r, s, c in itertools.product(range(h), range(w), range(p), range(q), range(N)):
        expected[:, c, p * i + r, q * j + s] = y[:, i, j, (r * q + s) * N + c]
    found = reference.patch_head(tokens, module.weight, module.bias, (p, q))
    torch.testing.assert_close(found, expected)


def test_bfloat16_weights_round_tokens_only():
    tokens, weight = torch.randn(2, 3, 4, 48), torch.randn(10, 48).bfloat16()
    found = reference.patch_head(tokens, weight, None, (1, 2))
    rounded = reference.patch_head(tokens.bfloat16().double(), weight.double(), None, (1, 2))
    whole = reference.patch_head(tokens.double(), weight.double(), None, (1, 2))
    assert found.dtype == torch.float32
    assert (found - rounded).abs().max() < 1e-4 < (found - whole).abs().mean()
