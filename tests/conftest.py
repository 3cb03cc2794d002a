import pytest
import torch

from tests.tape import Tape
from wxkernels import capture


def pytest_configure():
    """Networks this small gain nothing from a second thread, and wait for it where the cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_num_threads(1)


@pytest.fixture
def tapes(monkeypatch):
    """CUDA graphs are captured on the CPU, by a stand-in; gives those that are made."""
    monkeypatch.setattr(capture, "DEVICES", ("cpu",))
    monkeypatch.setattr(capture, "Graph", Tape)
    monkeypatch.setattr(Tape, "made", [])
    return Tape.made


@pytest.fixture
def default_allocator(monkeypatch):
    """wxkernels-bench in this process leaves its allocator to the tests that come after."""
    monkeypatch.setattr("wxkernels.cli.bench.keep_freed_memory", lambda: "the test's")
