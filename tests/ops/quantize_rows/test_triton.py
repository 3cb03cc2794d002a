"""The Triton backend, interpreted and on a GPU: `compute` runs there, in a process of its own."""

import pytest
import torch

from tests.ops.devices import DTYPES, QUANTISED, on_device
from tests.ops.interpreter import mend_e4m3
from wxkernels import backends
from wxkernels.ops import quantize_rows
from wxkernels.ops.quantize_rows import reference
from wxkernels.ops.quantize_rows import triton as backend

SHAPES = [(0, 8), (1, 1), (3, 5), (9, 96), (5, 100), (41, 128), (7, 768), (2, 4097), (1, 8192), (2, 3, 17)]


def rows(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def special() -> dict[str, torch.Tensor]:
    """Rows of 37 numbers, each a trap."""
    x = {name: rows(4, 37) for name in ("zeros", "nan", "infinity", "ties", "huge", "tiny", "outlier")}
    x["zeros"][1] = 0
    x["nan"][1, 36] = torch.nan
    x["infinity"][1, 0] = -torch.inf
    x["ties"][1] = torch.arange(37) - 18.5
    x["ties"][1, 0] = 127
    x["huge"][1] *= 1e38
    x["tiny"][1] *= 1e-38
    x["tiny"][2] *= 1e-45
    x["outlier"][1, 5] = 1e6
    return x


def compute() -> dict:
    mend_e4m3()

    @on_device
    def triton(x, dtype):
        with backends.use("triton"):
            return quantize_rows(x, dtype)

    def same(x, dtype=torch.int8):
        found = triton(x, dtype)
        expected = reference.quantized_rows(x, dtype)
        return all(
            a.dtype == b.dtype
            and a.is_contiguous()
            and torch.equal(a.float().nan_to_num(-1), b.float().nan_to_num(-1))
            for a, b in zip(found, expected, strict=True)
        )

    results = {f"{d} {s}": same(rows(*s, dtype=getattr(torch, d))) for d in DTYPES for s in SHAPES}
    for kind, dtype in QUANTISED.items():
        results |= {f"{name} to {kind}": same(x, dtype) for name, x in special().items()}
    whole = torch.full((9, 90), torch.nan)
    whole[2:8:2, 20:68] = rows(3, 48)
    results["window"] = same(whole[2:8:2, 20:68])
    results["transposed"] = same(rows(48, 6).T)
    results["bfloat16"] = backend.unsupported(rows(2, 8).bfloat16())
    return results


@pytest.mark.parametrize("case", [f"{dtype} {shape}" for dtype in DTYPES for shape in SHAPES])
def test_equals_the_reference_bit_by_bit(computed, case):
    assert computed[case]


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("case", special())
def test_special_rows(computed, case, kind):
    assert computed[f"{case} to {kind}"]


@pytest.mark.parametrize("layout", ["window", "transposed"])
def test_strides(computed, layout):
    assert computed[layout]


def test_interpreter_refuses_bfloat16(interpreted):
    assert "bfloat16" in interpreted["bfloat16"]


def test_says_what_it_does_not_take():
    assert "float64" in backend.unsupported(rows(2, 8, dtype=torch.float64))
    assert "1 rows of 8193; it takes 1073741824 of 8192" in backend.unsupported(rows(1, 8193))
    assert "2147483648 rows of 1" in backend.unsupported(torch.zeros(1, 1).expand(2**31, 1))
    assert "CUDA or ROCm" in backend.unsupported(rows(2, 8))
