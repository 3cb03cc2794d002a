"""Patch embeddings that a processor gets wrong in bfloat16 are products in the peers of the benchmark."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wxkernels.bench import convolution


@pytest.fixture
def broken(monkeypatch):
    """bfloat16 convolutions as they are on some processors."""
    right = F.conv2d

    def conv2d(x, *rest, **options):
        y = right(x, *rest, **options)
        return torch.randn_like(y) if x.dtype == torch.bfloat16 else y

    monkeypatch.setattr(F, "conv2d", conv2d)


@pytest.fixture
def network():
    # The last one is none of patches of x.
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 4, stride=4)), nn.Conv2d(8, 2, 3))


def test_as_a_product_it_is_the_same():
    x, weight, bias = (
        torch.randn(2, 3, 8, 12).double(),
        torch.randn(5, 3, 4, 2).double(),
        torch.randn(5).double(),
    )
    for b in (bias, None):
        expected = F.conv2d(x, weight, b, stride=(4, 2))
        torch.testing.assert_close(convolution.by_patches(x, weight, b), expected)


def test_what_is_wrong_is_replaced(broken, network):
    x = torch.randn(2, 3, 16, 20)
    expected, last = network(x), network[1]
    convolution.mend(network, x)
    assert not isinstance(network[0][0], nn.Conv2d)
    assert network[1] is last
    torch.testing.assert_close(network(x), expected)
    assert list(network.state_dict()) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]


def test_what_is_right_stays(network, monkeypatch):
    in_float32 = F.conv2d

    def conv2d(x, weight, bias, stride):
        return in_float32(x.float(), weight.float(), bias.float(), stride).to(x.dtype)

    monkeypatch.setattr(F, "conv2d", conv2d)
    before = network[0][0]
    convolution.mend(network, torch.randn(1, 3, 8, 8))
    assert network[0][0] is before
