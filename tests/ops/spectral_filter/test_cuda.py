"""The CUDA backend: the source of its kernels compiled for the CPU, and on a GPU.

As a script this file computes what the tests see, on the CPU in a process of its own for AddressSanitizer.
"""

import ctypes
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.cuda_on_cpu import library
from tests.ops.devices import DEVICE, on_device
from tests.ops.spectral_filter.arguments import arguments
from wxkernels import _native, backends
from wxkernels.ops import spectral_filter
from wxkernels.ops.spectral_filter import cuda as backend
from wxkernels.ops.spectral_filter import reference

info = _native.core.build_info() if _native.core is not None else {"cuda": None}
needs_kernels = pytest.mark.skipif(info["cuda"] is None, reason=str(backend.unavailable()))
runs_on_gpu = pytest.mark.skipif(backend.unavailable() is not None, reason=str(backend.unavailable()))

DTYPES = ["float32", "float16", "bfloat16"]
CASES = [  # B, H, W, nb, bs, hidden_size_factor, fraction: what is special
    (2, 4, 8, 2, 8, 1, 1.0),  # the Nyquist column is cut
    (1, 8, 6, 1, 8, 1, 1.0),  # and kept
    (1, 7, 13, 1, 8, 1, 1.0),  # odd and prime
    (1, 5, 6, 2, 8, 2, 0.5),
    (1, 9, 18, 2, 24, 1, 0.3),  # a block in two tiles, the second in part
    (1, 12, 10, 1, 24, 2, 1.0),
    (1, 20, 40, 1, 8, 1, 0.5),  # sums over several steps, the last in part
    (1, 52, 2, 1, 8, 1, 1.0),  # more rows than a warp takes at a time
    (1, 4, 140, 1, 8, 1, 1.0),
    (1, 4, 6, 1, 72, 1, 1.0),  # more channels than a block of the transforms has
    (1, 5, 1, 2, 8, 1, 1.0),
    (2, 1, 1, 1, 8, 1, 1.0),
]
LARGE = (2, 90, 180, 8, 96, 1, 1.0)  # FourCastNet, on a GPU
NORM = (3, 2, 3, 2, 24, 1)


