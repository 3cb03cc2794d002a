import importlib.util

import pytest
import torch

from tests.ops.devices import DEVICES
from tests.ops.process import computing, stop
from wxkernels import _native, backends
from wxkernels.ops.mlp import native as mlp


def pytest_collection_finish(session):
    """The interpreter works beside the tests that come before its own."""
    shared = hasattr(session.config, "workerinput")  # by xdist: the modules of this worker are not known
    if shared or session.config.option.collectonly or importlib.util.find_spec("triton") is None:
        return
    for item in session.items:
        of_triton = item.path.name == "test_triton.py" and "computed" in item.fixturenames
        if of_triton and not item.get_closest_marker("gpu"):
            computing("cpu", item.module.__name__)


def pytest_sessionfinish():
    stop()


@pytest.fixture(params=_native.core.isas() if _native.core is not None else [])
def isa(request):
    """Every instruction set that this machine has, one after the other; NaNs lie where the kernels work."""
    with backends.use_isa(request.param):
        leave_nans()
        yield request.param


def leave_nans(M=80, C=64, D=256):
    """Fill the kernels' work space, which the next call gets as it is."""
    norm, bias, hidden_bias, wide, narrow, x = (
        torch.full(size, float("nan")) for size in ((C,), (C,), (D,), (D, C), (C, D), (M, C))
    )
    mlp.mlp(x, norm, norm, wide, hidden_bias, narrow, bias, None, None, None, 0, 1e-6, "gelu")


@pytest.fixture(params=[pytest.param(d, marks=pytest.mark.gpu) if d == "cuda" else d for d in DEVICES])
def computed(request):
    """Of the test file, on every device."""
    if request.param == "cpu" and "bfloat16" in request.node.name:
        pytest.skip("Triton's interpreter gets bfloat16 wrong")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return computing(request.param, request.module.__name__).result()


@pytest.fixture
def interpreted(request):
    """Of the test file, in the interpreter alone."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return computing("cpu", request.module.__name__).result()
