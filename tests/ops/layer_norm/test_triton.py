"""The Triton backend, interpreted and on a GPU: `compute` runs there, in a process of its own."""

import pytest
import torch

from tests.ops.devices import DTYPES, on_device
from wxkernels import backends
from wxkernels.ops import layer_norm
from wxkernels.ops.layer_norm import reference
from wxkernels.ops.layer_norm import triton as backend

SHAPES = [(0, 8), (1, 1), (3, 5), (9, 96), (5, 100), (41, 128), (7, 768), (2, 4097), (1, 8192), (2, 3, 17)]


def arguments(*shape, dtype=torch.float32):
    """x about a mean larger than its spread, weight, bias."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = 3 + torch.randn(*shape, generator=generator)
    weight, bias = torch.randn(2, shape[-1], generator=generator)
    return x.to(dtype), weight, bias


@on_device
def triton(x, weight, bias, **options):
    with backends.use("triton"):
        return layer_norm(x, weight, bias, **options)


def errors(x, weight, bias) -> list:
    """Errors of Triton and of the reference, whether shape and dtype are right, the same of int8."""
    exact = reference.layer_norm(x.double(), weight.double(), None if bias is None else bias.double(), 1e-6)
    found, plain = triton(x, weight, bias), reference.layer_norm(x, weight, bias, 1e-6)
    q, scale = triton(x, weight, bias, quantize=True)
    plain_q, plain_scale = reference.layer_norm_int8(x, weight, bias, 1e-6)
    like = found.dtype == x.dtype and q.dtype == torch.int8 and scale.dtype == torch.float32
    like = like and found.shape == q.shape == x.shape and scale.shape == x.shape[:-1]
    if x.numel() == 0:
        return [0, 0, like, 0, 0, 0]
    difference = (q.int() - plain_q.int()).abs()
    return [
        *((y.double() - exact).abs().max().item() for y in (found, plain)),
        like,
        (scale / plain_scale - 1).abs().max().item(),
        difference.max().item(),
        difference.count_nonzero().item() / q.numel(),
    ]


def compute() -> dict:
    results = {f"{d} {s}": errors(*arguments(*s, dtype=getattr(torch, d))) for d in DTYPES for s in SHAPES}
    x, weight, bias = arguments(9, 100)
    results["no bias"] = errors(x, weight, None)
    results["float16 weights"] = errors(x, weight.half(), bias.half())

    y = triton(x, weight, bias)
    q, scale = triton(x, weight, bias, quantize=True)
    whole = torch.full((20, 200), torch.nan)
    whole[1:19:2, 50:150] = x
    window = whole[1:19:2, 50:150]
    results["window"] = torch.equal(triton(window, weight, bias), y)
    results["transposed"] = torch.equal(triton(x.T.contiguous().T, weight, bias), y)
    results["one row"] = torch.equal(triton(x[4:5], weight, bias), y[4:5])
    results["one int8 row"] = torch.equal(triton(x[4:5], weight, bias, quantize=True)[0], q[4:5])
    for bad in ("nan", "inf"):
        broken = x.clone()
        broken[3, 99] = float(bad)
        with_bad, (bad_q, bad_scale) = (triton(broken, weight, bias, quantize=int8) for int8 in (False, True))
        others = torch.arange(9) != 3
        results[bad] = [
            bool(with_bad[3].isnan().all()) and torch.equal(with_bad[others], y[others]),
            bool((bad_q[3] == 0).all() and bad_scale[3].isnan()),
            torch.equal(bad_q[others], q[others]) and torch.equal(bad_scale[others], scale[others]),
        ]
    constant = torch.full((2, 100), 7.0)
    zero_q, zero_scale = triton(constant, weight, None, quantize=True)
    results["constant"] = [
        torch.equal(triton(constant, weight, bias), bias.expand(2, 100)),
        bool((zero_q == 0).all() and (zero_scale == 1).all()),
    ]
    results["bfloat16"] = backend.unsupported(x.bfloat16(), weight, bias)
    return results


@pytest.mark.parametrize(
    "case", [*(f"{dtype} {shape}" for dtype in DTYPES for shape in SHAPES), "no bias", "float16 weights"]
)
def test_error_at_most_twice_that_of_pytorch(computed, case):
    error, plain, like, scale_error, int8_error, int8_differing = computed[case]
    assert like
    assert error <= 2 * plain + 2e-7
    assert scale_error <= 1e-6
    assert int8_error <= 1
    assert int8_differing <= 1e-3


@pytest.mark.parametrize("layout", ["window", "transposed"])
def test_strides(computed, layout):
    assert computed[layout]


@pytest.mark.parametrize("case", ["one row", "one int8 row"])
def test_a_row_does_not_depend_on_the_others(computed, case):
    assert computed[case]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_fills_its_row_and_no_other(computed, bad):
    assert computed[bad] == [True, True, True]


def test_constant_rows(computed):
    assert computed["constant"] == [True, True]


def test_interpreter_refuses_bfloat16(interpreted):
    assert "bfloat16" in interpreted["bfloat16"]


def test_says_what_it_does_not_take():
    assert "float64" in backend.unsupported(*arguments(2, 8, dtype=torch.float64))
    assert "rows of 8193" in backend.unsupported(*arguments(1, 8193))
    assert "CUDA or ROCm" in backend.unsupported(*arguments(2, 8))
