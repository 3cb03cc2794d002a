"""Large results use their memory again, and only when no view of it is left."""

import gc
from pathlib import Path

import pytest
import torch

from wxkernels import _memory

VALUES = _memory.LARGE // 4


@pytest.fixture(autouse=True)
def _no_idle_buffers(monkeypatch):
    monkeypatch.setattr(_memory, "_idle", [])


def test_memory_is_used_again_once_the_last_view_is_gone():
    first = _memory.empty(4, VALUES, dtype=torch.float32)
    view, address = first[1, :10].fill_(3), first.data_ptr()
    del first
    gc.collect()
    second = _memory.empty(4, VALUES, dtype=torch.float32).fill_(5)
    assert second.data_ptr() != address
    assert (view == 3).all()
    del view
    gc.collect()
    assert _memory.empty(4, VALUES, dtype=torch.float32).data_ptr() == address


def test_a_result_never_gets_less_than_it_needs_nor_far_more():
    small = _memory.empty(VALUES, dtype=torch.float32)
    del small
    gc.collect()
    large = _memory.empty(3, VALUES, dtype=torch.float32)
    assert large.shape == (3, VALUES)
    assert large.is_contiguous()
    del large
    gc.collect()
    assert len(_memory._idle) == 2
    assert _memory.empty(VALUES, dtype=torch.float32).untyped_storage().nbytes() < 2 * 4 * VALUES


def test_few_buffers_wait():
    tensors = [_memory.empty(VALUES, dtype=torch.float32) for _ in range(2 * _memory._MOST)]
    del tensors
    gc.collect()
    assert len(_memory._idle) == _memory._MOST


def test_small_tensors_are_left_to_the_c_library():
    x = _memory.empty(7, 5, dtype=torch.bfloat16)
    assert x.shape == (7, 5)
    assert x.dtype == torch.bfloat16
    del x
    gc.collect()
    assert not _memory._idle


def test_memory_is_private_so_that_it_may_have_huge_pages():
    address = _memory.empty(VALUES, dtype=torch.float32).data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < stop:
            assert line.split()[1] == "rw-p"
            return
    pytest.fail("the address is in no mapping")
