"""The Triton backend, interpreted and on a GPU: `compute` runs there, in a process of its own."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from tests.ops.devices import DEVICE, DTYPES, QUANTISED, on_device
from tests.ops.interpreter import mend_e4m3
from wxkernels import backends
from wxkernels.ops import _triton, mlp
from wxkernels.ops._reference import ACTIVATIONS
from wxkernels.ops.mlp import reference
from wxkernels.ops.mlp import triton as backend

SHAPES = [(0, 8, 16), (1, 1, 1), (7, 100, 130), (2, 3, 20, 33)]  # ..., C, D
FLOATING = [*SHAPES, (130, 17, 300)]  # more than a tile each way
E4M3_SHAPES = [(0, 8, 16), (2, 3, 20, 33), (70, 48, 160)]
E4M3_CASES = [f"e4m3 {case}" for case in (*E4M3_SHAPES, "float16") if "e4m3" in QUANTISED]
PRECISIONS = [(dtype, weights) for dtype in DTYPES for weights in DTYPES]


def arguments(*shape, dtype=torch.float32, biases=True):
    """What the backend gets, without eps and activation."""
    *rows, C, D = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def int8(*shape):
        return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

    return [
        (3 * normal(*rows, C)).to(dtype),
        1 + 0.2 * normal(C),
        normal(C) if biases else None,
        int8(D, C),
        normal(D) if biases else None,
        int8(C, D),
        normal(C) if biases else None,
        torch.full((D,), 1 / (73 * C**0.5)),
        torch.full((C,), 1 / (73 * D**0.5)),
        torch.tensor(0.03),
        -90,
    ]


@on_device
def triton(x, *tensors, activation="gelu"):
    *layers, fc1_scale, fc2_scale, hidden_scale, offset = tensors
    scales = {"fc1_scale": fc1_scale, "fc2_scale": fc2_scale, "hidden_scale": hidden_scale}
    with backends.use("triton"):
        activation = None if activation == "none" else activation
        return mlp(x, *layers, activation=activation, hidden_offset=offset, **scales)


def difference(tensors, activation) -> list:
    """Largest difference to the reference, a step of the hidden layer as it comes out, whether all is alike.

    A hidden number that falls on a tie may round to the other side.
    """
    found, plain = triton(*tensors, activation=activation), reference.mlp(*tensors, 1e-6, activation)
    x, fc2_scale, hidden_scale = tensors[0], tensors[8], tensors[9]
    step = 127 * fc2_scale[0].item() * hidden_scale.item()
    like = found.dtype == x.dtype and found.shape == x.shape and found.is_contiguous()
    largest = (found.double() - plain).abs().max().item() if x.numel() else 0.0
    return [largest, step + 4 * torch.finfo(x.dtype).eps * 10, like]


def e4m3(*shape, dtype=torch.float32):
    """`arguments` with e4m3 weights."""
    tensors = arguments(*shape, dtype=dtype)
    tensors[3], tensors[5] = (w.float().to(torch.float8_e4m3fn) for w in (tensors[3], tensors[5]))
    return [*tensors[:9], torch.tensor(0.02), 0]


def e4m3_difference(tensors) -> list:
    """Root sum square of the difference to the reference, what is allowed, whether all is alike.

    Hidden numbers near a tie may round to the other side.
    """
    found, plain, x = triton(*tensors), reference.mlp(*tensors, 1e-6, "gelu"), tensors[0]
    like = found.dtype == x.dtype and found.shape == x.shape and found.is_contiguous()
    difference, added = (a.double() - b.double() for a, b in ((found, plain), (plain, x)))
    # Hopper's sums of e4m3 have about 14 bits.
    return [difference.norm().item(), (0.02 if DEVICE == "cuda" else 0.005) * added.norm().item(), like]


def floating(*shape, dtype="float32", weights="float32", biases=True):
    """`arguments` with floating weights."""
    *rest, fc1, fc1_bias, fc2, fc2_bias, _, _, _, _ = arguments(
        *shape, dtype=getattr(torch, dtype), biases=biases
    )
    fc1, fc2 = (w.float() / (73 * max(1, w.shape[1]) ** 0.5) for w in (fc1, fc2))
    weights = getattr(torch, weights)
    return [*rest, fc1.to(weights), fc1_bias, fc2.to(weights), fc2_bias, None, None, None, 0]


def in_its_dtype(x, norm_weight, norm_bias, *layers, activation):
    """PyTorch's chain, all of it in the dtype of x."""
    fc1, fc1_bias, fc2, fc2_bias = (t.to(x.dtype) for t in layers[:4])
    n = F.layer_norm(x, x.shape[-1:], norm_weight.to(x.dtype), norm_bias.to(x.dtype), 1e-6)
    return x + F.linear(ACTIVATIONS[activation](F.linear(n, fc1, fc1_bias)), fc2, fc2_bias)


def errors(tensors, activation) -> list:
    """Largest error against float64, that of PyTorch, the largest value; whether y is like x."""
    x, *layers = tensors
    found = triton(*tensors, activation=activation)
    exact = reference.mlp(*(t.double() for t in tensors[:7]), None, None, None, 0, 1e-6, activation)
    if x.dtype == torch.float16 == layers[2].dtype:
        plain = in_its_dtype(*tensors, activation=activation)
    else:
        plain = reference.mlp(*tensors, 1e-6, activation)
    like = found.dtype == x.dtype and found.shape == x.shape and found.is_contiguous()
    if not x.numel():
        return [0.0, 0.0, 0.0, like]
    return [*((y - exact).abs().max().item() for y in (found, plain)), exact.abs().max().item(), like]


