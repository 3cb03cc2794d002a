"""A run in a process of its own, to be killed."""

import math
import os
import signal
import sys
import threading
from pathlib import Path

import torch

from tests.forecast import tiny
from wxkernels.forecast import Spherical, restart, run
from wxkernels.io import store

STEPS, MEMBERS = 16, 3


def forecast(path: Path, resume: bool, moment: str | None = None, count: int = 1, seen=None) -> None:
    """Run or resume into `path`; die by SIGKILL the `count`-th time that the `moment` comes.

    seen: a number of multiprocessing, how often it came in a run that ended.
    """
    torch.set_num_threads(1)
    restart.SHARE = math.inf  # a file a step, whatever time they take
    killer = _Killer(count)
    if moment is not None:
        MOMENTS[moment](killer)
    run(
        tiny.model(),
        tiny.initial(),
        steps=STEPS,
        members=MEMBERS,
        perturbation=Spherical(0.01, 2000),
        batch_size=2,
        writer=tiny.writer(path, steps=STEPS, members=MEMBERS, resume=resume),
        resume=resume,
        progress=False,
    )
    if seen is not None:
        seen.value = count - killer.count


class _Killer:
    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> None:
        self.count -= 1
        if self.count <= 0:  # threads may count at once
            os.kill(os.getpid(), signal.SIGKILL)


def _a_call(kill: _Killer) -> None:
    """Of any function, Python's or C's, in any thread."""

    def profile(frame, event, argument):
        if event in ("call", "c_call"):
            kill()

    threading.setprofile(profile)
    sys.setprofile(profile)


def _half_a_restart_file(kill: _Killer) -> None:
    whole = restart.save_file

    def save(tensors, path, metadata):
        whole(tensors, path, metadata)
        os.truncate(path, path.stat().st_size // 2)
        kill()
        whole(tensors, path, metadata)

    restart.save_file = save


def _restart_file_not_in_place(kill: _Killer) -> None:
    replace = os.replace

    def later(source, target):
        if str(target).endswith(".restart"):
            kill()
        replace(source, target)

    os.replace = later


def _restart_file_in_place(kill: _Killer) -> None:
    sync = restart._sync

    def later(path):
        sync(path)
        if path.is_dir():
            kill()

    restart._sync = later


def _chunk_not_in_place(kill: _Killer) -> None:
    replace = Path.replace

    def later(self, target):
        if "/c/" in str(target):
            kill()
        return replace(self, target)

    Path.replace = later


def _store_not_marked(kill: _Killer) -> None:
    finish = store.finish

    def later(path, notes):
        kill()
        finish(path, notes)

    store.finish = later


def _restart_file_not_removed(kill: _Killer) -> None:
    remove = restart.RestartFile.remove

    def later(self):
        kill()
        remove(self)

    restart.RestartFile.remove = later


MOMENTS = {
    "a call": _a_call,
    "half a restart file": _half_a_restart_file,
    "restart file not in place": _restart_file_not_in_place,
    "restart file in place": _restart_file_in_place,
    "chunk not in place": _chunk_not_in_place,
    "store not marked": _store_not_marked,
    "restart file not removed": _restart_file_not_removed,
}
