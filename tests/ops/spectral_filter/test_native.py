"""The C++ spectral filter against the float64 reference, on every instruction set that this machine has."""

import os
import subprocess
import sys
import threading
from functools import cache

import pytest
import torch

from wxkernels import _native
from wxkernels.ops.spectral_filter import native, reference

core = _native.core
if core is None:
    pytest.skip(_native.reason, allow_module_level=True)

SHAPES = [  # B, H, W, nb, bs, f, fraction
    (1, 90, 180, 1, 96, 1, 1.0),
    (2, 30, 28, 2, 48, 1, 1.0),
    (1, 7, 13, 2, 5, 1, 1.0),
    (2, 1, 1, 2, 16, 1, 1.0),
    (1, 1, 8, 1, 20, 1, 1.0),
    (3, 8, 1, 2, 16, 2, 1.0),
    (1, 33, 49, 1, 20, 2, 0.5),
    (1, 16, 32, 3, 16, 1, 0.3),
    (1, 103, 6, 1, 17, 1, 1.0),
    (1, 6, 121, 1, 33, 2, 1.0),
    (2, 12, 6, 1, 4, 1, 0.0),
    (1, 2, 2, 5, 1, 3, 1.0),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def arguments(B, H, W, nb, bs, f=1, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return [
        normal(B, H, W, nb * bs).to(dtype),
        normal(2, nb, bs, bs * f) / bs**0.5,
        normal(2, nb, bs * f) * 0.1,
        normal(2, nb, bs * f, bs) / bs**0.5,
        normal(2, nb, bs) * 0.1,
    ]


@cache
def expected(shape, dtype):
    """Arguments, the float64 result, and the largest and the root-mean-square error of plain PyTorch."""
    *sizes, fraction = shape
    tensors = arguments(*sizes, dtype)
    exact = reference.spectral_filter(*(t.double() for t in tensors), 0.01, fraction)
    return tensors, exact, errors(reference.spectral_filter(*tensors, 0.01, fraction), exact)


def errors(found, exact):
    difference = found.double() - exact
    return difference.abs().max().item(), difference.square().mean().sqrt().item()


def filtered(tensors, fraction=1.0):
    return native.spectral_filter(*tensors, 0.01, fraction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_at_most_twice_that_of_pytorch(isa, shape, dtype):
    tensors, exact, (largest, mean) = expected(shape, dtype)
    found = filtered(tensors, shape[-1])
    assert found.dtype == dtype
    assert found.shape == exact.shape
    found_largest, found_mean = errors(found, exact)
    # Of less than a thousand values the largest error is luck: one rounding of the largest value is allowed.
    chance = torch.finfo(dtype).eps * exact.abs().max().item() if exact.numel() < 1000 else 0
    assert found_largest <= 2 * largest + chance
    assert found_mean <= 2 * mean + chance


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_input_is_read_where_it_lies(isa, dtype):
    x, *weights = arguments(2, 10, 12, 2, 12, dtype=dtype)
    whole = torch.full((4, 10, 25, 60), float("nan"), dtype=dtype)
    view = whole[::2, :, 1::2, 20:44]
    view.copy_(x)
    assert torch.equal(filtered([view, *weights]), filtered([x, *weights]))


def test_channels_first_input(isa):
    x, *weights = arguments(2, 10, 12, 2, 12)
    permuted = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    found = filtered([permuted, *weights])
    assert found.is_contiguous()
    assert torch.equal(found, filtered([x, *weights]))


@pytest.mark.parametrize("shape", [(0, 4, 4, 8), (2, 0, 4, 8), (2, 4, 0, 8), (2, 4, 4, 0)])
def test_nothing_in_nothing_out(shape):
    bs = shape[3] // 2
    tensors = arguments(1, 1, 1, 2, max(bs, 1))
    if bs == 0:
        w, b = torch.zeros(2, 2, 0, 0), torch.zeros(2, 2, 0)
        tensors[1:] = [w, b, w, b]
    assert filtered([torch.empty(shape), *tensors[1:]]).shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_depend_on_neither_batch_nor_threads(isa, dtype):
    x, *weights = arguments(5, 18, 20, 3, 24, dtype=dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([filtered([x[i : i + 1], *weights]) for i in range(5)])
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            assert torch.equal(filtered([x, *weights]), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_stays_in_its_sample(isa, dtype, bad):
    x, *weights = arguments(3, 9, 10, 1, 20, dtype=dtype)
    clean = filtered([x, *weights])
    x[1, 4, 5, 3] = bad
    found = filtered([x, *weights])
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_dtype_are_taken_in_float32(dtype):
    tensors = arguments(1, 6, 8, 2, 8)
    other = [tensors[0], *(w.to(dtype) for w in tensors[1:])]
    assert torch.equal(filtered(other), filtered([other[0], *(w.float() for w in other[1:])]))


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_weights(isa, shape):
    *sizes, fraction = shape
    x, *weights = arguments(*sizes)
    weights = [w.bfloat16() for w in weights]
    exact = reference.spectral_filter(x.double(), *(w.double() for w in weights), 0.01, fraction)
    largest, mean = errors(reference.spectral_filter(x, *weights, 0.01, fraction), exact)
    found = filtered([x, *weights], fraction)
    assert found.dtype == torch.float32
    found_largest, found_mean = errors(found, exact)
    chance = 2e-3 * exact.abs().max().item() if exact.numel() < 1000 else 1e-6
    assert found_largest <= 2 * largest + chance
    assert found_mean <= 2 * mean + chance


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_bfloat16_where_the_cpu_has_them(isa, dtype):
    x, *weights = arguments(1, 12, 14, 2, 20, dtype=dtype)
    weights = [w.bfloat16() for w in weights]
    found = filtered([x, *weights])
    in_float32 = filtered([x.float(), *(w.float() for w in weights)])
    assert torch.equal(found, in_float32.to(dtype)) == (isa not in ("avx512_bf16", "amx"))
    if dtype != torch.bfloat16:  # of a bfloat16 x the products are bfloat16 whatever the weights
        assert torch.equal(filtered([x, *(w.float() for w in weights)]), in_float32.to(dtype))


def norm(C):
    generator = torch.Generator().manual_seed(C)
    return 1 + 0.2 * torch.randn(C, generator=generator), torch.randn(C, generator=generator)


def normed(tensors, weight, bias, fraction=1.0, backend=native):
    return backend.spectral_filter(*tensors, 0.01, fraction, weight, bias, 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_with_a_norm(isa, shape, dtype):
    *sizes, fraction = shape
    tensors = arguments(*sizes, dtype)
    weight, bias = norm(tensors[0].shape[3])
    exact = normed([t.double() for t in tensors], weight, bias, fraction, reference)
    largest, mean = errors(normed(tensors, weight, bias, fraction, reference), exact)
    found = normed(tensors, weight, bias, fraction)
    assert found.dtype == dtype
    found_largest, found_mean = errors(found, exact)
    chance = torch.finfo(dtype).eps * exact.abs().max().item() if exact.numel() < 1000 else 0
    assert found_largest <= 2 * largest + chance
    assert found_mean <= 2 * mean + chance


def test_norm_of_tokens_far_from_zero(isa):
    x, *weights = arguments(1, 12, 14, 1, 33)
    exact = normed([t.double() for t in (x + 4096, *weights)], *norm(33), backend=reference)
    found = normed([x + 4096, *weights], *norm(33))
    assert (found - exact).abs().max() <= torch.finfo(torch.float32).eps * exact.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_a_strided_input(isa, dtype):
    x, *weights = arguments(2, 10, 12, 2, 12, dtype=dtype)
    whole = torch.full((4, 10, 25, 60), float("nan"), dtype=dtype)
    view = whole[::2, :, 1::2, 20:44]
    view.copy_(x)
    weight, bias = norm(24)
    expected = normed([x, *weights], weight, bias)
    assert torch.equal(normed([view, *weights], weight, bias), expected)
    assert torch.equal(normed([x, *weights], weight.double(), bias.double()), expected)
    torch.testing.assert_close(
        normed([x, *weights], weight, None), normed([x, *weights], weight, torch.zeros(24))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_with_a_norm_depend_on_neither_batch_nor_threads(isa, dtype):
    x, *weights = arguments(3, 18, 20, 3, 24, dtype=dtype)
    alone = torch.cat([normed([x[i : i + 1], *weights], *norm(72)) for i in range(3)])
    for threads in (1, 2, 16):
        torch.set_num_threads(threads)
        assert torch.equal(normed([x, *weights], *norm(72)), alone)


@pytest.mark.parametrize("norm", [(), norm(96)])
def test_a_large_result_has_the_bits_of_a_small_one(isa, norm):
    """Of 16 MB and more it is written past the caches."""
    x, *weights = arguments(3, 90, 180, 1, 96)
    x[1:] = 0
    large, small = (native.spectral_filter(x, *weights, 0.01, 1.0, *norm) for x in (x, x[:1]))
    assert torch.equal(large[:1], small)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_before_the_norm_stays_in_its_sample(isa, bad):
    x, *weights = arguments(3, 9, 10, 1, 20)
    clean = normed([x, *weights], *norm(20))
    x[1, 4, 5, 3] = bad
    found = normed([x, *weights], *norm(20))
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


def test_calls_from_several_threads_at_once():
    sets = [arguments(1, 20 + i, 24, 2, 16, seed=i) for i in range(4)]
    alone = [filtered(tensors) for tensors in sets]
    wrong = []

    def work(i):
        for _ in range(20):
            if not torch.equal(filtered(sets[i]), alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def run(code, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def test_a_forked_child_has_its_own_threads():
    code = """
import os, torch
from wxkernels.ops import spectral_filter
torch.set_num_threads(2)
x, w, b = torch.randn(2, 8, 10, 16), torch.randn(2, 2, 8, 8), torch.randn(2, 2, 8)
y = spectral_filter(x, w, b, w, b)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(spectral_filter(x, w, b, w, b), y) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(spectral_filter(x, w, b, w, b), y)
"""
    done = run(code, WXKERNELS_BACKEND="native")
    assert done.returncode == 0, done.stderr


def test_memory_does_not_grow():
    code = """
import resource, torch
from wxkernels.ops import spectral_filter
x, w, b = torch.randn(2, 24, 24, 32), torch.randn(2, 2, 16, 16), torch.randn(2, 2, 16)
def peak(calls):
    for _ in range(calls):
        spectral_filter(x, w, b, w, b)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
first = peak(20)
grown = peak(1000) - first
assert grown < 1024, f"{grown} KiB more after 1,000 calls"
"""
    done = run(code, WXKERNELS_BACKEND="native")
    assert done.returncode == 0, done.stderr


def test_environment_names_the_instruction_set():
    code = "from wxkernels import _native; print(_native.core.isa())"
    assert run(code, WXKERNELS_ISA="scalar").stdout.strip() == "scalar"
    wrong = run(code, WXKERNELS_ISA="sse9")
    assert wrong.returncode != 0
    assert 'instruction set "sse9" does not run on this machine; choose one of scalar' in wrong.stderr


def test_setter_refuses_an_unknown_instruction_set():
    before = core.isa()
    with pytest.raises(ValueError, match="does not run on this machine"):
        core.set_isa("avx10")
    assert core.isa() == before


def test_what_it_does_not_take():
    x, *weights = arguments(1, 4, 4, 1, 4)
    assert native.unsupported(x, *weights) is None
    assert "float64" in native.unsupported(x.double(), *weights)
    assert "meta" in native.unsupported(x.to("meta"), *weights)


def test_build_info_and_peak():
    info = core.build_info()
    assert set(core.isas()) <= set(info["isas"])
    assert info["version"]
    assert info["compiler"]
    assert core.peak_flops(1)["float32"] > 1e8
