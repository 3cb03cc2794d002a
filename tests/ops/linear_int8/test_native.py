"""The C++ int8 layer against the reference, on every instruction set that this machine has."""

import threading

import pytest
import torch

from wxkernels.ops.linear_int8 import native, reference
from wxkernels.ops.quantize_rows import native as rows

if native.unavailable() or rows.unavailable():
    pytest.skip(native.unavailable() or rows.unavailable(), allow_module_level=True)

SHAPES = [  # M, K, N: tiles in part, K of no whole group of four
    (0, 8, 8),
    (1, 1, 1),
    (1, 768, 64),
    (15, 3, 17),
    (17, 96, 31),
    (16, 64, 16),
    (33, 101, 130),
    (5, 770, 9),
    (130, 36, 3),
    (2, 4099, 5),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def arguments(M, K, N, seed=0):
    """x int8, weight int8, weight_scale, bias, x_scale."""
    generator = torch.Generator().manual_seed(seed + M + K + N)

    def int8(*shape):
        return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

    def scale(*shape):
        return (0.5 + torch.rand(*shape, generator=generator)) / (70 * K**0.25)

    return int8(M, K), int8(N, K), scale(N), torch.randn(N, generator=generator), scale(M)


def run(x, weight, weight_scale, bias=None, x_scale=None, **options):
    names = ("residual", "out_scale", "activation", "out_dtype")
    given = {"residual": None, "out_scale": None, "activation": "none", "out_dtype": torch.float32} | options
    args = (x, weight, weight_scale, bias, x_scale, *(given[name] for name in names))
    assert native.unsupported(*args[:7]) is None
    return native.linear_int8(*args), reference.linear_int8(*args)


@pytest.mark.parametrize("shape", SHAPES)
def test_integers_are_exact(isa, shape):
    """Scales of one: float32 holds the products up to 2^24, and rounds the larger ones once."""
    x, weight, *_ = arguments(*shape)
    found, expected = run(x, weight, torch.ones(len(weight)), x_scale=torch.tensor(1.0))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("K", [4096, 131072])
def test_the_largest_product_fits(isa, K, sign):
    x = torch.full((2, K), 127, dtype=torch.int8)
    found, _ = run(x, sign * x[:1], torch.ones(1), x_scale=torch.tensor(1.0))
    assert found.tolist() == [[float(torch.tensor(sign * 127 * 127 * K, dtype=torch.float32))]] * 2


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_at_most_twice_that_of_pytorch(isa, shape, activation):
    tensors = arguments(*shape)
    residual = torch.randn(shape[0], shape[2])
    found, plain = run(*tensors, residual=residual, activation=activation)
    exact = reference.linear_int8(*tensors, residual, None, activation, torch.float64)
    if found.numel():
        largest = exact.abs().max().clamp(min=1)  # the scale of what is added up
        allowed = 2 * (plain - exact).abs().max() + 2e-7 * largest
        assert (found - exact).abs().max() <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_of_residual_and_result(isa, dtype):
    tensors = arguments(19, 50, 37)
    residual = torch.randn(19, 37).to(dtype)
    for options in ({"residual": residual}, {"residual": residual, "out_dtype": dtype}, {"out_dtype": dtype}):
        found, expected = run(*tensors, **options)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_results(isa, shape, activation):
    found, expected = run(
        *arguments(*shape), out_scale=torch.tensor(0.02), activation=activation, out_dtype=torch.int8
    )
    difference = (found.int() - expected.int()).abs()
    assert difference.amax() <= 1 if found.numel() else True
    assert difference.sum() <= 1 + 1e-3 * found.numel()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_floating_rows_are_those_of_quantize_rows(isa, shape, dtype):
    _, *tensors, _ = arguments(*shape)
    x = torch.randn(shape[0], shape[1]).to(dtype)
    q, scale = rows.quantize_rows(x)
    for options in ({}, {"activation": "gelu", "residual": torch.randn(shape[0], shape[2])}):
        assert torch.equal(run(x, *tensors, **options)[0], run(q, *tensors, scale, **options)[0])


def test_gelu_to_float32_accuracy(isa):
    """One product a value, -1 or 1: the scales carry z from -12 to 12 through the epilogue."""
    z = torch.linspace(-12, 12, 4001)
    x, weight = torch.full((4001, 1), 1, dtype=torch.int8), torch.ones(1, 1, dtype=torch.int8)
    for activation, approximate in (("gelu", "none"), ("gelu_tanh", "tanh")):
        found, _ = run(x, weight, torch.ones(1), x_scale=z, activation=activation)
        exact = torch.nn.functional.gelu(z.double(), approximate=approximate)
        plain = torch.nn.functional.gelu(z, approximate=approximate)
        assert (found[:, 0] - exact).abs().max() <= 2 * (plain - exact).abs().max()


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_stays_in_its_row(isa, bad):
    _, *tensors, _ = arguments(20, 37, 21)
    x = torch.randn(20, 37)
    clean, _ = run(x, *tensors, activation="gelu")
    x[11, 36] = float(bad)
    found, _ = run(x, *tensors, activation="gelu")
    others = torch.arange(20) != 11
    assert found[11].isnan().all()
    assert torch.equal(found[others], clean[others])
    to_int8, _ = run(x, *tensors, out_scale=torch.tensor(0.1), out_dtype=torch.int8)
    assert (to_int8[11] == 0).all()


@pytest.mark.parametrize("dtype", [torch.int8, *DTYPES])
def test_strided_rows(isa, dtype):
    x, *tensors, x_scale = arguments(5, 37, 11)
    x = x.to(dtype)
    scale = x_scale if dtype == torch.int8 else None
    filler = -128 if dtype == torch.int8 else float("nan")
    whole = torch.full((9, 80), filler, dtype=dtype)
    view = whole[::2, 5:42]
    view.copy_(x)
    residual = torch.randn(11, 5).t()
    found, _ = run(view, *tensors, scale, residual=residual)
    assert torch.equal(found, run(x, *tensors, scale, residual=residual.contiguous())[0])


@pytest.mark.parametrize("quantised", [True, False])
def test_bits_do_not_depend_on_rows_or_threads(isa, quantised):
    x, *tensors, x_scale = arguments(70, 45, 37)
    if not quantised:
        x, x_scale = x * x_scale[:, None], None
    y, _ = run(x, *tensors, x_scale, activation="gelu")
    torch.set_num_threads(3)
    assert torch.equal(run(x, *tensors, x_scale, activation="gelu")[0], y)
    for i in (0, 7, 69):
        scale = None if x_scale is None else x_scale[i : i + 1]
        assert torch.equal(run(x[i : i + 1], *tensors, scale, activation="gelu")[0], y[i : i + 1])


def test_calls_from_several_threads_at_once():
    sets = [arguments(20 + i, 40, 24, seed=i) for i in range(4)]
    alone = [run(*tensors)[0] for tensors in sets]
    wrong = []

    def work(i):
        for _ in range(20):
            if not torch.equal(run(*sets[i])[0], alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_it_does_not_take():
    x, weight, weight_scale, bias, x_scale = arguments(2, 3, 4)
    tensors = (weight, weight_scale, bias)
    assert native.unsupported(x, *tensors, x_scale, None, None) is None
    assert "float64" in native.unsupported(x.double(), *tensors, None, None, None)
    assert "residual is float64" in native.unsupported(x, *tensors, x_scale, torch.zeros(2, 4).double(), None)
    assert "meta" in native.unsupported(x.to("meta"), *tensors, x_scale, None, None)
