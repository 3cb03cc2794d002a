"""Processes that compute what the tests of GPU kernels see: in Triton's interpreter, or on a GPU."""

import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import import_module
from multiprocessing import get_context


@cache
def computed_on(device: str, module: str) -> dict:
    """What `compute` of a test module returns."""
    return _process(device).submit(_compute, module).result()


@cache
def _process(device: str) -> ProcessPoolExecutor:
    """One for all modules: to import what they need takes seconds."""
    return ProcessPoolExecutor(1, get_context("spawn"), _prepare, (device,))


def _prepare(device: str) -> None:
    """The interpreter has to be asked for before triton is imported."""
    interpret = "1" if device == "cpu" else "0"
    os.environ |= {"OMP_NUM_THREADS": "1", "WXKERNELS_TEST_DEVICE": device, "TRITON_INTERPRET": interpret}
    warnings.simplefilter("ignore", RuntimeWarning)


def _compute(module: str) -> dict:
    return import_module(module).compute()
