"""What the suite measures and what it is held to: options, and a test for each variant of ours that runs."""

from pathlib import Path

import pytest
import torch

from wxkernels import ops  # noqa: F401 - registers the backends
from wxkernels.bench import selection
from wxkernels.bench.allocator import keep_freed_memory
from wxkernels.bench.cases import CASES
from wxkernels.bench.engine import dtype_name
from wxkernels.bench.machine import device_name
from wxkernels.bench.results import read


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="cpu or cuda[:i]")
    parser.addoption(
        "--shape", action="append", default=[], help="a model's name; the case's first by default"
    )
    stored = Path(__file__).parent / "results"
    parser.addoption("--results", type=Path, default=stored, help="a folder of a folder for each device")


def pytest_configure():
    keep_freed_memory()


def pytest_generate_tests(metafunc):
    if "backend" not in metafunc.fixturenames:
        return
    device = torch.device(metafunc.config.getoption("device"))
    found = [
        pytest.param(case, size, backend, id=f"{name}-{size.model}-{dtype_name(size.dtype)}-{backend}")
        for name, case in CASES.items()
        for size in selection.sizes(
            case, device, metafunc.config.getoption("shape"), dtypes=list(map(dtype_name, case.dtypes))
        )
        for backend, reason in case.ours(device).items()
        if reason is None
    ]
    metafunc.parametrize(("case", "size", "backend"), found)


@pytest.fixture(scope="session")
def stored(request):
    """The results of this device."""
    device = torch.device(request.config.getoption("device"))
    found = [read(path) for path in sorted(request.config.getoption("results").glob("*/*.json"))]
    return [results for results in found if results.conditions.get("device") == device_name(device)]
