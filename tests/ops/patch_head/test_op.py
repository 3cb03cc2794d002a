"""The public op: its contract, on whatever backend is chosen."""

import pytest
import torch

from wxkernels.ops import patch_head
from wxkernels.ops.patch_head import reference


def arguments(B, h, w, D, p, q, N, dtype=torch.float32, weights=torch.float32):
    """tokens, weight and bias for N fields."""
    generator = torch.Generator().manual_seed(B + h + w + D + N)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    weight = (normal(p * q * N, D) / D**0.5).to(weights)
    return normal(B, h, w, D).to(dtype), weight, normal(p * q * N)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1, 1, 1), (2, 5, 7, 11, 2, 3, 4), (1, 3, 4, 24, 8, 8, 20), (1, 17, 1, 3, 1, 5, 2)]
)
def test_error_is_at_most_twice_that_of_the_reference(shape, dtype, weights):
    B, h, w, _, p, q, N = shape
    tokens, weight, bias = arguments(*shape, dtype, weights)
    exact = reference.patch_head(tokens.double(), weight.double(), bias.double(), (p, q))
    plain = reference.patch_head(tokens, weight, bias, (p, q))
    found = patch_head(tokens, weight, (p, q), bias)
    assert (found.dtype, found.shape) == (dtype, (B, N, h * p, w * q))
    allowed = 2 * (plain.double() - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
    assert (found.double() - exact).abs().max() <= allowed


def test_no_bias():
    tokens, weight, bias = arguments(2, 5, 7, 11, 2, 3, 4)
    found = patch_head(tokens, weight, (2, 3), bias) - patch_head(tokens, weight, (2, 3))
    points = bias.view(2, 3, 4).permute(2, 0, 1).repeat(1, 5, 7)
    torch.testing.assert_close(found, points.expand_as(found), rtol=0, atol=1e-5)


def test_a_nan_stays_in_its_patch():
    tokens, weight, bias = arguments(1, 5, 7, 11, 2, 3, 4)
    tokens[0, 3, 4, 10] = float("nan")
    found = patch_head(tokens, weight, (2, 3), bias)
    assert found[0, :, 6:8, 12:15].isnan().all()
    assert found.isnan().sum() == 4 * 2 * 3


TOKENS, WEIGHT, BIAS = arguments(1, 2, 4, 5, 2, 3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": TOKENS[0]}, "tokens: expected (B, h, w, D)"),
        ({"tokens": TOKENS.int()}, "tokens: expected a floating dtype"),
        ({"patch_size": (2, 3, 1)}, "patch_size: expected (p, q), both >= 1, got (2, 3, 1)"),
        ({"patch_size": (0, 3)}, "patch_size: expected (p, q), both >= 1"),
        (
            {"patch_size": (5, 5)},
            "weight: expected (5 * 5 * C_out, 5) from patch_size and tokens, got (24, 5)",
        ),
        ({"weight": WEIGHT[:, :4]}, "weight: expected (2 * 3 * C_out, 5)"),
        ({"weight": WEIGHT.to(torch.int8)}, "weight: expected a floating dtype"),
        ({"bias": BIAS[:1]}, "bias: expected shape (24,) from weight"),
        ({"bias": BIAS.to("meta")}, "bias: expected on the device of tokens"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    call = {"tokens": TOKENS, "weight": WEIGHT, "patch_size": (2, 3), "bias": BIAS} | change
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        patch_head(**call)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
