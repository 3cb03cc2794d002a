"""What runs on the tiles of AMX, with arrays for tiles (cpu/tiles.h), held to other instruction sets."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from wxkernels import _native, backends
from wxkernels.ops.linear_int8 import native as linear
from wxkernels.ops.mlp import native as mlp
from wxkernels.ops.mlp import reference as mlp_reference

ROOT = Path(__file__).parents[2]
FLAGS = (
    "-std=c++17 -O1 -shared -fPIC -Wall -Wextra -ffp-contract=off -DWX_X86 -DWX_ISA=amx -DWX_AMX"
    " -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16"
)
BLOCK = 64  # rows; a multiple of those of a tile

if _native.core is None or "avx512_bf16" not in _native.core.isas():
    pytest.skip("the code around the tiles is AVX-512 with BF16", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("there is no g++", allow_module_level=True)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiles") / "tiles.so"
    folders = ("tests/amx_on_cpu", "csrc", "csrc/include")
    include = [f"-I{ROOT / folder}" for folder in folders]
    source = str(ROOT / "tests" / "amx_on_cpu" / "library.cpp")
    run = subprocess.run(
        ["g++", *FLAGS.split(), *include, source, "-o", str(out)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return ctypes.CDLL(str(out))


def call(function, *values):
    """Tensors go by address, whole numbers as int64."""
    for value in values:
        assert not isinstance(value, torch.Tensor) or value.is_contiguous()
    function(
        *(
            None
            if value is None
            else ctypes.c_void_p(value.data_ptr())
            if isinstance(value, torch.Tensor)
            else ctypes.c_float(value)
            if isinstance(value, float)
            else ctypes.c_int64(value)
            for value in values
        )
    )


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed))


def int8(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(
    ("M", "K", "N"), [(1, 1, 1), (15, 16, 64), (17, 33, 70), (40, 768, 96), (65, 67, 161), (130, 3000, 48)]
)
def test_int8_layers_have_the_bits_of_avx512(tiles, M, K, N, gelu):
    x, weight, scale, x_scale, bias = int8(M, K), int8(N, K), normal(N).abs(), normal(M).abs(), normal(N)
    found = torch.empty(M, N)
    call(tiles.linear_int8_on_tiles, x, x_scale, M, K, weight, scale, bias, N, int(gelu), BLOCK, found)
    activation = "gelu" if gelu else "none"
    with backends.use_isa("avx512"):
        expected = linear.linear_int8(x, weight, scale, bias, x_scale, None, None, activation, torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("M", "C", "D"), [(1, 1, 1), (17, 33, 70), (40, 96, 384), (66, 130, 7), (5, 768, 3072)]
)
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.int8])
def test_an_mlp(tiles, M, C, D, precision):
    x, norm = normal(M, C), [1 + 0.1 * normal(C), normal(C, seed=1)]
    fc1, fc2, biases = normal(D, C) / C**0.5, normal(C, D) / D**0.5, [normal(D), normal(C, seed=2)]
    scales, hidden = [None, None], [None, 0]
    if precision == torch.int8:
        scales, hidden = [fc1.abs().amax(1) / 127, fc2.abs().amax(1) / 127], [torch.tensor(0.03), -90]
        fc1, fc2 = (fc1 / scales[0][:, None]).round(), (fc2 / scales[1][:, None]).round()
    fc1, fc2 = fc1.to(precision), fc2.to(precision)
    found = torch.empty(M, C)
    scale = 1.0 if hidden[0] is None else hidden[0].item()
    call(
        tiles.mlp_on_tiles, x, M, C, D, *norm, fc1, biases[0], scales[0], fc2, biases[1], scales[1],
        scale, hidden[1], BLOCK, found,
    )  # fmt: skip
    tensors = [x, *norm, fc1, biases[0], fc2, biases[1], *scales, *hidden, 1e-6, "gelu"]
    if precision == torch.int8:
        with backends.use_isa("avx512"):
            assert torch.equal(found, mlp.mlp(*tensors))
    else:
        exact = mlp_reference.mlp(*(t.double() if isinstance(t, torch.Tensor) else t for t in tensors))
        error = (found - exact).abs().max()
        assert error <= 2 * (mlp_reference.mlp(*tensors) - exact).abs().max() + 1e-6


@pytest.mark.parametrize(("modes", "inputs", "outputs"), [(1, 1, 1), (33, 17, 20), (90, 96, 96), (7, 20, 49)])
@pytest.mark.parametrize("last", [False, True])
def test_a_layer_of_the_block_mlp(tiles, modes, inputs, outputs, last):
    def complex_normal(*shape):
        """Of bfloat16 parts: the products have no error of their own then."""
        return torch.complex(*(normal(*shape, seed=seed).bfloat16().float() for seed in range(2)))

    x, w, bias = complex_normal(modes, inputs), complex_normal(inputs, outputs), complex_normal(outputs)
    found = [torch.empty(modes, outputs) for _ in range(2)]
    parts = [torch.stack([t.real, t.imag]) for t in (w, bias)]
    real, imaginary = x.real.contiguous(), x.imag.contiguous()
    sizes = modes, inputs, outputs
    call(tiles.block_layer_on_tiles, *sizes, real, imaginary, *parts, int(last), 0.5, *found)
    exact = x.to(torch.complex128) @ w.to(torch.complex128) + bias
    for part, value in zip(found, (exact.real, exact.imag), strict=True):
        if last:
            torch.testing.assert_close(
                part.double(), torch.nn.functional.softshrink(value, 0.5), rtol=1e-4, atol=1e-4
            )
        else:  # the next layer's input, in bfloat16
            torch.testing.assert_close(part.double(), value.relu(), rtol=2**-8, atol=1e-4)
