"""The CUDA backend. What needs no GPU is tested on every build that has the kernels, the rest on a GPU."""

import itertools

import pytest
import torch

from wxkernels import _native, backends
from wxkernels.ops import linear_int8
from wxkernels.ops.linear_int8 import cuda as backend
from wxkernels.ops.linear_int8 import reference

info = _native.core.build_info() if _native.core is not None else {"cuda": None}
needs_kernels = pytest.mark.skipif(info["cuda"] is None, reason=str(backend.unavailable()))


def needs_gpu(test):
    skips = pytest.mark.skipif(backend.unavailable() is not None, reason=str(backend.unavailable()))
    return pytest.mark.gpu(skips(test))


SHAPES = [  # M, K, N: what is special
    (1, 16, 8),
    (15, 48, 24),
    (129, 64, 136),  # a row and an octet more than a tile
    (300, 80, 248),  # K of a tile and a quarter
    (257, 768, 768),
    (64, 3072, 384),
    (1000, 17, 16),  # K that has to be padded
    (5, 131072, 8),  # the longest sums
]
EPILOGUES = list(
    itertools.product(
        ("none", "gelu", "gelu_tanh"),
        (torch.float32, torch.bfloat16, torch.float16, torch.int8),
        (None, torch.float32, torch.bfloat16, torch.float16),
    )
)


def arguments(M, K, N, device="cpu"):
    """x int8, weight int8, weight_scale, bias, x_scale; sums are about 1."""
    generator = torch.Generator().manual_seed(M + K + N)

    def int8(*shape):
        return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

    def scale(*shape):
        return (0.5 + torch.rand(*shape, generator=generator)) / (73 * K**0.25)

    tensors = int8(M, K), int8(N, K), scale(N), torch.randn(N, generator=generator), scale(M)
    return [t.to(device) for t in tensors]


def test_says_why_it_does_not_run():
    if info["cuda"] is None:
        assert "built without CUDA kernels" in backend.unavailable() or _native.core is None
    elif not torch.cuda.is_available():
        assert backend.unavailable() == "torch finds no CUDA device"
    x, weight, weight_scale, bias, x_scale = arguments(3, 16, 16)
    call = (x, weight, weight_scale, bias, x_scale, None, None)
    assert backend.unsupported(*call) == "x is on cpu; it needs a CUDA device"
    assert "N is 12" in backend.unsupported(x, weight[:12], *call[2:])
    assert "residual is torch.float64" in backend.unsupported(
        *call[:5], torch.zeros(3, 16, dtype=torch.float64), None
    )


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": 0}, "1 to 2^31 - 257 rows"),
        ({"K": 24}, "inputs a multiple of 16"),
        ({"N": 12}, "outputs a multiple of 8"),
        ({"x": 8}, "x with rows aligned to 16 bytes"),
        ({"row_stride": 16}, "x with rows aligned to 16 bytes"),
        ({"weight": 8}, "a weight aligned"),
        ({"bias": 4}, "weight_scale and bias aligned"),
        ({"x_scale_stride": 2}, "x_scale with stride 0 or 1"),
        ({"residual": 16, "residual_dtype": "bfloat16", "residual_stride": 20}, "a floating residual"),
        ({"residual": 16, "residual_dtype": "int8"}, "a floating residual"),
        ({"out": 8}, "an out aligned"),
        ({"out_scale": 16}, "out_scale for an int8 out only"),
    ],
)
def test_the_compiled_part_refuses_what_it_would_read_wrongly(change, message):
    names = ("x", "x_scale", "weight", "weight_scale", "bias", "out")
    call = dict.fromkeys(names, 16) | {"M": 3, "N": 16, "K": 32, "row_stride": 32, "x_scale_stride": 1}
    call |= {"activation": "none", "residual": 0, "residual_dtype": "float32", "residual_stride": 16}
    call |= {"out_dtype": "float32", "out_scale": 0, "device": 0, "stream": 0}
    with pytest.raises(ValueError, match="linear_int8 on CUDA: expected") as caught:
        _native.core.linear_int8_cuda(**(call | change))
    assert message in str(caught.value)


@needs_kernels
def test_without_a_driver_the_module_loads_and_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    assert "driver" in _native.core.linear_int8_cuda_refusal(0)


