"""The Triton backend, interpreted and on a GPU: `compute` runs there, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ops.devices import DTYPES, on_device
from tests.ops.spectral_filter.arguments import arguments
from wxkernels.ops.spectral_filter import reference
from wxkernels.ops.spectral_filter import triton as backend

CASES = [  # B, H, W, nb, bs, hidden_size_factor, fraction: what is special
    (2, 8, 16, 2, 8, 1, 1.0),  # the Nyquist column is cut
    (1, 8, 6, 1, 8, 1, 1.0),  # and kept
    (1, 7, 13, 1, 12, 1, 1.0),  # odd and prime
    (1, 5, 6, 2, 4, 2, 0.5),
    (1, 9, 18, 2, 12, 1, 0.3),
    (1, 12, 10, 1, 24, 2, 1.0),  # block 24 in a tile of 32, 48 hidden channels in two
    (1, 36, 40, 1, 8, 1, 0.5),  # sums over several tiles, the last in part
    (1, 100, 4, 1, 4, 1, 1.0),  # several tiles of rows
    (1, 4, 140, 1, 4, 1, 1.0),
    (1, 6, 10, 1, 136, 1, 1.0),  # a block wider than a tile
    (1, 5, 1, 2, 2, 1, 1.0),
    (2, 1, 1, 1, 2, 1, 1.0),
]


def compute() -> dict:
    """Errors by case, and the answers to the other questions."""

    @on_device
    def triton(tensors, fraction=1.0, *norm):
        reason = backend.unavailable() or backend.unsupported(*tensors)
        assert reason is None, reason
        return backend.spectral_filter(*tensors, 0.01, fraction, *norm)

    results = {}
    for dtype in DTYPES:
        for *shape, fraction in CASES:
            tensors = arguments(*shape, getattr(torch, dtype))
            exact = reference.spectral_filter(*(t.double() for t in tensors), 0.01, fraction)
            plain = reference.spectral_filter(*tensors, 0.01, fraction)
            found = triton(tensors, fraction)
            errors = [(y.double() - exact).abs().max().item() for y in (found, plain)]
            same = found.dtype == plain.dtype and found.shape == plain.shape and found.is_contiguous()
            results[f"{dtype} {(*shape, fraction)}"] = [*errors, same]

    x, *weights = arguments(2, 6, 8, 1, 8, 1, torch.float16)
    y = triton([x, *weights])
    channels_first = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    window = torch.nn.functional.pad(x, (3, 5, 1, 2, 2, 1))[:, 2:-1, 1:-2, 3:-5]
    broken = x.clone()
    broken[1, 2, 3, 4] = torch.nan
    with_nan = triton([broken, *weights])
    results["channels first"] = torch.equal(triton([channels_first, *weights]), y)
    results["window"] = not window.is_contiguous() and torch.equal(triton([window, *weights]), y)
    results["float64 weights"] = torch.equal(triton([x, *(w.double() for w in weights)]), y)
    results["one sample"] = torch.equal(triton([x[1:], *weights]), y[1:])
    results["no sample"] = list(triton([x[:0], *weights]).shape)
    results["no mode"] = torch.equal(triton([x, *weights], 0.0), x)
    results["x kept"] = torch.equal(x, arguments(2, 6, 8, 1, 8, 1, torch.float16)[0])
    results["nan stays"] = bool(with_nan[1].isnan().all()) and torch.equal(with_nan[0], y[0])
    for dtype in DTYPES:
        tensors = arguments(2, 6, 8, 2, 8, 1, getattr(torch, dtype))
        norm = (torch.linspace(0.5, 1.5, 16), torch.linspace(-1, 1, 16), 1e-6)
        exact = reference.spectral_filter(*(t.double() for t in tensors), 0.01, 1.0, *norm)
        found, plain = triton(tensors, 1.0, *norm), reference.spectral_filter(*tensors, 0.01, 1.0, *norm)
        results[f"norm {dtype}"] = [(y.double() - exact).abs().max().item() for y in (found, plain)]
    for shape in ((2, 6, 8, 2, 8, 1), (1, 15, 30, 1, 16, 1)):
        x, w1, b1, w2, b2 = arguments(*shape, torch.float32)
        tensors = x, w1.bfloat16(), b1, w2.bfloat16(), b2
        exact = reference.spectral_filter(*(t.double() for t in tensors), 0.01, 1.0)
        found, plain = triton(tensors), reference.spectral_filter(*tensors, 0.01, 1.0)
        results[f"bfloat16 weights {shape}"] = [(y - exact).abs().max().item() for y in (found, plain)]
        whole = triton([x, *(t.float() for t in tensors[1:])])
        results["bfloat16 weights are TF32"] = not torch.equal(found, whole)
    x, *weights = arguments(2, 6, 8, 1, 8, 1, torch.float16)
    results["bfloat16"] = backend.unsupported(x.bfloat16(), *weights)
    return results


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_at_most_twice_that_of_pytorch(computed, case, dtype):
    error, plain, same = computed[f"{dtype} {case}"]
    assert same
    assert error <= 2 * plain + torch.finfo(getattr(torch, dtype)).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm(computed, dtype):
    error, plain = computed[f"norm {dtype}"]
    assert error <= 2 * plain + torch.finfo(getattr(torch, dtype)).eps


@pytest.mark.parametrize("shape", [(2, 6, 8, 2, 8, 1), (1, 15, 30, 1, 16, 1)])
def test_bfloat16_weights_of_float32_are_multiplied_in_tf32(computed, shape):
    error, plain = computed[f"bfloat16 weights {shape}"]
    assert error <= 2 * plain
    assert computed["bfloat16 weights are TF32"]


@pytest.mark.parametrize("layout", ["channels first", "window"])
def test_strided_input(computed, layout):
    assert computed[layout]


def test_a_sample_does_not_depend_on_its_batch(computed):
    assert computed["one sample"]


def test_empty_batch_and_empty_spectrum(computed):
    assert computed["no sample"] == [0, 6, 8, 8]
    assert computed["no mode"]


def test_input_is_left_alone(computed):
    assert computed["x kept"]


def test_weights_of_another_dtype(computed):
    assert computed["float64 weights"]


def test_nan_is_not_swallowed_and_stays_in_its_sample(computed):
    assert computed["nan stays"]


def test_interpreter_refuses_bfloat16(interpreted):
    assert "bfloat16" in interpreted["bfloat16"]


@pytest.mark.parametrize(("H", "start", "stop"), [(8, 0, 8), (9, 2, 7), (90, 23, 69)])
def test_constant_matrices_over_h_are_fft_and_its_inverse(H, start, stop):
    forward, inverse = backend._h_matrices(H, start, stop, torch.float64, torch.device("cpu"))
    rows = stop - start
    x = torch.randn(H, 3, dtype=torch.complex128)
    re, im = (forward[: 2 * rows, : 2 * H] @ torch.cat([x.real, x.imag])).view(2, rows, 3)
    X = torch.fft.fft(x, dim=0)
    torch.testing.assert_close(torch.complex(re, im), X[start:stop], rtol=0, atol=1e-12)
    X[:start], X[stop:] = 0, 0
    back = inverse[: 2 * H, : 2 * rows] @ torch.cat([X[start:stop].real, X[start:stop].imag])
    expected = torch.fft.ifft(X, dim=0, norm="forward")
    torch.testing.assert_close(back, torch.cat([expected.real, expected.imag]), rtol=0, atol=1e-12)
    re, im, minus_im = backend._h_planes(H, start, stop, torch.float64, torch.device("cpu"))[:, :rows, :H]
    torch.testing.assert_close(forward[:rows, : 2 * H], torch.cat([re, minus_im], dim=1), rtol=0, atol=0)
    torch.testing.assert_close(forward[rows : 2 * rows, : 2 * H], torch.cat([im, re], dim=1), rtol=0, atol=0)


def test_says_what_it_does_not_take():
    x, *weights = arguments(1, 4, 4, 1, 2, 1, torch.float64)
    assert "float64" in backend.unsupported(x, *weights)
    huge = torch.empty(1, 1, 1, 2, dtype=torch.float16).expand(1, 40_000, 40_000, 2)
    assert "32 bits" in backend.unsupported(huge, *weights)
    assert "CUDA or ROCm" in backend.unsupported(x.float(), *weights)


def test_import_without_triton():
    code = """
import sys
sys.modules["triton"] = None
from wxkernels import backends, ops
reasons = [reason for _, backend, reason in backends.table() if backend == "triton"]
assert reasons and all("wxkernels[triton]" in reason for reason in reasons), reasons
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(backend.__file__).parents[3])
