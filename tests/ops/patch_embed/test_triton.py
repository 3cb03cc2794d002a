"""The Triton backend, interpreted and on a GPU: `compute` runs there, in a process of its own."""

import pytest
import torch

from tests.ops.devices import DTYPES, on_device
from wxkernels import backends
from wxkernels.ops import patch_embed
from wxkernels.ops.patch_embed import reference
from wxkernels.ops.patch_embed import triton as backend

SHAPES = [  # B, C, h, w, p, q, D
    (0, 2, 3, 4, 2, 2, 8),
    (2, 2, 0, 4, 2, 2, 8),
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 5, 7, 2, 3, 11),
    (1, 20, 3, 5, 8, 8, 33),
    (2, 1, 13, 11, 4, 2, 140),  # more than a tile each way
]
PRECISIONS = [(dtype, weights) for dtype in DTYPES for weights in DTYPES]
POSITIONS = ["none", "floating", "int8"]
CASES = [  # any two of shape, precision and positions meet
    (shape, *precision, POSITIONS[(i + j) % 3])
    for i, shape in enumerate(SHAPES)
    for j, precision in enumerate(PRECISIONS)
]


def arguments(B, C, h, w, p, q, D, dtype="float32", weights="float32", positions="floating"):
    """x, weight, bias, pos_embed and pos_scale."""
    generator = torch.Generator().manual_seed(B + C + h + w + D)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    weights, dtype = getattr(torch, weights), getattr(torch, dtype)
    tensors = [normal(B, C, h * p, w * q).to(dtype), normal(D, C, p, q) / (C * p * q) ** 0.5, normal(D)]
    tensors[1] = tensors[1].to(weights)
    pos_embed = normal(1, h * w, D)
    if positions == "int8":
        pos_scale = 0.01 + 0.01 * torch.rand(h * w, generator=generator)
        pos_embed = torch.randint(-127, 128, pos_embed.shape, generator=generator, dtype=torch.int8)
        return [*tensors, pos_embed, pos_scale]
    return [*tensors, pos_embed.to(weights) if positions == "floating" else None, None]


@on_device
def triton(x, weight, bias, pos_embed, pos_scale):
    with backends.use("triton"):
        return patch_embed(x, weight, bias, pos_embed, pos_scale=pos_scale)


def errors(tensors) -> list:
    """Largest error against float64, that of the reference, the largest value; whether y is alike."""
    found, plain = triton(*tensors), reference.patch_embed(*tensors)
    like = found.dtype == plain.dtype and found.shape == plain.shape and found.is_contiguous()
    if not found.numel():
        return [0.0, 0.0, 0.0, like]
    exact = reference.patch_embed(
        *(t.double() if t is not None and t.is_floating_point() else t for t in tensors)
    )
    return [*((y - exact).abs().max().item() for y in (found, plain)), exact.abs().max().item(), like]


def compute() -> dict:
    results = {}
    for case in CASES:
        shape, *options = case
        results[str(case)] = errors(arguments(*shape, *options))

    x, *tensors = arguments(3, 3, 5, 7, 2, 3, 11)
    y = triton(x, *tensors)
    results["one sample"] = all(torch.equal(triton(x[i : i + 1], *tensors), y[i : i + 1]) for i in range(3))
    whole = torch.full((3, 7, 12, 25), float("nan"))
    whole[:, 1:4, 1:11, 3:24] = x
    results["window"] = torch.equal(triton(whole[:, 1:4, 1:11, 3:24], *tensors), y)
    channels_last = x.to(memory_format=torch.channels_last)
    results["channels last"] = torch.equal(triton(channels_last, *tensors), y)
    weight = tensors[0].to(memory_format=torch.channels_last)
    results["weight"] = torch.equal(triton(x, weight, *tensors[1:]), y)
    without = triton(x, tensors[0], None, *tensors[2:])
    results["no bias"] = torch.allclose(without + tensors[1], y, rtol=0, atol=1e-5)
    broken = x.clone()
    broken[1, 1, 2 * 3 + 1, 3 * 4] = float("nan")
    found = triton(broken, *tensors)
    results["nan"] = bool(found[1, 3, 4].isnan().all())
    found[1, 3, 4] = y[1, 3, 4]
    results["nan stays"] = torch.equal(found, y)
    return results


@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_at_most_twice_that_of_pytorch(computed, case):
    found, plain, size, like = computed[str(case)]
    assert like
    assert found <= 2 * plain + torch.finfo(getattr(torch, case[1])).eps * size


def test_a_sample_does_not_depend_on_its_batch(computed):
    assert computed["one sample"]


@pytest.mark.parametrize("layout", ["window", "channels last", "weight"])
def test_strides(computed, layout):
    assert computed[layout]


def test_without_bias(computed):
    assert computed["no bias"]


def test_a_nan_fills_its_token_and_no_other(computed):
    assert computed["nan"]
    assert computed["nan stays"]


def test_says_what_it_does_not_take():
    x, weight, *others = arguments(1, 3, 2, 4, 2, 3, 5)
    assert "CUDA or ROCm" in backend.unsupported(x, weight, *others)
    assert "x is torch.float64" in backend.unsupported(x.double(), weight, *others)
    assert "weight is torch.float64" in backend.unsupported(x, weight.double(), *others)
    huge = torch.empty(1, 1, 1, 1).expand(1, 3, 30_000, 30_000)
    assert "32 bits" in backend.unsupported(huge, weight, *others)
