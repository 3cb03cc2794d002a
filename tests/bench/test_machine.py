"""The header of results: this machine, and a GPU as nvidia-smi tells of it."""

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
