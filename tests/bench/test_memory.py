"""Peak memory: of a process of its own, of every case."""

import os

import pytest
import torch

from wxkernels.bench import memory
from wxkernels.bench.cases import CASES
from wxkernels.bench.engine import Size
from wxkernels.errors import UserError

CPU = torch.device("cpu")
MEGABYTE = 1 << 20


def prepare(ready, step, before):
    """A call that holds `ready` MiB and takes `step` more while it runs; `before` MiB are given back."""
    torch.ones(before * MEGABYTE, dtype=torch.uint8)
    kept = torch.ones(ready * MEGABYTE, dtype=torch.uint8)
    return lambda: torch.ones(step * MEGABYTE, dtype=torch.uint8).max() + kept[0], kept.nbytes


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no account of memory in /proc")
def test_what_a_call_takes_is_seen_and_what_was_given_back_is_not():
    found = memory.measure_bytes(CPU, prepare, 64, 128, 512)
    assert found.parameters == 64 * MEGABYTE
    assert 60 * MEGABYTE <= found.ready - found.start <= 120 * MEGABYTE
    assert 120 * MEGABYTE <= found.peak - found.ready <= 200 * MEGABYTE


def test_a_call_of_an_op_is_measured_by_variant(monkeypatch):
    # In this process: that it is one of its own is tested above.
    monkeypatch.setattr(memory, "in_fresh_process", lambda function, *args: function(*args))
    case, size = CASES["mlp"], Size(1, (2048, 64, 256), torch.float32, CPU)
    rows = memory.footprints("mlp", case.problem, size, ["eager", "native-int8"], lambda text: None)
    assert [(row.backend, row.kind, row.shape) for row in rows] == [
        (name, "resident", "2048x64x256") for name in ("eager", "native-int8")
    ]
    weights, others = 2 * 64 * 256, 4 * (2048 * 64 + 3 * 64 + 256)
    scales = 4 * (256 + 64)
    assert [row.parameters for row in rows] == [4 * weights + others, weights + scales + others]
    assert all(row.peak >= row.ready >= row.start > 0 for row in rows)
    assert rows[1].command.endswith(" --backend native-int8")


def test_a_system_without_proc_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    with pytest.raises(UserError, match="read from /proc, which this system does not have"):
        memory.measure_bytes(CPU, prepare)