class OnCpu:
    """The compiled module's two functions, of the library that `on_cpu.cpp` is in."""

    class Op(ctypes.Structure):  # csrc/include/wxkernels/spectral_filter_cuda.h
        _fields_ = (
            *((name, ctypes.c_void_p) for name in ("x", "out")),
            ("dtype", ctypes.c_int),
            ("tf32", ctypes.c_bool),
            *((name, ctypes.c_int64) for name in ("batch", "height", "width", "blocks", "block_size")),
            *((name, ctypes.c_int64) for name in ("hidden_size", "stride_batch", "stride_height")),
            *((name, ctypes.c_int64) for name in ("stride_width", "rows", "columns")),
            *((name, ctypes.c_void_p) for name in ("forward_width", "inverse_width", "forward_height")),
            *((name, ctypes.c_void_p) for name in ("inverse_height", "w1", "w2", "b1", "b2")),
            ("threshold", ctypes.c_float),
            *((name, ctypes.c_void_p) for name in ("norm_weight", "norm_bias")),
            ("eps", ctypes.c_float),
            ("samples", ctypes.c_int64),
            *((name, ctypes.c_void_p) for name in ("spectrum", "moments")),
        )

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        for name in ("spectral_filter_cuda", "spectral_filter_cuda_refusal"):
            getattr(self.library, name).restype = ctypes.c_char_p

    def spectral_filter_cuda(self, **call):
        message = self.library.spectral_filter_cuda(ctypes.byref(self.op(**call)))
        if message is not None:
            raise RuntimeError(message.decode())

    def spectral_filter_cuda_refusal(self, **sizes):
        return self.library.spectral_filter_cuda_refusal(ctypes.byref(self.op(**sizes))).decode()

    def op(self, dtype, shape, kept, blocks, strides=(0, 0, 0, 0), **fields):
        B, H, W, C = shape
        fields |= dict(zip(("stride_batch", "stride_height", "stride_width"), strides, strict=False))
        fields["dtype"] = ("float32", "bfloat16", "float16").index(dtype)
        fields |= {"batch": B, "height": H, "width": W, "blocks": blocks, "block_size": C // blocks}
        return self.Op(rows=kept[0], columns=kept[1], **fields)


def compute() -> dict:
    """Errors by case, and the answers to the other questions."""
    compiled = OnCpu(os.environ["WXKERNELS_TEST_LIBRARY"]) if DEVICE == "cpu" else None

    @on_device
    def cuda(tensors, fraction=1.0, *norm, tf32=False):
        if compiled is not None:
            run = compiled.spectral_filter_cuda
            return backend.filtered(run, *tensors, 0.01, fraction, *(norm or (None, None, 1e-6)), tf32)
        reason = backend.unavailable() or backend.unsupported(*tensors)
        assert reason is None, reason
        torch.backends.cuda.matmul.allow_tf32 = tf32
        return backend.spectral_filter(*tensors, 0.01, fraction, *norm)

    def errors(tensors, fraction, *norm, tf32=False):
        """Of the backend and of PyTorch; with TF32, of PyTorch in float16, which has its precision."""
        exact = reference.spectral_filter(*(t.double() for t in tensors), 0.01, fraction, *norm)
        plain = reference.spectral_filter(*(t.half() if tf32 else t for t in tensors), 0.01, fraction, *norm)
        found = cuda(tensors, fraction, *norm, tf32=tf32)
        assert (found.dtype, found.shape) == (tensors[0].dtype, plain.shape)
        assert found.is_contiguous()
        return [(y.double() - exact).abs().max().item() for y in (found, plain)]

    results = {}
    for *shape, fraction in CASES if compiled else [*CASES, LARGE]:
        for dtype in DTYPES:
            tensors = arguments(*shape, getattr(torch, dtype))
            results[f"{dtype} {(*shape, fraction)}"] = errors(tensors, fraction)
        results[f"tf32 {(*shape, fraction)}"] = errors(arguments(*shape, torch.float32), fraction, tf32=True)
    channels = NORM[3] * NORM[4]
    weight, bias = torch.linspace(0.5, 1.5, channels), torch.linspace(-1, 1, channels)
    for dtype in DTYPES:
        tensors = arguments(*NORM, getattr(torch, dtype))
        tensors[0] += 3  # a mean that a variance by differences of squares would drown in
        results[f"norm {dtype}"] = errors(tensors, 1.0, weight, bias, 1e-6)
        results[f"norm without bias {dtype}"] = errors(tensors, 1.0, weight.to(tensors[0].dtype), None, 1e-3)

    x, *weights = arguments(3, 6, 8, 1, 8, 1, torch.float16)
    y = cuda([x, *weights])
    channels_first = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for name, left in (("window", 8), ("misaligned window", 3)):
        window = torch.nn.functional.pad(x, (left, 16 - left, 1, 2, 2, 1))[:, 2:-1, 1:-2, left : left - 16]
        results[name] = not window.is_contiguous() and torch.equal(cuda([window, *weights]), y)
    broken = x.clone()
    broken[1, 2, 3, 4] = torch.nan
    with_nan = cuda([broken, *weights])
    results["channels first"] = torch.equal(cuda([channels_first, *weights]), y)
    results["repeated"] = torch.equal(cuda([x[1:2].expand(3, -1, -1, -1), *weights])[2], y[1])
    results["float64 weights"] = torch.equal(cuda([x, *(w.double() for w in weights)]), y)
    results["no sample"] = list(cuda([x[:0], *weights]).shape)
    results["no mode"] = torch.equal(cuda([x, *weights], 0.0), x)
    norm = (torch.ones(8), None, 1e-6)
    normed = reference.spectral_filter(x, *weights, 0.01, 0.0, *norm)
    results["no mode, norm"] = torch.equal(cuda([x, *weights], 0.0, *norm), normed)
    results["x kept"] = torch.equal(x, arguments(3, 6, 8, 1, 8, 1, torch.float16)[0])
    others = [i for i in range(3) if i != 1]
    results["nan stays"] = bool(with_nan[1].isnan().all()) and torch.equal(with_nan[others], y[others])
    results["small block"] = errors(arguments(1, 6, 8, 2, 4, 1, torch.float32), 1.0)

    for dtype in DTYPES:
        tensors = arguments(*NORM, getattr(torch, dtype))
        call = (1.0, weight, bias, 1e-6)
        together = cuda(tensors, *call)
        alone = [cuda([tensors[0][i : i + 1], *tensors[1:]], *call) for i in range(3)]
        results[f"one sample {dtype}"] = torch.equal(torch.cat(alone), together)
        at_once, backend.SAMPLE_BYTES = backend.SAMPLE_BYTES, 2 * tensors[0][0].nbytes
        results[f"two samples and one {dtype}"] = torch.equal(cuda(tensors, *call), together)
        backend.SAMPLE_BYTES = at_once
        if compiled is not None:
            compiled.library.run_backwards(True)
        results[f"again {dtype}"] = torch.equal(cuda(tensors, *call), together)
        if compiled is not None:
            compiled.library.run_backwards(False)

    if compiled is not None:
        sizes = {
            "dtype": "bfloat16",
            "shape": (1, 90, 180, 768),
            "blocks": 8,
            "hidden_size": 96,
            "kept": (90, 46),
        }
        results["fits"] = compiled.spectral_filter_cuda_refusal(**sizes)
        sizes |= {"shape": (1, 1440, 180, 768), "kept": (1440, 91)}
        results["does not fit"] = compiled.spectral_filter_cuda_refusal(**sizes)
    return results


@cache
def computed_on(device: str, path: Path | None) -> dict:
    root = str(Path(__file__).parents[3])
    environment = os.environ | library.environment() if path else dict(os.environ)
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "WXKERNELS_TEST_DEVICE": device}
    environment["WXKERNELS_TEST_LIBRARY"] = str(path)
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    path = tmp_path_factory.mktemp("spectral_filter") / "on_cpu.so"
    return library.compiled(path, "csrc/cuda/spectral_filter.cu", "tests/ops/spectral_filter/on_cpu.cpp")