@needs_gpu
@pytest.mark.parametrize(("M", "K", "N"), SHAPES)
def test_integers_are_exact(M, K, N):
    x, weight, *_ = arguments(M, K, N)
    if K == 131072:
        x, weight = torch.full_like(x, 127), torch.full_like(weight, 127)
    exact = (x.double() @ weight.double().T).float()
    for x_scale in (torch.ones(M, device="cuda"), torch.tensor(1.0, device="cuda")):
        with backends.use("cuda"):
            found = linear_int8(x.cuda(), weight.cuda(), torch.ones(N, device="cuda"), x_scale=x_scale)
        assert torch.equal(found.cpu(), exact)


@needs_gpu
@pytest.mark.parametrize(("activation", "out_dtype", "residual_dtype"), EPILOGUES)
def test_epilogues(activation, out_dtype, residual_dtype):
    M, N = 131, 264
    x, weight, weight_scale, bias, x_scale = arguments(M, 96, N, "cuda")
    residual = None if residual_dtype is None else torch.randn(M, N, device="cuda").to(residual_dtype)
    out_scale = torch.tensor([0.02], device="cuda") if out_dtype == torch.int8 else None
    x_scale[7] = torch.nan
    for given in (bias, None):
        call = (x, weight, weight_scale, given, x_scale, residual)
        found = backend.linear_int8(*call, out_scale, activation, out_dtype)
        exact = reference.linear_int8(*call, None, activation, torch.float64)
        assert found.dtype == out_dtype
        if out_dtype == torch.int8:
            steps = (exact / out_scale).nan_to_num(0).clamp(-127, 127)
            assert (found - steps).abs().max() <= 0.5001
        else:
            plain = reference.linear_int8(*call, None, activation, out_dtype)
            assert torch.equal(found.isnan(), exact.isnan())
            errors = [(y.double() - exact).nan_to_num(0).abs().max().item() for y in (found, plain)]
            assert errors[0] <= 2 * errors[1]


@needs_gpu
def test_a_row_depends_on_no_other():
    x, *rest, x_scale = arguments(500, 768, 256, "cuda")

    def run(rows):
        return backend.linear_int8(x[rows], *rest, x_scale[rows], None, None, "gelu", torch.float32)

    whole = run(slice(None))
    for rows in (slice(0, 1), slice(100, 117), slice(499, 500), slice(3, 400)):
        assert torch.equal(run(rows), whole[rows])
    assert torch.equal(run(slice(None)), whole)


@needs_gpu
def test_strides_and_alignment():
    x, weight, *rest = arguments(40, 64, 32, "cuda")
    residual = torch.randn(40, 32, device="cuda")

    def run(x, weight, residual):
        return backend.linear_int8(x, weight, *rest, residual, None, "none", torch.float32)

    def window(t, before, after):
        wide = torch.full((len(t), before + t.shape[1] + after), 99, dtype=t.dtype, device="cuda")
        wide[:, before:-after] = t
        return wide[:, before:-after]

    expected = run(x, weight, residual)
    for before, after in ((16, 16), (1, 2), (0, 5)):
        views = (window(t, before, after) for t in (x, weight, residual))
        assert torch.equal(run(*views), expected)
    assert torch.equal(run(x.T.contiguous().T, weight.T.contiguous().T, residual.T.contiguous().T), expected)
    same = run(x[:1].expand(40, 64), weight, residual[:1].expand(40, 32))
    assert same.shape == (40, 32)
    assert run(x[:0].view(0, 64), weight, residual[:0]).shape == (0, 32)


@needs_gpu
def test_streams_and_graphs():
    x, *rest, x_scale = arguments(200, 768, 768, "cuda")
    call = (x, *rest, x_scale, None, None, "gelu", torch.float32)
    expected = backend.linear_int8(*call)
    with torch.cuda.stream(torch.cuda.Stream()):
        found = backend.linear_int8(*call)
    torch.cuda.synchronize()
    assert torch.equal(found, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = backend.linear_int8(*call)
    for _ in range(2):
        y.zero_()
        graph.replay()
        assert torch.equal(y, expected)


@needs_gpu
def test_floating_rows_and_other_backends():
    _, weight, weight_scale, bias, _ = arguments(1, 96, 40, "cuda")
    x = torch.randn(2, 9, 96, device="cuda")
    with backends.use("reference"):
        expected = linear_int8(x, weight, weight_scale, bias)
    with backends.use("cuda"):
        torch.testing.assert_close(linear_int8(x, weight, weight_scale, bias), expected)
        with pytest.raises(RuntimeError, match="'cuda' was asked for, but it writes 8 columns at once"):
            linear_int8(x, weight[:35], weight_scale[:35], bias[:35])
