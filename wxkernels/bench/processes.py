"""Work in a fresh process, which owes nothing to what ran before and leaves nothing behind."""

import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def in_fresh_process(function: Callable[..., T], *args: Any) -> T:
    """What `function(*args)` returns in a new process with as many threads as this one.

    function: of a module, it is sent by name. The process ends with this one, and where this one is
    interrupted. BrokenExecutor: it was killed, by a system that is out of memory for instance.
    """
    context = get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    start = theirs, torch.get_num_threads()
    # `ours` is closed before the pool waits for its process, which that ends.
    with theirs, ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=start) as pool, ours:
        # Ctrl-C goes to all processes of a terminal; this one answers it.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future = pool.submit(_run, function, args)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
        return future.result()


def _begin(lifeline: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    """End this process when the other end is closed: on purpose, or because its process was killed."""
    lifeline.poll(None)
    os._exit(1)


def _run(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    try:
        return function(*args)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # it cannot be sent, and would pass for a process that was killed
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise
