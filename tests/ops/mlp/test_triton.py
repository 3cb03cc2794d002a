"""The Triton backend, interpreted and on a GPU: as a script this file computes what the tests see."""

import json

import pytest
import torch

from tests.ops.devices import DTYPES, on_device
from wxkernels import backends
from wxkernels.ops import mlp
from wxkernels.ops.mlp import reference
from wxkernels.ops.mlp import triton as backend

SHAPES = [(0, 8, 16), (1, 1, 1), (7, 100, 130), (2, 3, 20, 33)]  # ..., C, D
ACTIVATIONS = ["none", "gelu", "gelu_tanh"]


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


def compute() -> dict:
    results = {}
    for shape in SHAPES:
        for dtype in DTYPES:
            tensors = arguments(*shape, dtype=getattr(torch, dtype))
            results |= {f"{shape} {dtype} {name}": difference(tensors, name) for name in ACTIVATIONS}
    results["no biases"] = difference(arguments(7, 20, 33, biases=False), "gelu")

    x, *tensors = arguments(9, 20, 33)
    y, others = triton(x, *tensors), torch.arange(9) != 4
    results["one row"] = torch.equal(triton(x[4:5], *tensors), y[4:5])
    results["window"] = torch.equal(triton(torch.cat([x, x], 1)[:, :20], *tensors), y)
    for bad in ("nan", "inf"):
        broken = x.clone()
        broken[4, 7] = float(bad)
        found = triton(broken, *tensors)
        results[bad] = bool(found[4].isnan().all()) and torch.equal(found[others], y[others])
    return results


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(computed, shape, dtype, activation):
    largest, step, like = computed[f"{shape} {dtype} {activation}"]
    assert like
    assert largest <= step


def test_without_biases(computed):
    largest, step, _ = computed["no biases"]
    assert largest <= step


def test_a_row_does_not_depend_on_the_others(computed):
    assert computed["one row"]


def test_strides(computed):
    assert computed["window"]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_fills_its_row_and_no_other(computed, bad):
    assert computed[bad]


def test_says_what_it_does_not_take():
    x, norm_weight, norm_bias, fc1, fc1_bias, fc2, fc2_bias, *scales, _ = arguments(2, 8, 5)
    biases = norm_weight, norm_bias
    floating = (x, *biases, fc1.float(), fc1_bias, fc2.float(), fc2_bias, None, None, None)
    assert "it multiplies int8 weights alone, and fc1_weight is float32" in backend.unsupported(*floating)
    int8 = (*biases, fc1, fc1_bias, fc2, fc2_bias, *scales)
    assert "float64" in backend.unsupported(x.double(), *int8)
    assert "CUDA or ROCm" in backend.unsupported(x, *int8)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(compute()))