@pytest.fixture(
    params=[
        pytest.param("cpu", marks=library.needed),
        pytest.param("cuda", marks=[pytest.mark.gpu, runs_on_gpu]),
    ]
)
def computed(request):
    """What this file computes as a script, on either device."""
    return computed_on(request.param, request.getfixturevalue("on_cpu") if request.param == "cpu" else None)


def bound(dtype, plain):
    return 2 * plain + torch.finfo(getattr(torch, "float16" if dtype == "tf32" else dtype)).eps


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, "tf32"])
def test_error_at_most_twice_that_of_pytorch(computed, case, dtype):
    error, plain = computed[f"{dtype} {case}"]
    assert error <= bound(dtype, plain)


@runs_on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*DTYPES, "tf32"])
def test_error_at_full_size(dtype):
    error, plain = computed_on("cuda", None)[f"{dtype} {LARGE}"]
    assert error <= bound(dtype, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["norm", "norm without bias"])
def test_norm(computed, norm, dtype):
    error, plain = computed[f"{norm} {dtype}"]
    assert error <= bound(dtype, plain)


def test_float32_takes_blocks_of_four(computed):
    error, plain = computed["small block"]
    assert error <= bound("float32", plain)


@pytest.mark.parametrize("layout", ["channels first", "window", "misaligned window", "repeated"])
def test_strided_input(computed, layout):
    assert computed[layout]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", ["one sample", "two samples and one"])
