"""The C++ layer norm against the float64 reference, on every instruction set that this machine has."""

import pytest
import torch

from wxkernels.ops.layer_norm import native, reference

if native.unavailable():
    pytest.skip(native.unavailable(), allow_module_level=True)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-6


def arguments(M, C, dtype=torch.float32):
    generator = torch.Generator().manual_seed(M * C)
    x, weight, bias = (torch.randn(*size, generator=generator) for size in ((M, C), (C,), (C,)))
    return (3 * x + 2).to(dtype), 1 + 0.3 * weight, bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", [0, 1, 15, 17])
@pytest.mark.parametrize("C", [1, 3, 16, 33, 64, 101, 768])
def test_error_is_at_most_twice_that_of_pytorch(isa, M, C, dtype):
    x, weight, bias = arguments(M, C, dtype)
    exact = reference.layer_norm(x.double(), weight, bias, EPS)
    plain = reference.layer_norm(x, weight, bias, EPS)
    found = native.layer_norm(x, weight, bias, EPS)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    if M:
        chance = torch.finfo(dtype).eps * exact.abs().max()  # of few values the largest error is luck
        allowed = 2 * (plain.double() - exact).abs().max() + chance
        assert (found.double() - exact).abs().max() <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [2, 16, 33, 100, 768])
def test_int8_rows(isa, C, dtype):
    x, weight, bias = arguments(30, C, dtype)
    q, scale = native.layer_norm_int8(x, weight, bias, EPS)
    expected, expected_scale = reference.layer_norm_int8(x, weight, bias, EPS)
    torch.testing.assert_close(scale, expected_scale, rtol=1e-5, atol=0)
    difference = (q.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.sum() <= 1 + 0.005 * q.numel()


def test_an_offset_of_a_thousand_deviations(isa):
    """The mean is taken off before squares are summed: E[x^2] - mean^2 would lose every digit."""
    x, weight, bias = arguments(20, 257)
    x = x + 3000
    exact = reference.layer_norm(x.double(), weight, bias, EPS)
    plain = reference.layer_norm(x, weight, bias, EPS)
    found = native.layer_norm(x, weight, bias, EPS)
    assert (found - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-6


@pytest.mark.parametrize("outlier", [1e3, 1e9, 1e15])
def test_a_huge_channel(isa, outlier):
    x, weight, bias = arguments(20, 1000)
    x[:, 7] = outlier
    exact = reference.layer_norm(x.double(), weight, bias, EPS)
    plain = reference.layer_norm(x, weight, bias, EPS)
    found = native.layer_norm(x, weight, bias, EPS)
    assert (found - exact).abs().max() <= 2 * (plain - exact).abs().max()


def test_weights_of_another_dtype_and_no_bias(isa):
    x, weight, bias = arguments(5, 20)
    found = native.layer_norm(x, weight.bfloat16(), bias.bfloat16(), EPS)
    expected = native.layer_norm(x, weight.bfloat16().float(), bias.bfloat16().float(), EPS)
    assert torch.equal(found, expected)
    without = native.layer_norm(x, weight, None, EPS)
    torch.testing.assert_close(without, reference.layer_norm(x, weight, None, EPS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_stays_in_its_row(isa, dtype, bad):
    x, weight, bias = arguments(20, 37, dtype)
    clean = native.layer_norm(x, weight, bias, EPS)
    x[11, 36] = float(bad)
    found = native.layer_norm(x, weight, bias, EPS)
    others = torch.arange(20) != 11
    assert found[11].isnan().all()
    assert torch.equal(found[others], clean[others])
    q, scale = native.layer_norm_int8(x, weight, bias, EPS)
    assert scale.isnan().nonzero().tolist() == [[11]]
    assert (q[11] == 0).all()


def test_zero_rows_scale_by_one(isa):
    q, scale = native.layer_norm_int8(torch.full((3, 50), 4.0), torch.ones(50), torch.zeros(50), EPS)
    assert (q == 0).all()
    assert (scale == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_rows(isa, dtype):
    x, weight, bias = arguments(5, 37, dtype)
    whole = torch.full((9, 80), float("nan"), dtype=dtype)
    view = whole[::2, 5:42]
    view.copy_(x)
    assert torch.equal(native.layer_norm(view, weight, bias, EPS), native.layer_norm(x, weight, bias, EPS))
    transposed = x.t().contiguous().t()
    assert torch.equal(
        native.layer_norm(transposed, weight, bias, EPS), native.layer_norm(x, weight, bias, EPS)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_rows_or_threads(isa, dtype):
    x, weight, bias = arguments(50, 45, dtype)
    y = native.layer_norm(x, weight, bias, EPS)
    q, scale = native.layer_norm_int8(x, weight, bias, EPS)
    torch.set_num_threads(3)
    assert torch.equal(native.layer_norm(x, weight, bias, EPS), y)
    for i in (0, 7, 49):
        assert torch.equal(native.layer_norm(x[i], weight, bias, EPS), y[i])
        alone = native.layer_norm_int8(x[i], weight, bias, EPS)
        assert torch.equal(alone[0], q[i])
        assert torch.equal(alone[1], scale[i])


def test_a_large_result_has_the_bits_of_a_small_one(isa):
    """Of 16 MB and more it is written past the caches."""
    x, weight, bias = arguments(5500, 768)
    y = native.layer_norm(x, weight, bias, EPS)
    assert torch.equal(y[-50:], native.layer_norm(x[-50:], weight, bias, EPS))
    assert torch.equal(y[:50], native.layer_norm(x[:50], weight, bias, EPS))


def test_what_it_does_not_take():
    x, weight, bias = arguments(2, 3)
    assert native.unsupported(x, weight, bias) is None
    assert "float64" in native.unsupported(x.double(), weight, bias)
    assert "meta" in native.unsupported(x.to("meta"), weight, bias)
