"""What kernels that run on the CPU may not do, seen."""

import subprocess

import pytest

from tests.cuda_on_cpu import library

pytestmark = library.needed


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    program = tmp_path_factory.mktemp("cuda_on_cpu") / "faults"
    return library.compiled(program, "tests/cuda_on_cpu/faults.cpp")


def said(program, fault):
    run = subprocess.run([program, fault], capture_output=True, text=True)
    assert (run.returncode == 0) == (fault == "none"), run.stderr
    return run.stdout + run.stderr


def test_a_kernel_without_fault_runs(faults):
    assert "NaN" not in said(faults, "none")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("not waited for", "a NaN"),
        ("not written", "a NaN"),
        ("not synchronised", "a NaN"),
        ("overwritten", "another result backwards"),
        ("past the end", "heap-buffer-overflow"),
        ("misaligned", "misaligned address"),
        ("barrier of some", "waits for threads that never come"),
        ("warp in two places", "meets threads that are somewhere else"),
    ],
)
def test_faults_are_seen(faults, fault, message):
    assert message in said(faults, fault)
