"""The Triton backend, interpreted and on a GPU: `compute` runs there, in a process of its own."""

import pytest
import torch

from tests.ops.devices import on_device
from wxkernels import backends
from wxkernels.ops import _triton, linear_int8, quantize_rows
from wxkernels.ops.linear_int8 import reference
from wxkernels.ops.linear_int8 import triton as backend

SHAPES = [  # M, K, N: what is special
    (0, 8, 8),
    (8, 8, 0),
    (1, 1, 1),
    (15, 31, 17),  # K below a tile
    (17, 96, 33),  # a tile and a half
    (33, 100, 65),  # K of no whole 16 bytes
    (65, 64, 64),
    (3, 1000, 70),
    (3, 33, 16304),  # large tiles, the last in part
    (1, 20000, 2),  # sums that float32 does not hold
]
EPILOGUES = [  # x, activation, whether bias and residual are there, result: any two meet
    (x, activation, (i + j) % 2 == 0, (i // 2 + j) % 2 == 0, ("float32", "float16", "int8")[(i + j) % 3])
    for i, x in enumerate(("float32", "float16", "int8", "int8, one scale"))
    for j, activation in enumerate(("none", "gelu", "gelu_tanh"))
]


def arguments(M, K, N):
    """x int8 and its scales, weight, weight_scale, bias; sums are about 1."""
    generator = torch.Generator().manual_seed(M + K + N)

    def int8(*shape):
        return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

    def scale(*shape):
        return (0.5 + torch.rand(*shape, generator=generator)) / (73 * K**0.25)

    return int8(M, K), scale(M), int8(N, K), scale(N), torch.randn(N, generator=generator)


@on_device
def triton(x, weight, weight_scale, bias=None, **options):
    with backends.use("triton"):
        return linear_int8(x, weight, weight_scale, bias, **options)


def products_are_exact(M, K, N) -> bool:
    x, _, weight, *_ = arguments(M, K, N)
    if K == 20000:
        x, weight = torch.full_like(x, 127), torch.tensor([[127], [-127]], dtype=torch.int8).expand(2, K)
    found = triton(x, weight, torch.ones(N), x_scale=torch.ones(()))
    return found.dtype == torch.float32 and torch.equal(found, reference.product(x, weight).float())


def epilogue(x_kind, activation, with_bias, with_residual, out) -> list[float]:
    """Largest error, that of the reference, the size of the values; of int8 results the differences."""
    x, x_scale, weight, weight_scale, bias = arguments(5, 40, 19)
    x_scale = x_scale[2] if x_kind == "int8, one scale" else x_scale
    if x_kind.startswith("float"):
        x, x_scale = (x * x_scale[:, None]).to(getattr(torch, x_kind)), None
    bias = bias if with_bias else None
    residual = torch.linspace(-2, 2, 5 * 19).view(5, 19).to(torch.float16) if with_residual else None
    out_scale = torch.tensor([0.02]) if out == "int8" else None
    out_dtype = getattr(torch, out)
    found = triton(
        x,
        weight,
        weight_scale,
        bias,
        x_scale=x_scale,
        activation=None if activation == "none" else activation,
        residual=residual,
        out_scale=out_scale,
        out_dtype=out_dtype,
    )
    assert (found.dtype, found.shape) == (out_dtype, (5, 19))
    tensors = x, weight, weight_scale, bias, x_scale, residual
    plain = reference.linear_int8(*tensors, out_scale, activation, out_dtype)
    if out == "int8":
        difference = (found.int() - plain.int()).abs()
        return [difference.max().item(), difference.count_nonzero().item(), plain.int().abs().max().item()]
    exact = reference.linear_int8(*tensors, None, activation, torch.float64)
    return [*((y - exact).abs().max().item() for y in (found, plain)), exact.abs().max().item()]


def compute() -> dict:
    results = {f"product {shape}": products_are_exact(*shape) for shape in SHAPES}
    results |= {f"epilogue {case}": epilogue(*case) for case in EPILOGUES}

    x, x_scale, weight, weight_scale, bias = arguments(72, 48, 30)
    tensors, options = (weight, weight_scale, bias), {"x_scale": x_scale, "activation": "gelu"}
    y = triton(x, *tensors, **options)
    for row_stride in (160, 81):  # in 16-byte pieces, and not
        whole = torch.full((73, row_stride), 127, dtype=torch.int8)
        window = whole[1:, 16:64]
        window.copy_(x)
        results[f"x {row_stride}"] = torch.equal(triton(window, *tensors, **options), y)
    results["x transposed"] = torch.equal(triton(x.T.contiguous().T, *tensors, **options), y)
    results["weight transposed"] = torch.equal(triton(x, weight.T.contiguous().T, *tensors[1:], **options), y)
    residual = torch.randn(72, 30)
    with_residual = triton(x, *tensors, residual=residual, **options)
    results["residual"] = torch.equal(with_residual, y + residual)
    for layout in (residual.T.contiguous().T, torch.cat([residual, residual], 1)[:, :30]):
        strided = triton(x, *tensors, residual=layout, **options)
        results[f"residual {layout.stride()}"] = torch.equal(strided, with_residual)
    batched = triton(x.view(3, 24, 48), *tensors, x_scale=x_scale.view(3, 24), activation="gelu")
    results["batched"] = torch.equal(batched, y.view(3, 24, 30))
    one = triton(x[70:71], *tensors, **options | {"x_scale": x_scale[70:71]})
    results["one row"] = torch.equal(one, y[70:71])

    x, x_scale, *tensors = arguments(2, 24, 16272)
    options = {"x_scale": x_scale, "activation": "gelu"}
    small, large = triton(x, *(t[:40] for t in tensors), **options), triton(x, *tensors, **options)
    results["tile"] = torch.equal(small, large[:, :40])

    x, _, *tensors = arguments(9, 48, 30)
    x = x * 0.01
    x[2] = 0
    y, options = triton(x, *tensors), {"out_scale": torch.tensor(0.05)}
    q, scale = quantize_rows(x)
    results["rows of quantize_rows"] = torch.equal(triton(q, *tensors, x_scale=scale), y)
    results["zero row"] = torch.equal(y[2], tensors[2])
    for bad in ("nan", "inf"):
        broken, others = x.clone(), torch.arange(9) != 5
        broken[5, 47] = float(bad)
        found, found_int8 = triton(broken, *tensors), triton(broken, *tensors, **options)
        results[bad] = [
            bool(found[5].isnan().all()) and torch.equal(found[others], y[others]),
            bool((found_int8[5] == 0).all()),
            torch.equal(found_int8[others], triton(x, *tensors, **options)[others]),
        ]
    saturated = triton(x, *tensors, out_scale=torch.tensor(1e-6))
    results["saturated"] = [saturated.min().item(), saturated.max().item()]
    results["bfloat16"] = backend.unsupported(x.bfloat16(), *tensors, None, None, None)
    return results


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact(computed, shape):
    assert computed[f"product {shape}"]


@pytest.mark.parametrize("case", EPILOGUES, ids=str)
def test_epilogue(computed, case):
    if case[-1] == "int8":
        largest, differing, size = computed[f"epilogue {case}"]
        assert largest <= 1
        assert differing <= 1
        assert size > 20
    else:
        error, plain, size = computed[f"epilogue {case}"]
        assert error <= 2 * plain + 2e-7 * size
        assert size > 1


@pytest.mark.parametrize(
    "layout",
    [
        "x 160",
        "x 81",
        "x transposed",
        "weight transposed",
        "residual",
        "residual (1, 72)",
        "residual (60, 1)",
    ],
)
def test_strides(computed, layout):
    assert computed[layout]


@pytest.mark.parametrize("case", ["batched", "one row", "tile"])
def test_a_number_does_not_depend_on_what_is_around_it(computed, case):
    assert computed[case]


def test_floating_rows_are_those_of_quantize_rows(computed):
    assert computed["rows of quantize_rows"]


def test_a_row_of_zeros_gives_the_bias(computed):
    assert computed["zero row"]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_fills_its_row_and_no_other(computed, bad):
    assert computed[bad] == [True, True, True]


def test_int8_results_are_symmetric(computed):
    assert computed["saturated"] == [-127, 127]


def test_interpreter_refuses_bfloat16(interpreted):
    assert "bfloat16" in interpreted["bfloat16"]


ONES = torch.ones(480, dtype=torch.int8)


@pytest.mark.parametrize(
    "x",
    [
        ONES[:300].view(3, 100),
        ONES[:243].view(3, 81)[:, :64],
        ONES[1:193].view(3, 64),
        ONES.view(3, 160)[:, :100],
    ],
)
def test_the_kernel_gets_rows_in_whole_16_byte_pieces(x):
    """Otherwise each byte is a load of its own, and registers spill (ci/aot.py)."""
    y, scales, K = torch.empty(3, 5), torch.ones(5), x.shape[1]
    weight, target = ONES[:K].expand(5, K), _triton.Target("cuda", 90)
    given = backend.launch(x, weight, scales, None, scales[:3], None, None, y, "none", target).arguments
    pieces = given["x"], given["weight"]
    assert given["K"] == -(-K // 16) * 16
    assert all(t.shape[1] == given["K"] and t.stride(0) % 16 == t.data_ptr() % 16 == 0 for t in pieces)
    assert torch.equal(given["x"][:, :K], x)
    assert not given["x"][:, K:].any()


def test_says_what_it_does_not_take():
    x, x_scale, weight, weight_scale, bias = arguments(2, 8, 3)

    def reason(x, x_scale=None, residual=None, weight=weight):
        return backend.unsupported(x, weight, weight_scale, bias, x_scale, residual, None)

    assert "x is torch.float64" in reason(x.double())
    assert "residual is torch.float64" in reason(x, x_scale, torch.zeros(2, 3, dtype=torch.float64))
    assert "32 bits" in reason(x[:1].expand(2**31, 8), x_scale)
    assert "32 bits" in reason(x, x_scale, weight=weight[:1].expand(2**25, 8))
    assert "CUDA or ROCm" in reason(x, x_scale)
