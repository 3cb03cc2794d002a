"""Work in a fresh process: its result or its error comes back, and it does not outlive this one."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from wxkernels.bench.processes import in_fresh_process

ROOT = Path(__file__).parents[2]


class Unsendable(Exception):
    """As some of torch.compile's: pickled without what its constructor needs."""

    def __init__(self, compiler, why):
        super().__init__(why)


def work(what):
    if what == "fails":
        raise Unsendable("a compiler", "out of luck")
    if what == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), torch.get_num_threads(), what


def wait(path):
    path.write_text(str(os.getpid()))
    time.sleep(300)


def test_a_result_comes_from_a_process_with_as_many_threads():
    torch.set_num_threads(2)
    pid, threads, what = in_fresh_process(work, "done")
    assert pid != os.getpid()
    assert (threads, what) == (2, "done")


def test_an_error_that_cannot_be_sent_is_told_and_one_that_was_killed_is_another():
    with pytest.raises(RuntimeError, match="Unsendable: out of luck") as caught:
        in_fresh_process(work, "fails")
    assert not isinstance(caught.value, BrokenExecutor)
    with pytest.raises(BrokenExecutor):
        in_fresh_process(work, "is killed")


def wait_until(holds):
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    assert holds()


def in_session(number):
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            found += [stat.parent.name] if int(session) == number and state != "Z" else []
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_no_process_is_left_by_one_that_is(tmp_path, how):
    path = tmp_path / "pid"
    code = (
        "import sys; from pathlib import Path; from tests.bench import test_processes as t;"
        " t.in_fresh_process(t.wait, Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, path]
    parent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: path.exists() and path.read_text())
    if how == "killed":
        parent.kill()
    else:
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    told = parent.communicate(timeout=60)[1]
    assert told.count("Traceback") == (how == "interrupted"), told
    wait_until(lambda: not in_session(parent.pid))
