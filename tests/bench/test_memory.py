"""Peak memory: of a process of its own, of every case."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from wxkernels.bench import memory
from wxkernels.bench.cases import CASES
from wxkernels.bench.engine import Size
from wxkernels.errors import UserError

CPU = torch.device("cpu")
MEGABYTE = 1 << 20


def in_this(prepare, *args):
    return prepare, args, torch.get_num_threads()


def prepare(ready, step, before, parent, threads):
    """A call that holds `ready` MiB and takes `step` more while it runs; `before` MiB are given back."""
    assert os.getpid() != parent
    assert torch.get_num_threads() == threads
    torch.ones(before * MEGABYTE, dtype=torch.uint8)
    kept = torch.ones(ready * MEGABYTE, dtype=torch.uint8)
    return lambda: torch.ones(step * MEGABYTE, dtype=torch.uint8).max() + kept[0], kept.nbytes


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no account of memory in /proc")
def test_what_a_call_takes_is_seen_and_what_was_given_back_is_not():
    found = memory.in_fresh_process(CPU, prepare, 64, 128, 512, os.getpid(), torch.get_num_threads())
    assert found.parameters == 64 * MEGABYTE
    assert 60 * MEGABYTE <= found.ready - found.start <= 120 * MEGABYTE
    assert 120 * MEGABYTE <= found.peak - found.ready <= 200 * MEGABYTE


def prepare_for_ever(path):
    path.write_text(str(os.getpid()))
    time.sleep(300)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no account of memory in /proc")
def test_a_run_that_is_killed_leaves_no_process(tmp_path):
    path = tmp_path / "pid"
    code = (
        "import sys, torch; from pathlib import Path; from tests.bench import test_memory as t;"
        " t.memory.in_fresh_process(t.CPU, t.prepare_for_ever, Path(sys.argv[1]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, path], cwd=Path(__file__).parents[2])

    def wait_until(holds):
        end = time.monotonic() + 60
        while not holds() and time.monotonic() < end:
            time.sleep(0.05)
        assert holds()

    wait_until(lambda: path.exists() and path.read_text())
    parent.kill()
    parent.wait()
    child = Path("/proc", path.read_text())
    wait_until(lambda: not child.exists() or ") Z" in (child / "stat").read_text())


def test_a_call_of_an_op_is_measured_by_variant(monkeypatch):
    # In this process: that it is one of its own is tested above.
    monkeypatch.setattr(
        memory, "in_fresh_process", lambda device, *call: memory._measure(device, *in_this(*call))
    )
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
        memory.in_fresh_process(CPU, prepare)
