"""The allocator of a benchmark: no call pays for memory that the one before it gave back."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
from wxkernels.bench.allocator import keep_freed_memory
import torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(16 << 20)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
by_default = faults()
print(keep_freed_memory())
for _ in range(10):  # small tensors lie in between at first
    faults()
print(by_default, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is meant")
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    told, counts = done.stdout.splitlines()
    by_default, kept = map(int, counts.split())
    assert told == "glibc, freed memory kept"
    assert kept < 100 < by_default


def test_another_c_library_is_left_alone(monkeypatch):
    from wxkernels.bench import allocator

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    assert allocator.keep_freed_memory() == "the system's"
