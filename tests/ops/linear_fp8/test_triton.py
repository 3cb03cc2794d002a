"""The Triton backend, interpreted and on a GPU: `compute` runs there, in a process of its own."""

import itertools

import pytest
import torch

from tests.ops.devices import DEVICE, QUANTISED, on_device
from tests.ops.interpreter import mend_e4m3
from wxkernels import backends
from wxkernels.ops import linear_fp8, quantize_rows
from wxkernels.ops.linear_fp8 import reference
from wxkernels.ops.linear_fp8 import triton as backend

E4M3 = torch.float8_e4m3fn
SHAPES = [  # M, K, N: what is special
    (0, 8, 8),
    (1, 1, 1),
    (17, 160, 33),  # more than a tile of K
    (65, 100, 65),  # more than a tile each way, K of no whole 16 bytes
    (130, 64, 144),  # large tiles, the last in part
]
EPILOGUES = list(
    itertools.product(
        ("float16", "e4m3", "e4m3, one scale"),
        ("none", "gelu"),
        ("bias", "residual"),
        ("float32", "e4m3"),
    )
)
#: Of a sum, over that of the magnitudes: Hopper adds with about 14 bits, 33 numbers at once.
SUMS = 2**-9 if DEVICE == "cuda" else 2**-20

pytestmark = pytest.mark.skipif("e4m3" not in QUANTISED, reason="the GPU has no e4m3")


def arguments(M, K, N):
    """x e4m3 and its scales, weight, weight_scale, bias; sums are about 1."""
    generator = torch.Generator().manual_seed(M + K + N)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def scale(*shape):
        return (0.5 + torch.rand(*shape, generator=generator)) / (100 * K**0.25)

    return (100 * normal(M, K)).to(E4M3), scale(M), (100 * normal(N, K)).to(E4M3), scale(N), normal(N)


@on_device
def triton(x, weight, weight_scale, bias=None, **options):
    with backends.use("triton"):
        return linear_fp8(x, weight, weight_scale, bias, **options)


def whole_numbers(M, K, N) -> bool:
    """Products whose sums every accumulator holds."""
    x, weight = (torch.arange(r * K).view(r, K) * 7 % 5 - 2 for r in (M, N))
    found = triton(*(t.float().to(E4M3) for t in (x, weight)), torch.ones(N), x_scale=torch.ones(()))
    return found.dtype == torch.float32 and torch.equal(found, (x @ weight.T).float())


def epilogue(x_kind, activation, added, out) -> float:
    """Largest error, in parts of what sums and the rounding to e4m3 may make."""
    x, x_scale, weight, weight_scale, bias = arguments(5, 140, 19)
    x_scale = x_scale[2] if x_kind == "e4m3, one scale" else x_scale
    if x_kind == "float16":
        x, x_scale = (x.float() * x_scale[:, None]).half(), None
    bias = bias if added == "bias" else None
    residual = torch.linspace(-2, 2, 5 * 19).view(5, 19).half() if added == "residual" else None
    out_scale = torch.tensor([0.02]) if out == "e4m3" else None
    out_dtype = E4M3 if out == "e4m3" else torch.float32
    options = {"x_scale": x_scale, "residual": residual, "out_scale": out_scale, "out_dtype": out_dtype}
    found = triton(
        x, weight, weight_scale, bias, activation=None if activation == "none" else activation, **options
    )
    assert (found.dtype, found.shape) == (out_dtype, (5, 19))
    tensors = x, weight, weight_scale, bias, x_scale, residual
    exact = reference.linear_fp8(*tensors, None, activation, torch.float64)
    q, scale = (x, x_scale) if x_scale is not None else quantize_rows(x, E4M3)
    magnitude = q.float().abs() * scale.reshape(-1, 1) @ (weight.float().abs() * weight_scale[:, None]).T
    allowed = SUMS * (magnitude + 1)
    if out_scale is not None:
        found = found.double() * out_scale
        allowed = allowed + 2**-4 * exact.abs() + 2**-10 * out_scale  # half a step, at least of the smallest
    return ((found - exact).abs() / allowed).max().item()


