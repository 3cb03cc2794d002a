"""The C++ MLP against the float64 reference, on every instruction set that this machine has."""

from functools import cache

import pytest
import torch

from wxkernels.ops.mlp import native, reference

if native.unavailable():
    pytest.skip(native.unavailable(), allow_module_level=True)

SHAPES = [  # M, C, D: tiles in part, channels of no whole group of four
    (1, 1, 1),
    (15, 16, 64),
    (17, 33, 70),
    (40, 96, 384),
    (30, 130, 7),
    (65, 5, 257),
    (5, 768, 3072),  # long sums
]
PRECISIONS = [torch.float32, torch.bfloat16, torch.int8]
OFFSET = -90


@cache
def drawn(C, D, precision):
    generator = torch.Generator().manual_seed(C + D)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    norm = [1 + 0.2 * normal(C), normal(C)]
    fc1, fc2 = normal(D, C) / C**0.5, normal(C, D) / D**0.5
    biases = [0.3 * normal(D), 0.3 * normal(C)]
    scales = [None, None, None, 0]
    if precision == torch.int8:
        scales = [fc1.abs().amax(1) / 127, fc2.abs().amax(1) / 127, torch.tensor(0.03), OFFSET]
        fc1, fc2 = (fc1 / scales[0][:, None]).round(), (fc2 / scales[1][:, None]).round()
    return [*norm, fc1.to(precision), biases[0], fc2.to(precision), biases[1], *scales, 1e-6, "gelu"]


def arguments(C, D, precision):
    """Everything but x, as backends take it."""
    return list(drawn(C, D, precision))


def states(M, C, dtype=torch.float32):
    return torch.randn(M, C, generator=torch.Generator().manual_seed(M)).to(dtype)


def in_float64(x, others):
    """The same layer without any rounding of its operands."""
    *tensors, fc1_scale, fc2_scale, _, _, eps, activation = others
    tensors = [t.double() for t in tensors]
    if fc1_scale is not None:
        tensors[2] = tensors[2] * fc1_scale.double()[:, None]
        tensors[4] = tensors[4] * fc2_scale.double()[:, None]
    return reference.mlp(x.double(), *tensors, None, None, None, 0, eps, activation)


def errors(found, exact):
    difference = found.double() - exact
    return difference.abs().max().item(), difference.square().mean().sqrt().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_at_most_twice_that_of_pytorch(isa, shape, precision, dtype):
    M, C, D = shape
    x, others = states(M, C, dtype), arguments(C, D, precision)
    exact = in_float64(x, others)
    found = native.mlp(x, *others)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    largest, mean = errors(reference.mlp(x, *others), exact)
    found_largest, found_mean = errors(found, exact)
    # Of a few hundred values the largest error is luck: one rounding of the largest value is allowed.
    chance = torch.finfo(dtype).eps * exact.abs().max().item()
    assert found_largest <= 2 * largest + chance
    assert found_mean <= 2 * mean + chance


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_the_arithmetic_of_the_reference(isa, shape):
    """Not only an error as small: the same integers, but for quotients next to a half."""
    M, C, D = shape
    x, others = states(M, C), arguments(C, D, torch.int8)
    exact, expected, found = in_float64(x, others), reference.mlp(x, *others), native.mlp(x, *others)
    assert errors(found, expected.double())[1] <= 0.2 * errors(expected, exact)[1] + 1e-6


def test_sums_of_the_largest_integers_do_not_wrap(isa):
    """q - hidden_offset = 254, all weights 127, D = 65536."""
    D = 65536
    fc1, fc2 = torch.full((D, 1), 127, dtype=torch.int8), torch.full((1, D), 127, dtype=torch.int8)
    norm = [torch.zeros(1), torch.ones(1)]  # LN(x) = 1
    scales = [torch.ones(D), torch.ones(1), torch.tensor(2.0**-20), -127]
    y = native.mlp(torch.zeros(3, 1), *norm, fc1, None, fc2, None, *scales, 1e-6, "gelu")
    assert torch.equal(y, torch.full((3, 1), 254 * 127 * D * 2.0**-20))


@pytest.mark.parametrize("activation", ["none", "gelu_tanh"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_activations(isa, precision, activation):
    x, others = states(10, 24), [*arguments(24, 50, precision)[:-1], activation]
    largest, _ = errors(reference.mlp(x, *others), in_float64(x, others))
    assert errors(native.mlp(x, *others), in_float64(x, others))[0] <= 2 * largest + 1e-6


@pytest.mark.parametrize("precision", PRECISIONS)
def test_absent_biases(isa, precision):
    x, others = states(10, 24), arguments(24, 50, precision)
    for place in (1, 3, 5):
        others[place] = torch.zeros_like(others[place])
    expected = native.mlp(x, *others)
    for place in (1, 3, 5):
        others[place] = None
    torch.testing.assert_close(native.mlp(x, *others), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_strided_rows(isa, precision):
    others = arguments(24, 50, precision)
    x = states(6, 24)
    whole = torch.full((11, 60), float("nan"))
    view = whole[::2, 7:31]
    view.copy_(x)
    expected = native.mlp(x, *others)
    assert torch.equal(native.mlp(view, *others), expected)
    assert torch.equal(native.mlp(x.t().contiguous().t(), *others), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_nan_fills_its_row_and_no_other(isa, precision, bad):
    x, others = states(40, 24), arguments(24, 50, precision)
    clean = native.mlp(x, *others)
    x[11, 23] = float(bad)
    found = native.mlp(x, *others)
    rest = torch.arange(40) != 11
    assert found[11].isnan().all()
    assert torch.equal(found[rest], clean[rest])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_rows_or_threads(isa, precision, dtype):
    x, others = states(70, 40, dtype), arguments(40, 90, precision)
    y = native.mlp(x, *others)
    torch.set_num_threads(3)
    assert torch.equal(native.mlp(x, *others), y)
    for i in (0, 7, 69):
        assert torch.equal(native.mlp(x[i], *others), y[i])


def test_no_rows():
    assert native.mlp(torch.empty(0, 8), *arguments(8, 12, torch.float32)).shape == (0, 8)


@pytest.mark.parametrize("C", [48, 50])
def test_a_large_result_has_the_bits_of_a_small_one(isa, C):
    """Of 16 MB and more it is written past the caches, where rows are made of whole lines."""
    M = (16 << 20) // (4 * C) + 50
    x, others = states(M, C), arguments(C, 16, torch.float32)
    y = native.mlp(x, *others)
    for rows in (slice(0, 50), slice(M - 50, M)):
        assert torch.equal(y[rows], native.mlp(x[rows], *others))


def test_what_it_does_not_take():
    x, others = states(2, 8), arguments(8, 12, torch.float32)[:9]
    assert native.unsupported(x, *others) is None
    assert "float64" in native.unsupported(x.double(), *others)
    assert "meta" in native.unsupported(x.to("meta"), *others)
