"""What a person at the terminal sees of a run, and how he stops it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g} member-steps/s")


@contextmanager
def progress_bar(done: int, total: int, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of member-steps on stderr with their speed and the time left; silent where that is no terminal.

    Yields the function to be told how many are done and, since members may stop, how many there are in all.
    """
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda done, total: None
        return
    columns = (TextColumn("forecast"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    # The speed is that of the last minutes: a step of a large network alone can take one.
    with Progress(*columns, console=console, speed_estimate_period=300) as bar:
        task = bar.add_task("forecast", total=total, completed=done)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a termination signal sets; a second signal acts as it would without this block.

    Only the main thread can receive signals: elsewhere the event stays clear.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        restore()

    for number in former:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()
