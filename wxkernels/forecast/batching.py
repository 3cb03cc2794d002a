"""How many members a step takes at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MARGIN = 0.8  # of the free memory; the rest is for the fragments between blocks and for others on the machine
# On a CPU a batch gains little: a small AFNONet at 64 x 128 took 20.8, 21.3, 20.3 and 19.7 ms of one core a
# member-step in batches of 1, 2, 4 and 8. A few members keep more threads than one busy.
HIGHEST = {"cpu": 4}


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken on `device`; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch's allocator holds without using it is ours too.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    group = Path("/sys/fs/cgroup")  # a container's own limit, where there is one
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return free
    return min(free, max(0, limit - used))


class Peak:
    """Bytes that a block of code took at its highest; None until it ends, or where that is not known."""

    value: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the highest memory that the block takes on `device` above what was taken before it."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.value = torch.cuda.max_memory_allocated(device) - before
        return
    try:
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # Linux: the high-water mark falls to what is resident now
        before = _highest_resident()
    except OSError:
        yield peak
        return
    yield peak
    peak.value = _highest_resident() - before


def fitting(peak: int | None, free: int | None, members: int, device: torch.device) -> int:
    """Members a batch: what MARGIN of the free bytes holds at `peak` each; 1 where either is not known."""
    if peak is None or free is None:
        return 1
    fit = int(MARGIN * free) // max(peak, 1)
    return max(1, min(fit, members, HIGHEST.get(device.type, members)))


def _highest_resident() -> int:
    """Bytes of this process that were in memory at once, since its start or the last reset."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["VmHWM"].split()[0]) * 1024
