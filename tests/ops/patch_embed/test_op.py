"""The public op: its contract, on whatever backend is chosen."""

import pytest
import torch

from wxkernels.ops import patch_embed
from wxkernels.ops.patch_embed import reference


def arguments(B, C, h, w, p, q, D, dtype=torch.float32, weights=torch.float32):
    generator = torch.Generator().manual_seed(B + C + h + w + D)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    x = normal(B, C, h * p, w * q).to(dtype)
    return x, normal(D, C, p, q).to(weights) / (C * p * q) ** 0.5, normal(D), normal(1, h * w, D)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1, 1, 1), (2, 3, 5, 7, 2, 3, 11), (1, 20, 3, 4, 8, 8, 24), (1, 2, 17, 1, 1, 5, 3)]
)
def test_error_is_at_most_twice_that_of_the_reference(shape, dtype, weights):
    tensors = arguments(*shape, dtype, weights)
    B, _, h, w, _, _, D = shape
    exact = reference.patch_embed(*(t.double() for t in tensors), None)
    plain = reference.patch_embed(*tensors, None)
    found = patch_embed(*tensors)
    assert (found.dtype, found.shape) == (dtype, (B, h, w, D))
    allowed = 2 * (plain.double() - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
    assert (found.double() - exact).abs().max() <= allowed


def test_positions_of_every_kind():
    x, weight, bias, pos_embed = arguments(2, 3, 5, 7, 2, 3, 11)
    without = patch_embed(x, weight, bias)
    torch.testing.assert_close(patch_embed(x, weight, bias, pos_embed), without + pos_embed.view(1, 5, 7, 11))
    half = pos_embed.bfloat16()
    torch.testing.assert_close(patch_embed(x, weight, bias, half), without + half.float().view(1, 5, 7, 11))
    pos_scale = pos_embed.abs().amax(-1).view(-1) / 127
    q = (pos_embed / pos_scale[:, None]).round().to(torch.int8)
    found = patch_embed(x, weight, bias, q, pos_scale=pos_scale)
    torch.testing.assert_close(found, without + (q * pos_scale[:, None]).view(1, 5, 7, 11))


def test_no_bias():
    x, weight, bias, _ = arguments(2, 3, 5, 7, 2, 3, 11)
    torch.testing.assert_close(patch_embed(x, weight, None) + bias, patch_embed(x, weight, bias))


def test_a_nan_stays_in_its_patch():
    x, weight, bias, pos_embed = arguments(1, 3, 5, 7, 2, 3, 11)
    x[0, 1, 2 * 3 + 1, 3 * 4] = float("nan")
    found = patch_embed(x, weight, bias, pos_embed)
    assert found[0, 3, 4].isnan().all()
    assert found.isnan().sum() == 11


X, WEIGHT, BIAS, POS = arguments(1, 3, 2, 4, 2, 3, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X[0]}, "x: expected (B, C, H, W), got shape"),
        ({"x": X[..., :-1]}, "x: expected whole patches of 2 x 3, got 4 x 11 points"),
        ({"x": X.int()}, "x: expected a floating dtype"),
        ({"weight": WEIGHT[:, :2]}, "weight: expected (D, 3, p, q) for x (B, 3, H, W), got (5, 2, 2, 3)"),
        ({"weight": WEIGHT.to(torch.int8)}, "weight: expected a floating dtype"),
        ({"bias": BIAS[:1]}, "bias: expected shape (5,) from weight"),
        ({"pos_embed": POS[0]}, "pos_embed: expected shape (1, 8, 5) from x and weight"),
        ({"pos_embed": POS.int()}, "pos_embed: expected a floating dtype"),
        ({"pos_embed": POS.to(torch.int8)}, "pos_scale: expected a scale for int8 pos_embed, got None"),
        ({"pos_embed": POS.to(torch.int8), "pos_scale": torch.ones(5)}, "pos_scale: expected shape (8,)"),
        ({"pos_scale": torch.ones(8)}, "pos_scale: expected None without int8 pos_embed"),
        ({"bias": BIAS.to("meta")}, "bias: expected on the device of x"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    call = {"x": X, "weight": WEIGHT, "bias": BIAS, "pos_embed": POS} | change
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        patch_embed(**call)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
