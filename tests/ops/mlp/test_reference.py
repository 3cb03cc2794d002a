"""The specification against PyTorch's own modules, and its precisions against what they promise."""

import pytest
import torch
from torch import nn

from wxkernels.ops import layer_norm, linear_int8
from wxkernels.ops.mlp import reference


class Plain(nn.Module):
    """The second half of the published block."""

    def __init__(self, C, D, approximate="none"):
        super().__init__()
        self.norm = nn.LayerNorm(C, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(C, D), nn.Linear(D, C)
        self.act = nn.GELU(approximate=approximate)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return x + self.fc2(self.act(self.fc1(self.norm(x))))

    def floating(self):
        tensors = (
            self.norm.weight,
            self.norm.bias,
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
        )
        return [t.detach() for t in tensors]


def quantised(weight):
    scale = weight.abs().amax(1) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize(("shape", "D"), [((1, 1), 3), ((17, 12), 48), ((2, 3, 5, 7), 10)])
def test_equals_the_modules_in_float64(shape, D, activation):
    plain = Plain(shape[-1], D, "tanh" if activation == "gelu_tanh" else "none").double()
    x = torch.randn(shape, dtype=torch.float64)
    found = reference.mlp(x, *plain.floating(), None, None, None, 0, 1e-6, activation)
    torch.testing.assert_close(found, plain(x), rtol=1e-12, atol=1e-12)


def test_bfloat16_weights_round_the_operands_and_nothing_else():
    plain = Plain(24, 60)
    x = torch.randn(50, 24)
    weights = plain.floating()
    weights[2], weights[4] = weights[2].bfloat16(), weights[4].bfloat16()
    found = reference.mlp(x, *weights, None, None, None, 0, 1e-6, "gelu")
    n = plain.norm(x).bfloat16().double()
    hidden = nn.functional.gelu(n @ weights[2].double().T + weights[3])
    expected = x + hidden.float().bfloat16().double() @ weights[4].double().T + weights[5]
    assert found.dtype == torch.float32
    # A hidden value next to the middle of two bfloat16 numbers may go either way.
    assert (found - expected).abs().mean() < 1e-5
    whole = reference.mlp(x, *plain.floating(), None, None, None, 0, 1e-6, "gelu")
    assert (found - whole).abs().mean() > 1e-4


@pytest.mark.parametrize("offset", [-127, -90, 3])
def test_the_hidden_offset_is_exact_in_integers(offset):
    plain = Plain(24, 60).double()
    norm_weight, norm_bias, fc1, fc1_bias, fc2, fc2_bias = plain.floating()
    x, (fc1, fc1_scale), (fc2, fc2_scale) = torch.randn(50, 24).double(), quantised(fc1), quantised(fc2)
    hidden_scale = torch.tensor(0.02)
    layers = norm_weight, norm_bias, fc1, fc1_bias, fc2, fc2_bias
    found = reference.mlp(x, *layers, fc1_scale, fc2_scale, hidden_scale, offset, 1e-6, "gelu")
    q, scale = layer_norm(x, norm_weight, norm_bias, quantize=True)
    zeros = x.new_zeros(50, 60)  # float64
    hidden = linear_int8(q, fc1, fc1_scale, fc1_bias, x_scale=scale, activation="gelu", residual=zeros)
    units = (hidden / hidden_scale + offset).round().clamp(-127, 127) - offset
    assert units.min() == max(-127 - offset, (hidden / hidden_scale).round().min())
    expected = x + hidden_scale * fc2_scale * (units @ fc2.double().T) + fc2_bias
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_int8_is_the_chain_of_the_ops():
    plain = Plain(24, 60)
    x = torch.randn(50, 24)
    norm_weight, norm_bias, fc1, fc1_bias, fc2, fc2_bias = plain.floating()
    (fc1, fc1_scale), (fc2, fc2_scale) = quantised(fc1), quantised(fc2)
    hidden_scale = torch.tensor(0.02)
    found = reference.mlp(
        x,
        norm_weight,
        norm_bias,
        fc1,
        fc1_bias,
        fc2,
        fc2_bias,
        fc1_scale,
        fc2_scale,
        hidden_scale,
        0,
        1e-6,
        "gelu",
    )
    q, scale = layer_norm(x, norm_weight, norm_bias, quantize=True)
    hidden = linear_int8(
        q, fc1, fc1_scale, fc1_bias, x_scale=scale, activation="gelu", out_scale=hidden_scale
    )
    expected = linear_int8(hidden, fc2, fc2_scale, fc2_bias, x_scale=hidden_scale, residual=x)
    assert (found - expected).abs().mean() < 1e-5
    assert 1e-4 < (found - plain(x)).abs().mean() < 1e-2
