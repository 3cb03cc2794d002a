"""The public op: its contract, on whatever backend is chosen."""

import pytest
import torch
import torch.nn.functional as F

from wxkernels.ops import linear_fp8, quantize_rows

E4M3 = torch.float8_e4m3fn


def arguments(M, K, N):
    """x e4m3, x_scale, weight e4m3, weight_scale, bias."""
    generator = torch.Generator().manual_seed(M + K + N)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def scale(*shape):
        return 0.002 + 0.01 * torch.rand(*shape, generator=generator)

    return (100 * normal(M, K)).to(E4M3), scale(M), (100 * normal(N, K)).to(E4M3), scale(N), normal(N)


@pytest.mark.parametrize(("M", "K", "N"), [(1, 1, 1), (17, 96, 31), (0, 8, 3)])
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh"])
def test_is_the_linear_layer_of_the_scaled_numbers(M, K, N, activation):
    x, x_scale, weight, weight_scale, bias = arguments(M, K, N)
    residual = torch.randn(M, N)
    z = F.linear(x.double() * x_scale[:, None], weight.double() * weight_scale[:, None], bias.double())
    gelu = {"gelu": F.gelu, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh")}
    expected = (gelu[activation](z) if activation else z) + residual
    options = {"x_scale": x_scale, "activation": activation, "residual": residual}
    found = linear_fp8(x, weight, weight_scale, bias, **options)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_floating_rows_are_quantised_first(dtype):
    _, _, weight, weight_scale, bias = arguments(1, 40, 12)
    x = torch.randn(3, 5, 40).to(dtype)
    q, scale = quantize_rows(x, E4M3)
    found = linear_fp8(x, weight, weight_scale, bias)
    assert (found.dtype, found.shape) == (dtype, (3, 5, 12))
    again = linear_fp8(q, weight, weight_scale, bias, x_scale=scale)
    torch.testing.assert_close(found.float(), again, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_e4m3_results():
    x, x_scale, weight, weight_scale, bias = arguments(30, 64, 20)
    options = {"x_scale": x_scale, "activation": "gelu"}
    y = linear_fp8(x, weight, weight_scale, bias, **options)
    scale = y.max() / 500  # the largest are beyond 448
    found = linear_fp8(x, weight, weight_scale, bias, out_scale=scale, **options)
    assert found.dtype == E4M3
    assert found.float().max() == 448
    expected = (y / scale).clamp(max=448)
    assert ((found.float() - expected).abs() <= 2**-4 * expected.abs() + 2**-10).all()


def test_a_nan_stays_in_its_row():
    _, _, weight, weight_scale, bias = arguments(1, 20, 9)
    x = torch.randn(4, 20)
    clean = linear_fp8(x, weight, weight_scale, bias)
    x[1, 2], x[2, 19] = float("nan"), float("inf")
    found = linear_fp8(x, weight, weight_scale, bias)
    assert found[1:3].isnan().all()
    assert torch.equal(found[[0, 3]], clean[[0, 3]])
    assert linear_fp8(x, weight, weight_scale, bias, out_scale=torch.tensor(0.1))[1:3].float().isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 8, dtype=torch.int8)}, "x: expected a floating dtype"),
        ({"weight": torch.zeros(5, 8)}, "weight: expected float8_e4m3fn, got torch.float32"),
        ({"x": torch.zeros(3, 8).to(E4M3)}, "x_scale: expected a scale for float8_e4m3fn x, got None"),
        ({"out_scale": torch.ones(1), "out_dtype": torch.int8}, "out_dtype: expected None or float8_e4m3fn"),
        ({"out_dtype": E4M3}, "out_dtype: expected float32, bfloat16 or float16"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    call = {"x": torch.zeros(3, 8), "weight": torch.zeros(5, 8).to(E4M3), "weight_scale": torch.ones(5)}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        linear_fp8(**(call | change))
    assert str(caught.value).startswith(message)