def promises(x, *tensors) -> dict:
    """Of 9 rows: what a row and its NaN have to do with the others, and how x may lie."""
    y, others = triton(x, *tensors), torch.arange(9) != 4
    results = {"one row": torch.equal(triton(x[4:5], *tensors), y[4:5])}
    results["window"] = torch.equal(triton(torch.cat([x, x], 1)[:, :20], *tensors), y)
    for bad in ("nan", "inf"):
        broken = x.clone()
        broken[4, 7] = float(bad)
        found = triton(broken, *tensors)
        results[bad] = bool(found[4].isnan().all()) and torch.equal(found[others], y[others])
    return results


def compute() -> dict:
    mend_e4m3()
    results = {}
    if "e4m3" in QUANTISED:
        results["e4m3"] = promises(*e4m3(9, 20, 33))
        results |= {f"e4m3 {shape}": e4m3_difference(e4m3(*shape)) for shape in E4M3_SHAPES}
        results["e4m3 float16"] = e4m3_difference(e4m3(7, 100, 130, dtype=torch.float16))
    for shape in SHAPES:
        for dtype in DTYPES:
            tensors = arguments(*shape, dtype=getattr(torch, dtype))
            results |= {f"{shape} {dtype} {name}": difference(tensors, name) for name in ACTIVATIONS}
    results["no biases"] = difference(arguments(7, 20, 33, biases=False), "gelu")

    for shape in FLOATING:
        for dtype, weights in PRECISIONS:
            tensors = floating(*shape, dtype=dtype, weights=weights)
            label = f"{shape} {dtype} x {weights}"
            results |= {f"{label} {name}": errors(tensors, name) for name in ACTIVATIONS}
    tensors = floating(7, 20, 33, biases=False)
    found, plain = triton(*tensors), reference.mlp(*tensors, 1e-6, "gelu")
    results["floating without biases"] = torch.allclose(found, plain, rtol=0, atol=1e-5)
    results |= {"int8": promises(*arguments(9, 20, 33)), "floating": promises(*floating(9, 20, 33))}
    x, *tensors = floating(300, 17, 40)
    y = triton(x, *tensors)
    results["a part of the rows"] = torch.equal(triton(x[200:203], *tensors), y[200:203])
    made = backend.launches(x, *tensors[:6], y, 1e-6, "gelu", _triton.Target.of(x.device))
    tiles = _triton.Tiles({"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32}, 4, 2)
    stored = {launch.key: tiles for launch in made if launch.kernel == "linear"}
    with patch.object(_triton, "tuned", return_value=stored):
        other = triton(x, *tensors)
        part = triton(x[200:203], *tensors)
    results["stored tiles"] = [torch.allclose(other, y, rtol=0, atol=1e-4), torch.equal(part, other[200:203])]
    return results


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(computed, shape, dtype, activation):
    largest, step, like = computed[f"{shape} {dtype} {activation}"]
    assert like
    assert largest <= step


@pytest.mark.parametrize("case", ["no biases", *E4M3_CASES])
def test_without_biases_and_in_e4m3(computed, case):
    difference, allowed, like = computed[case]
    assert like
    assert difference <= allowed


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "weights"), PRECISIONS)
@pytest.mark.parametrize("shape", FLOATING)
def test_floating_error_is_at_most_twice_that_of_pytorch(computed, shape, dtype, weights, activation):
    found, plain, size, like = computed[f"{shape} {dtype} x {weights} {activation}"]
    assert like
    assert found <= 2 * plain + torch.finfo(getattr(torch, dtype)).eps * size


def test_floating_without_biases(computed):
    assert computed["floating without biases"]


@pytest.mark.parametrize("weights", [*QUANTISED, "floating"])
def test_a_row_does_not_depend_on_the_others(computed, weights):
    assert computed[weights]["one row"]


def test_a_row_does_not_depend_on_how_many_tiles_come(computed):
    assert computed["a part of the rows"]


def test_stored_tiles_change_neither_the_result_nor_that(computed):
    assert computed["stored tiles"] == [True, True]


@pytest.mark.parametrize("weights", [*QUANTISED, "floating"])
def test_strides(computed, weights):
    assert computed[weights]["window"]


@pytest.mark.parametrize("weights", [*QUANTISED, "floating"])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_fills_its_row_and_no_other(computed, weights, bad):
    assert computed[weights][bad]


def test_says_what_it_does_not_take():
    x, norm_weight, norm_bias, fc1, fc1_bias, fc2, fc2_bias, *scales, _ = arguments(2, 8, 5)
    biases = norm_weight, norm_bias
    for dtype, reason in ((torch.float32, "CUDA or ROCm"), (torch.float64, "fc1_weight is torch.float64")):
        layers = fc1.to(dtype), fc1_bias, fc2.to(dtype), fc2_bias
        assert reason in backend.unsupported(x, *biases, *layers, None, None, None)
    int8 = (*biases, fc1, fc1_bias, fc2, fc2_bias, *scales)
    assert "float64" in backend.unsupported(x.double(), *int8)
    assert "CUDA or ROCm" in backend.unsupported(x, *int8)
