"""Look at the CUDA kernels inside the installed module, print the table.

    python ci/cuda.py

Exits 1 unless the module holds the kernels and each of them
  - multiplies with its target's int8 matrix instruction, counted in the machine code;
  - has no stack: no register was spilled, no array went to local memory;
  - waits for wgmma once a step and once at the end, not after each (the compiler serialises them where it
    cannot do better).
It needs cuobjdump, of a CUDA toolkit or of triton, and no GPU.
"""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wxkernels import _native

MATRIX = {"sm_80": r"\bIMMA\.16832\.S8\.S8", "sm_90a": r"\bIGMMA\.\w+\.S8\.S8"}
WGMMA_WAITS = 2


def cuobjdump() -> str:
    spec = find_spec("triton")
    beside = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else None
    found = shutil.which("cuobjdump") or (beside and beside.is_file() and str(beside))
    if not found:
        sys.exit("error: cuobjdump was found neither on PATH nor in triton")
    return found


def dump(*options: str) -> dict[str, str]:
    """What cuobjdump says of the module, by architecture."""
    assert _native.core is not None, _native.reason
    command = [cuobjdump(), *options, str(_native.core.__file__)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = re.split(r"^Fatbin elf code:\n=+\narch = (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern!r} in cuobjdump's output")
    return int(found[1])


def main() -> int:
    assert _native.core is not None, _native.reason
    info = _native.core.build_info()
    if info["cuda"] is None:
        sys.exit(f"error: the module was built without CUDA kernels: {info['cuda_missing']}")
    resources, code = dump("--dump-resource-usage"), dump("--dump-sass")
    table = Table("target", "instruction", "count", "registers", "stack", "code KiB", "")
    table.title = f"linear_int8, nvcc {info['cuda']}, CUTLASS {info['cutlass']}"
    failed = set(MATRIX) ^ set(resources)
    for target in sorted(set(MATRIX) & set(resources)):
        matrix = re.findall(MATRIX[target], code[target])
        registers, stack = (number(rf"{name}:(\d+)", resources[target]) for name in ("REG", "STACK"))
        waits = len(re.findall(r"WARPGROUP\.DEPBAR", code[target]))
        size = int(re.findall(r"/\*([0-9a-f]{4,})\*/", code[target])[-1], 16) / 1024
        faults = []
        if not matrix:
            faults.append(f"no {MATRIX[target]}")
        if stack:
            faults.append(f"{stack} bytes of stack")
        if waits > WGMMA_WAITS:
            faults.append(f"{waits} waits for wgmma")
        if faults:
            failed.add(target)
        label = matrix[0] if matrix else ""
        row = [target, label, str(len(matrix)), str(registers), str(stack), f"{size:.0f}"]
        table.add_row(*row, "; ".join(faults) or "ok")
    console = Console(width=110)
    console.print(table)
    if failed:
        console.print(f"failed or not there: {', '.join(sorted(failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
