"""The suite in bench/: it passes beside results of a slower kernel and fails beside those of a faster one.

A kernel that is slow in the process of the suite alone passes too.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from wxkernels.bench.results import read
from wxkernels.cli.bench import main

ROOT = Path(__file__).parents[2]
#: A plugin of pytest, which fresh processes do not load.
SLOW_HERE = """
from wxkernels.bench.engine import Turns

measured = Turns.seconds
Turns.seconds = lambda turns, name: measured(turns, name) * (1e4 if name == "native" else 1)
"""


@pytest.mark.usefixtures("default_allocator")
def test_a_kernel_that_was_faster_fails_the_suite_and_a_slow_process_does_not(tmp_path):
    pytest.importorskip("pytest_benchmark")
    path = tmp_path / "device" / "a.json"
    path.parent.mkdir()
    command = [
        "layer_norm",
        "layer_norm_int8",
        "spectral_filter",
        "--quick",
        "--rounds",
        "15",
        "--json",
        str(path),
    ]
    measured = CliRunner().invoke(main, [*command, "--peer", "eager", "--backend", "native"])
    assert measured.exit_code == 0, measured.output
    results = read(path)
    assert results.conditions["allocator"] == "the test's"
    # Far beyond what a loaded machine does: slower now everywhere, in no process, and in that of the suite.
    was = {"spectral_filter": 1e-4, "layer_norm": 1e8, "layer_norm_int8": 1e2}
    results.times = [
        dataclasses.replace(row, times_ms=[t * was[row.case] for t in row.times_ms])
        if row.kind == "ours"
        else row
        for row in results.times
    ]
    results.write(path)
    (tmp_path / "slow_here.py").write_text(SLOW_HERE)
    chosen = (
        "small-float32-native and (layer_norm or spectral_filter)"
        " or bfloat16-native and layer_norm and not int8"
    )
    # One thread: beside other work two of OpenMP wait for each other, up to a thousand times as long.
    command = [sys.executable, "-m", "pytest", "bench", "--shape", "small", "--results", tmp_path]
    command += ["-p", "slow_here", "-k", chosen]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 2 passed, 1 skipped" in done.stdout, done.stdout
    assert "FAILED bench/test_speed.py::test_speed[spectral_filter-small-float32-native]" in done.stdout
    assert " in this process and Ratio(" in done.stdout
