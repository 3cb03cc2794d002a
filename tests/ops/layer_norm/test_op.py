"""The public op: its contract, on whatever backend is chosen."""

import pytest
import torch
import torch.nn.functional as F

from wxkernels.ops import layer_norm, quantize_rows


def arguments(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    x, weight, bias = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in (shape, shape[-1:], shape[-1:])
    )
    return 3 * x.to(dtype) + 1, 1 + 0.1 * weight, bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (7,), (17, 33), (2, 3, 4, 19)])
def test_error_is_at_most_twice_that_of_pytorch(shape, dtype):
    x, weight, bias = arguments(*shape, dtype=dtype)
    exact = F.layer_norm(x.double(), shape[-1:], weight, bias, 1e-6)
    plain = F.layer_norm(x, shape[-1:], weight.to(dtype), bias.to(dtype), 1e-6)
    found = layer_norm(x, weight.float(), bias.float())
    assert found.dtype == dtype
    allowed = 2 * (plain.double() - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
    assert (found.double() - exact).abs().max() <= allowed


def test_int8_rows_are_those_of_the_norm():
    x, weight, bias = (t.float() for t in arguments(3, 20, 45))
    q, scale = layer_norm(x, weight, bias, quantize=True)
    expected, expected_scale = quantize_rows(layer_norm(x, weight, bias))
    torch.testing.assert_close(scale, expected_scale, rtol=1e-5, atol=0)
    difference = (q.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.sum() <= 0.005 * q.numel()


def test_constant_channels_give_the_bias():
    weight, bias = torch.randn(12), torch.randn(12)
    x = torch.full((4, 12), 7.0)
    assert torch.equal(layer_norm(x, weight, bias), bias.expand(4, 12))
    q, scale = layer_norm(x, weight, None, quantize=True)
    assert (q == 0).all()
    assert (scale == 1).all()


def test_a_nan_stays_in_its_row():
    x, weight, bias = (t.float() for t in arguments(5, 21))
    clean = layer_norm(x, weight, bias)
    x[2, 3] = float("nan")
    found = layer_norm(x, weight, bias)
    assert found[2].isnan().all()
    assert torch.equal(found[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])
    q, scale = layer_norm(x, weight, bias, quantize=True)
    assert scale.isnan().tolist() == [False, False, True, False, False]
    assert (q[2] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(())}, "x: expected (..., C)"),
        ({"x": torch.zeros(2, 4, dtype=torch.int32)}, "x: expected a floating dtype"),
        ({"weight": torch.ones(5)}, "weight: expected shape (4,) from x"),
        ({"bias": torch.ones(4, dtype=torch.int64)}, "bias: expected a floating dtype"),
        ({"bias": torch.ones(4, device="meta")}, "bias: expected on the device of x, cpu, got meta"),
        ({"eps": -1.0}, "eps: expected >= 0"),
        ({"eps": float("nan")}, "eps: expected >= 0"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    call = {"x": torch.zeros(2, 4), "weight": torch.ones(4), "bias": torch.zeros(4)} | change
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        layer_norm(**call)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
