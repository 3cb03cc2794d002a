import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wxkernels import _native, backends


@pytest.fixture(params=_native.core.isas() if _native.core is not None else [])
def isa(request):
    """Every instruction set that this machine has, one after the other."""
    with backends.use_isa(request.param):
        yield request.param


@pytest.fixture(scope="module")
def interpreted(request):
    """What the test file prints, in JSON, as a script in Triton's interpreter.

    That has to be asked for before triton is imported, so it gets a process of its own.
    """
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    root = Path(__file__).parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore::RuntimeWarning", str(request.path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
