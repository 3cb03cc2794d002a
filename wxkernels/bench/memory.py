"""Peak memory of a call in a process of its own: resident, or allocated on a GPU."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wxkernels.bench.engine import Problem, Progress, Size, option
from wxkernels.bench.processes import in_fresh_process
from wxkernels.bench.results import Footprint
from wxkernels.errors import UserError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

#: Makes the call to be measured and tells the bytes of its parameters. A function of a module: it is
#: sent to the process by name.
Prepare = Callable[..., tuple[Callable[[], object], int]]


@dataclass(frozen=True)
class Bytes:
    """What a `Footprint` has of one process."""

    parameters: int
    start: int
    ready: int
    peak: int


def footprints(
    case: str,
    problem: Callable[[Size, Sequence[str]], Problem],
    size: Size,
    names: Sequence[str],
    progress: Progress,
) -> list[Footprint]:
    """One call of each variant; of an op the parameters are all that it is given."""
    made, found = problem(size, names), []
    for variant in made.variants:
        progress(f"a call of {variant.name} in a process of its own")
        taken = measure_bytes(size.device, _call, problem, size, variant.name)
        chosen = option(variant.name, variant.kind)
        found.append(footprint(case, made.op, size, made.shape, variant.name, chosen, taken))
    return found


def footprint(
    case: str,
    op: str,
    size: Size,
    shape: Sequence[int],
    backend: str,
    chosen: str,
    taken: Bytes,
    file: int | None = None,
) -> Footprint:
    """The row of what a process of `backend` took; `chosen` is the option of wxkernels-bench for it."""
    return Footprint(
        case=case,
        model=size.model,
        op=op,
        shape="x".join(map(str, shape)),
        batch=size.batch,
        backend=backend,
        kind="allocated" if size.device.type == "cuda" else "resident",
        file=file,
        parameters=taken.parameters,
        start=taken.start,
        ready=taken.ready,
        peak=taken.peak,
        command=f"wxkernels-bench memory {case} {size.options()} {chosen}",
    )


def measure_bytes(device: torch.device, prepare: Prepare, *args: Any) -> Bytes:
    """Run `prepare(*args)` and the call it makes in a fresh process.

    UserError on a CPU where the system has no account of a process's memory (/proc, Linux).
    """
    if device.type == "cpu" and not (_STATUS.exists() and os.access(_CLEAR, os.W_OK)):
        raise UserError("peak memory is read from /proc, which this system does not have; run on Linux")
    return in_fresh_process(_measure, device, prepare, args)


def _measure(device: torch.device, prepare: Prepare, args: tuple[Any, ...]) -> Bytes:
    account = _Allocated(device) if device.type == "cuda" else _Resident()
    start = account.now()
    call, parameters = prepare(*args)
    ready = account.now()
    account.restart()
    with torch.inference_mode():
        call()
    return Bytes(parameters, start, ready, account.peak())


def _call(problem: Callable[[Size, Sequence[str]], Problem], size: Size, name: str) -> Any:
    """A call that was made once: what it compiles is not in its peak."""
    made = problem(size, [name])
    [variant] = made.variants
    inputs = made.sample()
    call, own = variant.build(), variant.adapt(inputs)
    with torch.inference_mode():
        call(own)
    return lambda: call(own), sum(tensor.nbytes for tensor in own)


class _Resident:
    """What the system says of this process."""

    def now(self) -> int:
        return self._read("VmRSS")

    def restart(self) -> None:
        _CLEAR.write_text("5")  # the peak counts from here

    def peak(self) -> int:
        return self._read("VmHWM")

    def _read(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
        assert found is not None
        return int(found[1]) << 10


class _Allocated:
    """What PyTorch's allocator says of a GPU."""

    def __init__(self, device: torch.device):
        self.device = device

    def now(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)
