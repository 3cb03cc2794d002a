"""The specification against PyTorch's own module, and against the formula written out."""

import pytest
import torch
from torch import nn

from wxkernels.ops.layer_norm import reference
from wxkernels.ops.quantize_rows.reference import quantize_rows


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 7, 13)])
def test_equals_nn_layer_norm(shape, bias):
    module = nn.LayerNorm(shape[-1], eps=1e-5, bias=bias, dtype=torch.float64)
    nn.init.normal_(module.weight)
    x = torch.randn(shape, dtype=torch.float64)
    found = reference.layer_norm(x, module.weight, module.bias, 1e-5)
    torch.testing.assert_close(found, module(x), rtol=0, atol=0)


def test_the_variance_is_the_biased_one():
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 3), (3,), (3,)))
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight + bias
    torch.testing.assert_close(reference.layer_norm(x, weight, bias, 0.1), expected)


def test_int8_comes_before_the_rounding_to_half():
    x, weight = torch.randn(30, 40).bfloat16(), torch.ones(40)
    q, scale = reference.layer_norm_int8(x, weight, None, 1e-6)
    expected, expected_scale = quantize_rows(reference.layer_norm(x.float(), weight, None, 1e-6))
    assert torch.equal(q, expected)
    assert torch.equal(scale, expected_scale)
