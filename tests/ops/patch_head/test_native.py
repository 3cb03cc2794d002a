"""The C++ patch head against the float64 reference, on every instruction set that this machine has."""

import pytest
import torch

from wxkernels.ops.patch_head import native, reference

if native.unavailable():
    pytest.skip(native.unavailable(), allow_module_level=True)

SHAPES = [  # B, h, w, D, p, q, fields
    (1, 1, 1, 1, 1, 1, 1),
    (2, 5, 7, 11, 2, 3, 4),
    (1, 3, 5, 70, 8, 8, 20),
    (3, 17, 2, 33, 1, 5, 2),
    (1, 1, 33, 64, 4, 2, 3),
]


def arguments(B, h, w, D, p, q, N, dtype=torch.float32, weights=torch.float32):
    generator = torch.Generator().manual_seed(B + h + w + D + N)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    weight = (normal(p * q * N, D) / D**0.5).to(weights)
    return [normal(B, h, w, D).to(dtype), weight, normal(p * q * N), (p, q)]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_at_most_twice_that_of_pytorch(isa, shape, dtype, weights):
    *tensors, patch_size = arguments(*shape, dtype, weights)
    exact = reference.patch_head(*(t.double() for t in tensors), patch_size)
    plain, found = reference.patch_head(*tensors, patch_size), native.patch_head(*tensors, patch_size)
    assert (found.dtype, found.shape) == (plain.dtype, plain.shape)
    allowed = 2 * (plain.double() - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
    assert (found.double() - exact).abs().max() <= allowed


def test_absent_bias(isa):
    tokens, weight, _, patch_size = arguments(2, 5, 7, 11, 2, 3, 4)
    found = native.patch_head(tokens, weight, None, patch_size)
    torch.testing.assert_close(found, reference.patch_head(tokens, weight, None, patch_size))


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_batch_or_threads(isa, weights):
    tokens, *others = arguments(3, 6, 7, 40, 4, 4, 5, weights=weights)
    y = native.patch_head(tokens, *others)
    torch.set_num_threads(3)
    assert torch.equal(native.patch_head(tokens, *others), y)
    for i in range(3):
        assert torch.equal(native.patch_head(tokens[i : i + 1], *others), y[i : i + 1])


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_a_nan_stays_in_its_patch(isa, weights):
    tokens, *others = arguments(2, 5, 7, 11, 2, 3, 4, weights=weights)
    clean = native.patch_head(tokens, *others)
    tokens[1, 3, 4, 10] = float("nan")
    found = native.patch_head(tokens, *others)
    assert found[1, :, 6:8, 12:15].isnan().all()
    found[1, :, 6:8, 12:15] = clean[1, :, 6:8, 12:15]
    assert torch.equal(found, clean)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)])
def test_nothing_in_nothing_out(shape):
    found = native.patch_head(torch.empty(shape), torch.ones(12, 5), None, (2, 2))
    assert found.shape == (shape[0], 3, 2 * shape[1], 2 * shape[2])


def test_what_it_does_not_take():
    tokens, weight, bias, _ = arguments(1, 1, 1, 1, 1, 1, 1)
    assert native.unsupported(tokens, weight, bias) is None
    assert "tokens is float64" in native.unsupported(tokens.double(), weight, bias)
    assert "meta" in native.unsupported(tokens.to("meta"), weight, bias)
