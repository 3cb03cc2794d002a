"""The public op: its contract, on whatever backend is chosen."""

import pytest
import torch
import torch.nn.functional as F

from wxkernels.ops import linear_int8, quantize_rows


def arguments(M, K, N):
    """x int8, x_scale, weight int8, weight_scale, bias."""
    generator = torch.Generator().manual_seed(M + K + N)

    def int8(*shape):
        return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

    def scale(*shape):
        return 0.002 + 0.01 * torch.rand(*shape, generator=generator)

    return int8(M, K), scale(M), int8(N, K), scale(N), torch.randn(N, generator=generator)


@pytest.mark.parametrize(("M", "K", "N"), [(1, 1, 1), (15, 33, 7), (17, 96, 31), (4, 2050, 5), (0, 8, 3)])
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh"])
def test_is_the_linear_layer_of_the_scaled_integers(M, K, N, activation):
    x, x_scale, weight, weight_scale, bias = arguments(M, K, N)
    residual = torch.randn(M, N)
    z = F.linear(x * x_scale.double()[:, None], weight * weight_scale.double()[:, None], bias.double())
    gelu = {"gelu": F.gelu, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh")}
    expected = (gelu[activation](z) if activation else z) + residual
    found = linear_int8(
        x, weight, weight_scale, bias, x_scale=x_scale, activation=activation, residual=residual
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), expected, rtol=2e-6, atol=2e-6 * (1 + z.abs().max().item() if M else 1)
    )


def test_the_product_is_exact():
    """Every scale a power of two: float32 then holds the whole result."""
    x, _, weight, *_ = arguments(9, 1000, 6)
    found = linear_int8(x, weight, torch.full((6,), 0.5), x_scale=torch.tensor(0.25))
    assert torch.equal(found, (x.long() @ weight.long().T) / 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_floating_rows_are_quantised_first(dtype):
    _, _, weight, weight_scale, bias = arguments(1, 40, 12)
    x = torch.randn(3, 5, 40).to(dtype)
    q, scale = quantize_rows(x)
    found = linear_int8(x, weight, weight_scale, bias)
    expected = linear_int8(q, weight, weight_scale, bias, x_scale=scale, out_dtype=dtype)
    assert found.dtype == dtype
    assert found.shape == (3, 5, 12)
    torch.testing.assert_close(found, expected)


def test_int8_results():
    x, x_scale, weight, weight_scale, bias = arguments(30, 64, 20)
    options = {"x_scale": x_scale, "activation": "gelu"}
    y = linear_int8(x, weight, weight_scale, bias, **options)
    found = linear_int8(x, weight, weight_scale, bias, out_scale=torch.tensor([0.03]), **options)
    assert found.dtype == torch.int8
    assert found.min() >= -127
    assert found.max() == 127
    difference = (found.int() - (y / 0.03).round().clamp(-127, 127).int()).abs()
    assert difference.max() <= 1
    assert difference.sum() <= 3


def test_dtype_of_the_result():
    x, x_scale, weight, weight_scale, _ = arguments(3, 8, 5)
    half = torch.zeros(3, 5, dtype=torch.bfloat16)

    def dtype(x, **options):
        return linear_int8(x, weight, weight_scale, **options).dtype

    assert dtype(x, x_scale=x_scale) == torch.float32
    assert dtype(x, x_scale=x_scale, residual=half) == torch.bfloat16
    assert dtype(x, x_scale=x_scale, out_dtype=torch.float16) == torch.float16
    assert dtype(torch.randn(3, 8).half()) == torch.float16
    assert dtype(torch.randn(3, 8), residual=half) == torch.bfloat16
    assert dtype(torch.randn(3, 8, dtype=torch.float64)) == torch.float64


def test_one_scale_for_all_rows():
    x, _, weight, weight_scale, bias = arguments(6, 24, 5)
    expected = linear_int8(x, weight, weight_scale, bias, x_scale=torch.full((6,), 0.25))
    for scale in (torch.tensor(0.25), torch.tensor([0.25])):
        assert torch.equal(linear_int8(x, weight, weight_scale, bias, x_scale=scale), expected)


def test_a_nan_stays_in_its_row():
    _, _, weight, weight_scale, bias = arguments(1, 20, 9)
    x = torch.randn(4, 20)
    clean = linear_int8(x, weight, weight_scale, bias)
    x[1, 2], x[2, 19] = float("nan"), float("inf")
    found = linear_int8(x, weight, weight_scale, bias, activation=None)
    assert found[1:3].isnan().all()
    assert torch.equal(found[[0, 3]], clean[[0, 3]])
    assert (linear_int8(x, weight, weight_scale, bias, out_scale=torch.tensor(0.1))[1:3] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(())}, "x: expected (..., K) with K >= 1, got shape ()"),
        ({"x": torch.zeros(3, 8, dtype=torch.int32)}, "x: expected a floating dtype"),
        ({"x": torch.empty(1, 131073)}, "x: expected K <= 131072"),
        ({"weight": torch.zeros(5, 8)}, "weight: expected int8, got torch.float32"),
        ({"weight": torch.zeros(5, 9, dtype=torch.int8)}, "weight: expected (N, 8) for x (..., 8)"),
        ({"weight_scale": torch.ones(4)}, "weight_scale: expected shape (5,) from weight, got (4,)"),
        ({"weight_scale": torch.ones(5, dtype=torch.int8)}, "weight_scale: expected a floating dtype"),
        ({"bias": torch.ones(1, 5)}, "bias: expected shape (5,) from weight"),
        ({"bias": torch.ones(5, device="meta")}, "bias: expected on the device of x"),
        ({"x_scale": torch.ones(3)}, "x_scale: expected None for torch.float32 x"),
        ({"x": torch.zeros(3, 8, dtype=torch.int8)}, "x_scale: expected a scale for int8 x, got None"),
        (
            {"x": torch.zeros(3, 8, dtype=torch.int8), "x_scale": torch.ones(3, 1)},
            "x_scale: expected shape (3,) from x, or one element",
        ),
        ({"residual": torch.zeros(3, 8)}, "residual: expected shape (3, 5) from x and weight"),
        ({"residual": torch.zeros(3, 5, dtype=torch.int8)}, "residual: expected a floating dtype"),
        ({"activation": "relu"}, "activation: expected None, 'gelu', 'gelu_tanh', got 'relu'"),
        ({"out_scale": torch.ones(5)}, "out_scale: expected one element"),
        ({"out_scale": torch.ones(1), "out_dtype": torch.float32}, "out_dtype: expected None or int8"),
        ({"out_dtype": torch.int8}, "out_dtype: expected float32, bfloat16 or float16"),
        ({"out_dtype": torch.float64}, "out_dtype: expected float32, bfloat16 or float16 (float64 only"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    call = {
        "x": torch.zeros(3, 8),
        "weight": torch.zeros(5, 8, dtype=torch.int8),
        "weight_scale": torch.ones(5),
    }
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        linear_int8(**(call | change))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