def test_a_sample_does_not_depend_on_its_batch(computed, batch, dtype):
    assert computed[f"{batch} {dtype}"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_threads_does_not_matter(computed, dtype):
    assert computed[f"again {dtype}"]


def test_empty_batch_and_empty_spectrum(computed):
    assert computed["no sample"] == [0, 6, 8, 8]
    assert computed["no mode"]
    assert computed["no mode, norm"]


def test_input_is_left_alone(computed):
    assert computed["x kept"]


def test_weights_of_another_dtype(computed):
    assert computed["float64 weights"]


def test_nan_is_not_swallowed_and_stays_in_its_sample(computed):
    assert computed["nan stays"]


@library.needed
def test_says_what_does_not_fit(on_cpu):
    computed = computed_on("cpu", on_cpu)
    assert computed["fits"] == ""
    assert computed["does not fit"] == "these sizes need 1170 KiB of shared memory, and the GPU has 227"


def test_says_why_it_does_not_run():
    if info["cuda"] is None:
        assert "built without CUDA kernels" in backend.unavailable() or _native.core is None
    elif not torch.cuda.is_available():
        assert backend.unavailable() == "torch finds no CUDA device"
    tensors = arguments(1, 4, 4, 1, 8, 1, torch.float16)
    assert backend.unsupported(*tensors) == "x is on cpu; it needs a CUDA device"
    assert "x is float64" in backend.unsupported(*arguments(1, 4, 4, 1, 8, 1, torch.float64))
    assert "8 channels, and a block has 12" in backend.unsupported(
        *arguments(1, 4, 4, 1, 12, 1, torch.float16)
    )
    assert "4 channels, and a block has 6" in backend.unsupported(*arguments(1, 4, 4, 1, 6, 1, torch.float32))


@pytest.mark.parametrize("operands", ["bfloat16", "tf32", "float32"])
def test_fragments_hold_the_matrix_and_zeros(operands):
    """Sixteen rows by a step of columns at a time; a lane of tf32 has (l / 4, l % 4) first."""
    a = 1 + torch.arange(2.0 * 18 * 20).view(2, 18, 20)
    found = backend.fragments(a, operands, torch.float32, torch.device("cpu"))
    step = found[0, 0, 0].numel() // 16
    assert found.shape[:3] == (2, 2, 32 // step)
    assert sorted(found[found != 0].tolist()) == a.flatten().tolist()
    for tile, k in ((0, 0), (1, 0), (1, 16 // step)):
        part = a[1, 16 * tile : 16 * tile + 16, k * step : k * step + step]
        kept = found[1, tile, k].flatten()
        assert sorted(kept[kept != 0].tolist()) == part.flatten().tolist()
    if operands == "tf32":
        rows = found[0, 0, 0].view(32, 4)
        assert rows[13].tolist() == [a[0, row, k].item() for k in (1, 5) for row in (3, 11)]


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 8}, "addresses at multiples of 16 bytes"),
        ({"spectrum": 0}, "addresses at multiples of 16 bytes"),
        ({"strides": (512, 64, 12, 1)}, "strides of x of a multiple of 16 bytes"),
        ({"shape": (2, 8, 8, 20), "blocks": 1}, "blocks of a multiple of 16 bytes"),
        ({"kept": (9, 5)}, "1 to height rows"),
        ({"kept": (8, 6)}, "1 to height rows"),
        ({"kept": (8, 0)}, "1 to height rows"),
        ({"samples": 0}, "1 or more samples at once"),
        ({"samples": 2**40}, "fewer samples at once"),
        ({"b1": 0}, "b1 and b2"),
        ({"norm_weight": 16}, "room for moments with a norm"),
        ({"moments": 16}, "room for moments with a norm"),
    ],
)
def test_the_compiled_part_refuses_what_it_would_read_wrongly(change, message):
    names = ("x", "out", "forward_width", "inverse_width", "forward_height", "inverse_height")
    call = dict.fromkeys((*names, "w1", "b1", "w2", "b2", "spectrum"), 16)
    call |= dict.fromkeys(("norm_weight", "norm_bias", "moments", "device", "stream"), 0)
    call |= {"dtype": "float16", "tf32": False, "shape": (2, 8, 8, 16), "strides": (1024, 128, 16, 1)}
    call |= {"blocks": 2, "hidden_size": 8, "kept": (8, 5), "threshold": 0.01, "eps": 1e-6, "samples": 2}
    with pytest.raises(ValueError, match="spectral_filter on CUDA: expected") as caught:
        _native.core.spectral_filter_cuda(**(call | change))
    assert message in str(caught.value)


@needs_kernels
def test_without_a_driver_the_module_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    assert "driver" in _native.core.spectral_filter_cuda_refusal(
        "float16", False, (1, 8, 8, 8), 1, 8, (8, 5), 0
    )


@runs_on_gpu
@pytest.mark.gpu
def test_streams_and_graphs():
    tensors = [t.cuda() for t in arguments(2, 24, 40, 2, 32, 1, torch.bfloat16)]
    with backends.use("cuda"):
        expected = spectral_filter(*tensors)
        with torch.cuda.stream(torch.cuda.Stream()):
            found = spectral_filter(*tensors)
        torch.cuda.synchronize()
        assert torch.equal(found, expected)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = spectral_filter(*tensors)
    for _ in range(2):
        y.zero_()
        graph.replay()
        assert torch.equal(y, expected)


@runs_on_gpu
@pytest.mark.gpu
def test_what_it_does_not_take_is_an_error_where_it_was_asked_for():
    tensors = [t.cuda() for t in arguments(1, 8, 8, 1, 12, 1, torch.float16)]
    with (
        backends.use("cuda"),
        pytest.raises(RuntimeError, match="'cuda' was asked for, but it moves 16 bytes"),
    ):
        spectral_filter(*tensors)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(compute()))
