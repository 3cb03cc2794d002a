"""Peak memory of a call in a process of its own: what the system says is resident, at most."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from wxkernels.errors import UserError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Resident:
    """Bytes: of a network's tensors; of a process with PyTorch loaded, with the network ready, in a step."""

    parameters: int
    start: int
    ready: int
    peak: int


@dataclass(frozen=True)
class Footprint:
    """The memory of one variant; `file` is the size of the checkpoint that it was read from."""

    op: str
    shape: str
    backend: str
    file: int | None
    resident: Resident
    command: str

    def as_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        return fields | fields.pop("resident")


#: Makes the call to be measured and tells the bytes of its parameters. A function of a module: it is
#: sent to the process by name.
Prepare = Callable[..., tuple[Callable[[], object], int]]


def in_fresh_process(prepare: Prepare, *args: Any) -> Resident:
    """Run `prepare(*args)` and the call it makes in a new process with as many threads as this one.

    UserError where the system has no account of a process's memory (/proc, Linux).
    """
    if not _STATUS.exists() or not os.access(_CLEAR, os.W_OK):
        raise UserError("peak memory is read from /proc, which this system does not have; run on Linux")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, prepare, args, torch.get_num_threads()).result()


def _measure(prepare: Prepare, args: tuple[Any, ...], threads: int) -> Resident:
    torch.set_num_threads(threads)
    start = _resident("VmRSS")
    call, parameters = prepare(*args)
    ready = _resident("VmRSS")
    _CLEAR.write_text("5")  # the peak counts from here
    with torch.inference_mode():
        call()
    return Resident(parameters, start, ready, _resident("VmHWM"))


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1]) << 10
