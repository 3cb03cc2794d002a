import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.ops.devices import DEVICES
from wxkernels import _native, backends


@pytest.fixture(params=_native.core.isas() if _native.core is not None else [])
def isa(request):
    """Every instruction set that this machine has, one after the other."""
    with backends.use_isa(request.param):
        yield request.param


@cache
def computed_on(device: str, path: Path) -> dict:
    """What a test file prints, in JSON, as a script: in Triton's interpreter, or on a GPU.

    The interpreter has to be asked for before triton is imported, so it gets a process of its own.
    """
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(root),
        "WXKERNELS_TEST_DEVICE": device,
    }
    environment["TRITON_INTERPRET"] = "1" if device == "cpu" else "0"
    command = [sys.executable, "-W", "ignore::RuntimeWarning", str(path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(params=DEVICES)
def computed(request):
    """Of the test file, on every device."""
    if request.param == "cpu" and "bfloat16" in request.node.name:
        pytest.skip("Triton's interpreter gets bfloat16 wrong")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return computed_on(request.param, request.path)


@pytest.fixture
def interpreted(request):
    """Of the test file, in the interpreter alone."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return computed_on("cpu", request.path)