def compute() -> dict:
    mend_e4m3()
    results = {f"product {shape}": whole_numbers(*shape) for shape in SHAPES}
    results |= {f"epilogue {case}": epilogue(*case) for case in EPILOGUES}

    x, x_scale, weight, weight_scale, bias = arguments(72, 48, 32)
    tensors, options = (weight, weight_scale, bias), {"x_scale": x_scale, "activation": "gelu"}
    y = triton(x, *tensors, **options)
    for row_stride in (160, 81):  # in 16-byte pieces, and not
        window = torch.full((73, row_stride), 127, dtype=torch.uint8).view(E4M3)[1:, 16:64]
        window.copy_(x)
        results[f"x {row_stride}"] = torch.equal(triton(window, *tensors, **options), y)
    results["weight transposed"] = torch.equal(triton(x, weight.T.contiguous().T, *tensors[1:], **options), y)
    batched = triton(x.view(3, 24, 48), *tensors, x_scale=x_scale.view(3, 24), activation="gelu")
    results["batched"] = torch.equal(batched, y.view(3, 24, 32))
    one = triton(x[70:71], *tensors, **options | {"x_scale": x_scale[70:71]})
    results["one row"] = torch.equal(one, y[70:71])

    x = x[:9].float() * 0.01
    x[2] = 0
    y, options = triton(x, *tensors), {"out_scale": torch.tensor(0.05)}
    quantised = triton(x, *tensors, **options).float()
    q, scale = quantize_rows(x, E4M3)
    results["rows of quantize_rows"] = torch.equal(triton(q, *tensors, x_scale=scale), y)
    results["zero row"] = torch.equal(y[2], tensors[2])
    for bad in ("nan", "inf"):
        broken, others = x.clone(), torch.arange(9) != 5
        broken[5, 47] = float(bad)
        found, found_e4m3 = triton(broken, *tensors), triton(broken, *tensors, **options).float()
        results[bad] = [
            bool(found[5].isnan().all()) and torch.equal(found[others], y[others]),
            bool(found_e4m3[5].isnan().all()) and torch.equal(found_e4m3[others], quantised[others]),
        ]
    saturated = triton(x, *tensors, out_scale=torch.tensor(1e-6)).float()
    results["saturated"] = [saturated.min().item(), saturated.max().item()]
    return results


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_whole_numbers_are_exact(computed, shape):
    assert computed[f"product {shape}"]


@pytest.mark.parametrize("case", EPILOGUES, ids=str)
def test_epilogue(computed, case):
    assert computed[f"epilogue {case}"] <= 1


@pytest.mark.parametrize("layout", ["x 160", "x 81", "weight transposed"])
def test_strides(computed, layout):
    assert computed[layout]


@pytest.mark.parametrize("case", ["batched", "one row"])
def test_a_row_does_not_depend_on_what_is_around_it(computed, case):
    assert computed[case]


def test_floating_rows_are_those_of_quantize_rows(computed):
    assert computed["rows of quantize_rows"]


def test_a_row_of_zeros_gives_the_bias(computed):
    assert computed["zero row"]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_fills_its_row_and_no_other(computed, bad):
    assert computed[bad] == [True, True]


def test_e4m3_results_stay_finite(computed):
    assert computed["saturated"] == [-448, 448]


def test_says_what_it_does_not_take():
    x, x_scale, weight, weight_scale, bias = arguments(2, 8, 3)

    def reason(x, x_scale=None, residual=None):
        return backend.unsupported(x, weight, weight_scale, bias, x_scale, residual, None)

    assert "x is torch.float64" in reason(x.double())
    assert "residual is torch.float64" in reason(x, x_scale, torch.zeros(2, 3, dtype=torch.float64))
    assert "32 bits" in reason(x[:1].expand(2**31, 8), x_scale)
    assert "CUDA or ROCm" in reason(x, x_scale)
