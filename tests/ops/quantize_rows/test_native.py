"""int8 rows in C++ against the reference, on every instruction set that this machine has."""

import pytest
import torch

from wxkernels.ops.quantize_rows import native, reference

if native.unavailable():
    pytest.skip(native.unavailable(), allow_module_level=True)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", [0, 1, 15, 17])
@pytest.mark.parametrize("K", [1, 3, 16, 31, 64, 100, 769])
def test_equals_the_reference(isa, M, K, dtype):
    x = (torch.randn(M, K, generator=torch.Generator().manual_seed(M * K)) * 3).to(dtype)
    q, scale = native.quantize_rows(x)
    expected, expected_scale = reference.quantize_rows(x)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(q, expected)


@pytest.mark.parametrize("size", [1e-45, 1e-42, 1e-38, 1e-30, 1e30, 3e38])
def test_outliers_and_the_ends_of_the_range(isa, size):
    x = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) * size
    x[::2] /= 100
    x[torch.arange(20), torch.arange(20)] = size
    for found, expected in zip(native.quantize_rows(x), reference.quantize_rows(x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_broken_rows(isa, dtype):
    x = torch.randn(40, 37).to(dtype)
    x[3] = 0
    for row, value in ((5, "nan"), (6, "inf"), (7, "-inf")):
        x[row, 36] = float(value)
    q, scale = native.quantize_rows(x)
    expected, expected_scale = reference.quantize_rows(x)
    torch.testing.assert_close(scale, expected_scale, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(q, expected)
    assert (q[[3, 5, 6, 7]] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_wider_tensor_are_read_in_place(isa, dtype):
    whole = torch.full((9, 80), float("nan"), dtype=dtype)
    view = whole[::2, 5:42]
    view.copy_(torch.randn(5, 37))
    for found, expected in zip(native.quantize_rows(view), native.quantize_rows(view.clone()), strict=True):
        assert torch.equal(found, expected)


def test_bits_do_not_depend_on_rows_or_threads(isa):
    x = torch.randn(50, 33)
    q, scale = native.quantize_rows(x)
    torch.set_num_threads(3)
    again = native.quantize_rows(x)
    assert torch.equal(again[0], q)
    assert torch.equal(again[1], scale)
    for i in (0, 7, 49):
        alone = native.quantize_rows(x[i])
        assert torch.equal(alone[0], q[i])
        assert torch.equal(alone[1], scale[i])


def test_what_it_does_not_take():
    x = torch.zeros(2, 3)
    assert native.unsupported(x) is None
    assert "float64" in native.unsupported(x.double())
    assert "meta" in native.unsupported(x.to("meta"))
