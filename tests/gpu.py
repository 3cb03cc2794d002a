"""The mark of what runs on a GPU alone (ci/gpu.sh), and how it looks for waits and allocations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


def needs_gpu(test: Callable[..., Any]) -> Callable[..., Any]:
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
    return pytest.mark.gpu(missing(test))


@contextmanager
def no_waits() -> Iterator[None]:
    """PyTorch raises where the host waits for a stream in the block, which takes no memory of the device."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["num_device_alloc"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["num_device_alloc"] == before
