"""The order of streams and events on a GPU, by a stand-in for them; what runs on one: test_gpu.py."""

from contextlib import contextmanager

import pytest
import torch

from wxkernels.forecast.beside import Beside, Stopwatch, to_host

CUDA = torch.device("cuda")


@pytest.fixture
def log(monkeypatch):
    """What streams do, in order, and the current stream as the last of a list."""
    lines = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            lines.append(f"{self.name} waits for {other.name}")

    class Event:
        clock = 0.0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            Event.clock += 1000.0
            self.time = Event.clock
            lines.append("event")

        def query(self):
            return True

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return other.time - self.time

    current = [Stream("main")]

    @contextmanager
    def stream(chosen):
        current.append(chosen)
        try:
            yield
        finally:
            current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", stream)
    return lines, current


def test_work_waits_for_what_came_before_it_and_main_for_the_work(log):
    lines, current = log
    beside = Beside(CUDA)
    beside.put(lambda: lines.append(f"work on {current[-1].name}"))
    assert lines == ["side waits for main"]
    lines.append("next batch")
    beside.run()
    beside.run()
    assert lines == ["side waits for main", "next batch", "work on side", "main waits for side"]


def test_work_that_fails_is_not_done_again(log):
    _, current = log
    beside = Beside(CUDA)

    def fail():
        raise ValueError("no")

    beside.put(fail)
    with pytest.raises(ValueError, match="no"):
        beside.run()
    beside.run()
    assert current[-1].name == "main"


def test_a_stopwatch_adds_up_events(log):
    watch = Stopwatch(CUDA)
    for _ in range(3):
        with watch.running():
            pass
    assert watch.seconds == pytest.approx(3)
    assert watch.seconds == pytest.approx(3)


def test_on_a_cpu_it_is_done_at_once():
    beside, done = Beside(torch.device("cpu")), []
    beside.put(lambda: done.append(1))
    assert done == [1]
    beside.run()
    assert done == [1]
    tensors = [torch.ones(2), torch.zeros(3)]
    assert all(a is b for a, b in zip(to_host(tensors), tensors, strict=True))
    watch = Stopwatch(torch.device("cpu"))
    with watch.running():
        sum(range(10000))
    assert 0 < watch.seconds < 10
