"""Memory, restart files and the progress bar."""

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.forecast import tiny
from wxkernels.forecast import Gaussian, restart, run
from wxkernels.forecast.batching import fitting, free_memory, peak_memory
from wxkernels.forecast.progress import progress_bar, stop_requests
from wxkernels.forecast.restart import RestartFile
from wxkernels.io.grid import Grid

CPU = torch.device("cpu")


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_memory_is_flat_over_a_thousand_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(restart, "SHARE", 0.3)
    grid, memory, places = Grid.regular(32, 64), {}, set()

    class Watch:
        def update(self, step, forecast):
            memory[step] = resident()
            places.add((forecast.data_ptr(), forecast.shape))

    run(
        tiny.model(grid=grid),
        tiny.initial(grid),
        steps=1000,
        members=4,
        perturbation=Gaussian(0.01),
        batch_size=3,
        scorer=Watch(),
        restart=tmp_path / "restart",
        progress=False,
    )
    assert len(places) == 1
    # One state of the ensemble is 98 kB: to keep one a step would take 88 MB.
    assert memory[1000] - memory[100] < 4e6


def test_peak_memory_is_measured():
    if (free := free_memory(CPU)) is None:
        pytest.skip("the system does not tell its free memory")
    assert 0 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with peak_memory(CPU) as peak:
        torch.ones(40 << 20, dtype=torch.uint8)
        torch.ones(60 << 20, dtype=torch.uint8)
    if peak.value is None:
        pytest.skip("the system does not measure the peak")
    assert 55e6 < peak.value < 85e6


def test_batch_fits_memory():
    gpu = torch.device("cuda")
    assert fitting(peak=10, free=100, members=50, device=gpu) == 8
    assert fitting(peak=10, free=100, members=5, device=gpu) == 5
    assert fitting(peak=10, free=5, members=5, device=gpu) == 1
    assert fitting(peak=0, free=10**9, members=50, device=gpu) == 50
    assert fitting(peak=1, free=10**9, members=50, device=CPU) == 4
    assert fitting(peak=None, free=100, members=5, device=gpu) == 1


def test_restart_files_take_their_share_and_no_more(tmp_path, monkeypatch):
    clock, written = SimpleNamespace(now=0.0), []

    def slow(tensors, path, metadata):
        clock.now += 1 + len(written) % 3
        written.append(clock.now)
        path.write_bytes(b"")

    monkeypatch.setattr(restart.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(restart, "save_file", slow)
    file = RestartFile(tmp_path / "restart", {})
    while clock.now < 10_000:
        clock.now += 0.7
        if file.due(size=1000):
            file.save({}, {}, lambda: None)
    spent = sum(1 + i % 3 for i in range(len(written)))
    assert 0.045 < spent / clock.now < 0.0505
    assert np.diff(written).max() < 100


def test_bar(monkeypatch, capsys):
    with progress_bar(0, 10, shown=True) as update:
        update(5, 10)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar(0, 10, shown=False) as update:
        update(5, 10)
    assert capsys.readouterr() == ("", "")
    with progress_bar(2, 10, shown=True) as update:
        update(4, 9)
        update(9, 9)
    shown = capsys.readouterr()
    assert "9/9" in shown.err
    assert "member-steps/s" in shown.err
    assert shown.out == ""


def test_signals_are_left_alone_outside_the_main_thread():
    seen = []

    def elsewhere():
        with stop_requests() as asked:
            seen.append(asked.is_set())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]
