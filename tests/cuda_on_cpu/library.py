"""CUDA kernels compiled for the CPU (cuda/device.h says how they run there), with AddressSanitizer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = "-std=c++17 -O1 -g1 -Wall -Wextra -Wno-unknown-pragmas -ffp-contract=off"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all"
INCLUDE = [f"-I{ROOT / folder}" for folder in ("tests/cuda_on_cpu", "csrc", "csrc/include")]


def runtime() -> Path | None:
    """AddressSanitizer's library, where g++ has it."""
    if shutil.which("g++") is None:
        return None
    command = ["g++", "-print-file-name=libasan.so"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    return path if path.is_absolute() else None


needed = pytest.mark.skipif(runtime() is None, reason="there is no g++ with AddressSanitizer")


def compiled(out: Path, *sources: str) -> Path:
    """A shared library if `out` ends in .so, else a program, of sources named from the root."""
    kind = ["-shared", "-fPIC"] if out.suffix == ".so" else []
    paths = [str(ROOT / source) for source in sources]
    options = [*FLAGS.split(), *SANITIZE.split(), *kind, *INCLUDE]
    command = ["g++", *options, "-x", "c++", *paths, "-o", str(out)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out


def environment() -> dict[str, str]:
    """For a Python that loads such a library: all its memory comes from AddressSanitizer, fenced."""
    # What Python and torch leave behind is theirs.
    return os.environ | {"LD_PRELOAD": str(runtime()), "ASAN_OPTIONS": "detect_leaks=0"}
