"""The specification: exact products, and an epilogue that keeps float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wxkernels.ops._linear import MAX_K
from wxkernels.ops.linear_int8 import reference


@given(
    M=st.integers(0, 5),
    K=st.integers(1, 3 * reference.EXACT_TERMS),
    N=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_product_is_that_of_the_integers(M, K, N, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight = (
        torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in ((M, K), (N, K))
    )
    found = reference.product(x, weight)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), x.long() @ weight.long().T)


@pytest.mark.parametrize("K", [reference.EXACT_TERMS, MAX_K])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_product_fits(K, sign):
    x = torch.full((1, K), 127, dtype=torch.int8)
    assert reference.product(x, sign * x).item() == sign * 127 * 127 * K


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh"])
def test_float64_epilogue(activation):
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8) for shape in ((4, 30), (6, 30))
    )
    x_scale, weight_scale = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (4, 6))
    bias, residual = torch.randn(6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    y = F.linear(x * x_scale[:, None], weight * weight_scale[:, None], bias)
    y = {"none": y, "gelu": F.gelu(y), "gelu_tanh": F.gelu(y, approximate="tanh")}[activation] + residual
    found = reference.linear_int8(
        x, weight, weight_scale, bias, x_scale, residual, None, activation, torch.float64
    )
    torch.testing.assert_close(found, y, rtol=1e-12, atol=1e-9)
    out_scale = torch.tensor(3.0)
    found = reference.linear_int8(
        x, weight, weight_scale, bias, x_scale, residual, out_scale, activation, torch.int8
    )
    assert torch.equal(found, (y / 3).round().clamp(-127, 127).to(torch.int8))
