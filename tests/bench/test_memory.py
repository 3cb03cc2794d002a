"""Peak memory in a process of its own."""

import os

import pytest
import torch

from wxkernels.bench import memory
from wxkernels.errors import UserError

MEGABYTE = 1 << 20


def prepare(ready, step, before, parent, threads):
    """A call that holds `ready` MiB and takes `step` more while it runs; `before` MiB are given back."""
    assert os.getpid() != parent
    assert torch.get_num_threads() == threads
    torch.ones(before * MEGABYTE, dtype=torch.uint8)
    kept = torch.ones(ready * MEGABYTE, dtype=torch.uint8)
    return lambda: torch.ones(step * MEGABYTE, dtype=torch.uint8).max() + kept[0], kept.nbytes


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no account of memory in /proc")
def test_what_a_call_takes_is_seen_and_what_was_given_back_is_not():
    found = memory.in_fresh_process(prepare, 64, 128, 512, os.getpid(), torch.get_num_threads())
    assert found.parameters == 64 * MEGABYTE
    assert 60 * MEGABYTE <= found.ready - found.start <= 120 * MEGABYTE
    assert 120 * MEGABYTE <= found.peak - found.ready <= 200 * MEGABYTE


def test_a_system_without_proc_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    with pytest.raises(UserError, match="read from /proc, which this system does not have"):
        memory.in_fresh_process(prepare)
