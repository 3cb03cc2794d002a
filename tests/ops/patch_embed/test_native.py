"""The C++ patch embedding against the float64 reference, on every instruction set that this machine has."""

import pytest
import torch

from wxkernels.ops.patch_embed import native, reference

if native.unavailable():
    pytest.skip(native.unavailable(), allow_module_level=True)

SHAPES = [  # B, C, h, w, p, q, D
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 5, 7, 2, 3, 11),
    (1, 20, 3, 5, 8, 8, 70),
    (3, 2, 17, 2, 1, 5, 33),
    (1, 5, 1, 33, 4, 2, 64),
]


def arguments(B, C, h, w, p, q, D, dtype=torch.float32, weights=torch.float32):
    generator = torch.Generator().manual_seed(B + C + h + w + D)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    x = normal(B, C, h * p, w * q).to(dtype)
    weight = (normal(D, C, p, q) / (C * p * q) ** 0.5).to(weights)
    return [x, weight, normal(D), normal(1, h * w, D), None]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_at_most_twice_that_of_pytorch(isa, shape, dtype, weights):
    tensors = arguments(*shape, dtype, weights)
    exact = reference.patch_embed(*(t if t is None else t.double() for t in tensors))
    plain, found = reference.patch_embed(*tensors), native.patch_embed(*tensors)
    assert (found.dtype, found.shape) == (plain.dtype, plain.shape)
    allowed = 2 * (plain.double() - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
    assert (found.double() - exact).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int8])
def test_positions_of_every_dtype(isa, dtype):
    x, weight, bias, pos_embed, _ = arguments(2, 3, 5, 7, 2, 3, 33)
    pos_scale = 0.01 + torch.rand(35) if dtype == torch.int8 else None
    pos_embed = (20 * pos_embed).clamp(-127, 127).to(dtype)
    tensors = [x, weight, bias, pos_embed, pos_scale]
    torch.testing.assert_close(native.patch_embed(*tensors), reference.patch_embed(*tensors))


def test_absent_bias_and_positions(isa):
    x, weight, bias, pos_embed, _ = arguments(2, 3, 5, 7, 2, 3, 33)
    for b, pos in ((None, None), (bias, None), (None, pos_embed)):
        found = native.patch_embed(x, weight, b, pos, None)
        torch.testing.assert_close(found, reference.patch_embed(x, weight, b, pos, None))


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_batch_or_threads(isa, weights):
    x, *others = arguments(3, 5, 6, 7, 4, 4, 40, weights=weights)
    y = native.patch_embed(x, *others)
    torch.set_num_threads(3)
    assert torch.equal(native.patch_embed(x, *others), y)
    for i in range(3):
        assert torch.equal(native.patch_embed(x[i : i + 1], *others), y[i : i + 1])


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_a_nan_stays_in_its_patch(isa, weights):
    x, *others = arguments(2, 3, 5, 7, 2, 3, 33, weights=weights)
    clean = native.patch_embed(x, *others)
    x[1, 1, 2 * 3 + 1, 3 * 4] = float("nan")
    found = native.patch_embed(x, *others)
    rest = torch.ones(2, 5, 7, dtype=torch.bool)
    rest[1, 3, 4] = False
    assert found[1, 3, 4].isnan().all()
    assert torch.equal(found[rest], clean[rest])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_nothing_in_nothing_out(shape):
    found = native.patch_embed(torch.empty(shape), torch.ones(5, 3, 2, 2), None, None, None)
    assert found.shape == (shape[0], shape[2] // 2, shape[3] // 2, 5)


def test_what_it_does_not_take():
    x, *others = arguments(1, 1, 1, 1, 1, 1, 1)
    assert native.unsupported(x, *others) is None
    assert "float64" in native.unsupported(x.double(), *others)
    assert "meta" in native.unsupported(x.to("meta"), *others)
