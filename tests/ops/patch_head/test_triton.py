"""The Triton backend, interpreted and on a GPU: `compute` runs there, in a process of its own."""

import pytest
import torch

from tests.ops.devices import DTYPES, on_device
from wxkernels import backends
from wxkernels.ops import patch_head
from wxkernels.ops.patch_head import reference
from wxkernels.ops.patch_head import triton as backend

SHAPES = [  # B, h, w, D, p, q, fields
    (0, 3, 4, 8, 2, 2, 3),
    (2, 0, 4, 8, 2, 2, 3),
    (2, 3, 4, 8, 2, 2, 0),
    (1, 1, 1, 1, 1, 1, 1),
    (2, 5, 7, 11, 2, 3, 4),
    (1, 3, 5, 70, 8, 8, 20),  # ten tiles of columns
    (2, 13, 11, 33, 4, 2, 3),  # more than a tile of tokens
]
PRECISIONS = [(dtype, weights) for dtype in DTYPES for weights in DTYPES]


def arguments(B, h, w, D, p, q, N, dtype="float32", weights="float32"):
    """tokens, weight and bias for N fields, and the size of a patch."""
    generator = torch.Generator().manual_seed(B + h + w + D + N)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    weight = (normal(p * q * N, D) / D**0.5).to(getattr(torch, weights))
    return normal(B, h, w, D).to(getattr(torch, dtype)), weight, normal(p * q * N), (p, q)


@on_device
def triton(tokens, weight, bias, patch_size):
    with backends.use("triton"):
        return patch_head(tokens, weight, patch_size, bias)


def errors(*tensors, patch_size) -> list:
    """Largest error against float64, that of the reference, the largest value; whether y is alike."""
    found, plain = triton(*tensors, patch_size), reference.patch_head(*tensors, patch_size)
    like = found.dtype == plain.dtype and found.shape == plain.shape and found.is_contiguous()
    if not found.numel():
        return [0.0, 0.0, 0.0, like]
    exact = reference.patch_head(*(t.double() for t in tensors), patch_size)
    return [*((y - exact).abs().max().item() for y in (found, plain)), exact.abs().max().item(), like]


def compute() -> dict:
    results = {}
    for shape in SHAPES:
        for dtype, weights in PRECISIONS:
            *tensors, patch_size = arguments(*shape, dtype, weights)
            results[f"{shape} {dtype} x {weights}"] = errors(*tensors, patch_size=patch_size)

    tokens, weight, bias, size = arguments(3, 5, 7, 11, 2, 3, 4)
    y = triton(tokens, weight, bias, size)
    results["one sample"] = all(
        torch.equal(triton(tokens[i : i + 1], weight, bias, size), y[i : i + 1]) for i in range(3)
    )
    whole = torch.full((3, 9, 9, 15), float("nan"))
    window = whole[:, 2:7, 1:8, 3:14]
    window.copy_(tokens)
    results["window"] = torch.equal(triton(window, weight, bias, size), y)
    channels_first = tokens.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    results["channels first"] = torch.equal(triton(channels_first, weight, bias, size), y)
    results["weight"] = torch.equal(triton(tokens, weight.T.contiguous().T, bias, size), y)
    without = triton(tokens, weight, None, size)
    results["no bias"] = torch.allclose(
        without, reference.patch_head(tokens, weight, None, size), rtol=0, atol=1e-5
    )
    broken = tokens.clone()
    broken[1, 3, 4, 10] = float("nan")
    found = triton(broken, weight, bias, size)
    results["nan"] = bool(found[1, :, 6:8, 12:15].isnan().all())
    found[1, :, 6:8, 12:15] = y[1, :, 6:8, 12:15]
    results["nan stays"] = torch.equal(found, y)
    return results


@pytest.mark.parametrize(("dtype", "weights"), PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_at_most_twice_that_of_pytorch(computed, shape, dtype, weights):
    found, plain, size, like = computed[f"{shape} {dtype} x {weights}"]
    assert like
    assert found <= 2 * plain + torch.finfo(getattr(torch, dtype)).eps * size


def test_a_sample_does_not_depend_on_its_batch(computed):
    assert computed["one sample"]


@pytest.mark.parametrize("layout", ["window", "channels first", "weight"])
def test_strides(computed, layout):
    assert computed[layout]


def test_without_bias(computed):
    assert computed["no bias"]


def test_a_nan_stays_in_its_patch(computed):
    assert computed["nan"]
    assert computed["nan stays"]


def test_says_what_it_does_not_take():
    tokens, weight, bias, _ = arguments(1, 2, 4, 5, 2, 3, 4)
    assert "CUDA or ROCm" in backend.unsupported(tokens, weight, bias)
    assert "tokens is torch.float64" in backend.unsupported(tokens.double(), weight, bias)
    assert "weight is torch.float64" in backend.unsupported(tokens, weight.double(), bias)
    huge = torch.empty(1, 1, 1, 1).expand(1, 10_000, 10_000, 5)
    assert "32 bits" in backend.unsupported(huge, weight, bias)
