"""What goes on beside a step: results on their way to the host, scores, the clock. A CPU does it at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor


def runs_ahead(device: torch.device) -> bool:
    """Whether a call on `device` returns before its work is done."""
    return device.type == "cuda"


class Beside:
    """Work on a finished batch that is done while the next one runs: on a GPU once that is under way.

    What it launches goes to a stream of its own. There is one such piece of work at a time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._work: Callable[[], None] | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def put(self, work: Callable[[], None]) -> None:
        """Have `work` done on what the device was given to do up to now."""
        assert self._work is None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._work = work
        if not runs_ahead(self._device):
            self.run()

    def run(self) -> None:
        """Do what waits; what the device is given from here on may overwrite what that reads."""
        if self._work is None:
            return
        work, self._work = self._work, None
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            work()
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def to_host(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each tensor on the host, valid until the next is asked for; from a GPU one is copied ahead.

    Waits for the current stream alone.
    """
    ahead: tuple[Tensor, torch.cuda.Event] | None = None
    for tensor in tensors:
        if not tensor.is_cuda:
            yield tensor
            continue
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        event = torch.cuda.current_stream(tensor.device).record_event()
        if ahead is not None:
            ahead[1].synchronize()
            yield ahead[0]
        ahead = host, event
    if ahead is not None:
        ahead[1].synchronize()
        yield ahead[0]


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """`values` on `device`; the host goes on while a GPU takes them."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class Stopwatch:
    """The time that a device takes for blocks of code: on a GPU by events, so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._device.type != "cuda":
            began = time.monotonic()
            yield
            self._seconds += time.monotonic() - began
            return
        while self._events and self._events[0][1].query():
            self._add(*self._events.popleft())
        stream = torch.cuda.current_stream(self._device)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        yield
        stop.record(stream)
        self._events.append((start, stop))

    @property
    def seconds(self) -> float:
        """Up to now; waits for the device."""
        while self._events:
            self._events[0][1].synchronize()
            self._add(*self._events.popleft())
        return self._seconds

    def _add(self, start: torch.cuda.Event, stop: torch.cuda.Event) -> None:
        self._seconds += start.elapsed_time(stop) / 1e3
