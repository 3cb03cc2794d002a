import importlib.util

import pytest

from tests.ops.devices import DEVICES
from tests.ops.process import computed_on
from wxkernels import _native, backends


@pytest.fixture(params=_native.core.isas() if _native.core is not None else [])
def isa(request):
    """Every instruction set that this machine has, one after the other."""
    with backends.use_isa(request.param):
        yield request.param


@pytest.fixture(params=[pytest.param(d, marks=pytest.mark.gpu) if d == "cuda" else d for d in DEVICES])
def computed(request):
    """Of the test file, on every device."""
    if request.param == "cpu" and "bfloat16" in request.node.name:
        pytest.skip("Triton's interpreter gets bfloat16 wrong")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return computed_on(request.param, request.module.__name__)


@pytest.fixture
def interpreted(request):
    """Of the test file, in the interpreter alone."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return computed_on("cpu", request.module.__name__)
