"""The header of results: this machine, and a GPU as nvidia-smi tells of it."""

import subprocess

import pytest
import torch

from wxkernels.bench import machine
from wxkernels.bench.ceilings import Ceilings, measure_ceilings

CPU = torch.device("cpu")


def test_the_header_names_the_machine_and_what_ran():
    header = machine.conditions(CPU)
    assert header["device"] == machine.device_name(CPU)
    assert header["threads"] == torch.get_num_threads()
    assert header["torch"] == torch.__version__
    assert header["memory_gbytes"] is None or header["memory_gbytes"] > 0.1


def test_the_peaks_are_measured_by_precision():
    ceilings = measure_ceilings(CPU, quick=True)
    assert ceilings.flops.keys() == {torch.float32, torch.bfloat16, torch.float16, torch.int8}
    assert min(ceilings.flops.values()) > 1e9
    assert ceilings.bandwidth == max(ceilings.copy, ceilings.triad) > 1e8
    stored = ceilings.conditions()
    assert stored["peak_gflops"]["float32"] == round(ceilings.flops[torch.float32] / 1e9)
    assert stored["copy_gbytes"] > 0 < stored["triad_gbytes"]


def test_bandwidth_is_the_faster_of_what_was_measured():
    assert Ceilings("machine", {}, None).bandwidth is None
    assert Ceilings("machine", {}, 2.0, None).bandwidth == 2
    assert Ceilings("machine", {}, 2.0, 3.0).bandwidth == 3


@pytest.fixture
def smi(tmp_path, monkeypatch):
    def make(text):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


def test_clocks_and_power_of_a_gpu_are_noted(smi):
    smi('echo "1980, 1980, 432.10, 700.00, [N/A]"')
    assert machine.smi("GPU-1") == {
        "clock_mhz": 1980,
        "clock_max_mhz": 1980,
        "power_w": 432.1,
        "power_limit_w": 700,
        "temperature_c": None,
    }


@pytest.mark.parametrize("text", ["echo no devices were found; exit 6", "echo 1, 2"])
def test_what_nvidia_smi_does_not_tell_is_not_known(smi, text):
    smi(text)
    assert set(machine.smi("GPU-1").values()) == {None}


def test_the_last_level_caches_of_all_processors_are_counted_once_each(tmp_path, monkeypatch):
    for cpu, (shared, size) in enumerate([("0-1", "32768K"), ("0-1", "32768K"), ("2", "16M"), ("3", "16M")]):
        for index, (level, name, each) in enumerate([("1", str(cpu), "48K"), ("3", shared, size)]):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for file, text in (("level", level), ("shared_cpu_list", name), ("size", each)):
                (folder / file).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "_CPUS", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert machine.cache_bytes(CPU) == 48 * 2**20
    monkeypatch.setattr(machine, "_CPUS", tmp_path / "none")
    assert machine.cache_bytes(CPU) is None


def test_what_others_do_is_seen_while_this_process_sleeps(tmp_path, monkeypatch):
    stat, ticks = tmp_path / "stat", machine.os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu  10 20 30 1000 50 1 2 3 0 0\n")
    now = [0.0]

    def sleep(seconds):  # for longer than it was asked for; one and a half processors work, the others idle
        now[0] += 2 * seconds
        stat.write_text(f"cpu  {10 + 1.5 * now[0] * ticks:.0f} 20 30 9999 99 1 2 3 0 0\n")

    monkeypatch.setattr(machine, "_STAT", stat)
    monkeypatch.setattr(machine.time, "sleep", sleep)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])
    assert machine.load() == 1.5
    monkeypatch.setattr(machine, "_STAT", tmp_path / "none")
    assert machine.load() is None


def test_the_header_names_the_commit_and_whether_the_code_differs(tmp_path, monkeypatch):
    def git(*arguments):
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *names, *arguments], check=True, capture_output=True)

    paths = [tmp_path / "wxkernels/bench/machine.py", tmp_path / "bench/results/device/a.json"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("as it was")
    monkeypatch.setattr(machine, "__file__", str(paths[0]))
    assert machine._commit() is None
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    commit = machine._commit()
    assert len(commit) >= 7
    paths[1].write_text("measured again")
    assert machine._commit() == commit
    paths[0].write_text("changed")
    assert machine._commit() == f"{commit}-dirty"
