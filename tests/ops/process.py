"""Processes that compute what the tests of GPU kernels see: in Triton's interpreter, or on a GPU."""

import os
import warnings
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from importlib import import_module
from multiprocessing import get_context

#: By device, one for all modules: to import what they need takes seconds.
_processes: dict[str, ProcessPoolExecutor] = {}


@cache
def computing(device: str, module: str) -> Future[dict]:
    """What `compute` of a test module returns, in its turn."""
    if device not in _processes:
        _processes[device] = ProcessPoolExecutor(1, get_context("spawn"), _prepare, (device,))
    return _processes[device].submit(_compute, module)


def stop() -> None:
    """What has not begun is left."""
    for process in _processes.values():
        process.shutdown(cancel_futures=True)


def _prepare(device: str) -> None:
    """The interpreter has to be asked for before triton is imported."""
    interpret = "1" if device == "cpu" else "0"
    os.environ |= {"OMP_NUM_THREADS": "1", "WXKERNELS_TEST_DEVICE": device, "TRITON_INTERPRET": interpret}
    warnings.simplefilter("ignore", RuntimeWarning)


def _compute(module: str) -> dict:
    return import_module(module).compute()
