"""The public op: its contract, on whatever backend is chosen."""

import pytest
import torch

from wxkernels.ops import quantize_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (1, 1), (17, 33), (2, 3, 4, 19)])
def test_values_are_within_half_a_step(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    q, scale = quantize_rows(x)
    assert (q.dtype, q.shape) == (torch.int8, x.shape)
    assert (scale.dtype, scale.shape) == (torch.float32, x.shape[:-1])
    assert (q.abs().amax(-1) == 127).all()
    error = (q.double() * scale.double().unsqueeze(-1) - x.double()).abs()
    assert (error <= 0.5001 * scale.double().unsqueeze(-1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_e4m3_values_are_within_half_a_step(dtype):
    x = torch.randn(2, 3, 4, 19, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[0, 0, 0] = 0
    x[1, 2, 3, 4] = torch.nan
    q, scale = quantize_rows(x, torch.float8_e4m3fn)
    assert (q.dtype, q.shape) == (torch.float8_e4m3fn, x.shape)
    assert (scale.dtype, scale.shape) == (torch.float32, x.shape[:-1])
    assert scale[0, 0, 0] == 1
    assert scale[1, 2, 3].isnan()
    assert q[1, 2, 3].float().isnan().all()
    x[1, 2, 3] = 0
    x, q, scale = (t.double().nan_to_num(0) for t in (x, q, scale))
    assert q.abs().amax(-1).unique().tolist() == [0, 448]
    error, scale = (q * scale.unsqueeze(-1) - x).abs(), scale.unsqueeze(-1)
    assert (error <= 2**-4 * 1.0001 * x.abs() + 2**-10 * scale).all()


def test_a_row_is_scaled_alone():
    x = torch.randn(6, 40) * 10.0 ** torch.arange(-3, 3)[:, None]
    q, scale = quantize_rows(x)
    for i in range(6):
        alone = quantize_rows(x[i])
        assert torch.equal(q[i], alone[0])
        assert torch.equal(scale[i], alone[1])


def test_zero_rows_and_broken_rows():
    x = torch.randn(5, 9)
    x[1] = 0
    x[2, 3] = float("nan")
    x[3, 8] = -float("inf")
    q, scale = quantize_rows(x)
    assert scale[1] == 1
    assert scale[2:4].isnan().all()
    assert (q[1:4] == 0).all()
    assert (q[[0, 4]].abs().amax(-1) == 127).all()


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-37, 1e30, 3e38])
def test_the_ends_of_the_range(size):
    """Neither overflow nor underflow of the scale or its reciprocal makes a large error, or a NaN."""
    x = torch.tensor([[1.0, -0.5, 0.0, 0.25]]) * size
    q, scale = quantize_rows(x)
    assert scale.isfinite().all()
    assert q[0, 2] == 0
    error = (q.double() * scale.double().unsqueeze(-1) - x.double()).abs().max()
    assert error <= max(0.51 * size / 127, 127 * 1.5e-45)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(()), "x: expected (..., K)"),
        (torch.zeros(3, 0), "x: expected (..., K)"),
        (torch.zeros(3, 2, dtype=torch.int8), "x: expected a floating dtype, got torch.int8"),
    ],
)
def test_a_wrong_argument_is_named(x, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        quantize_rows(x)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_another_dtype_is_refused():
    with pytest.raises(
        ValueError, match=r"dtype: expected torch.int8 or torch.float8_e4m3fn, got torch.uint8"
    ):
        quantize_rows(torch.zeros(3, 2), torch.uint8)
