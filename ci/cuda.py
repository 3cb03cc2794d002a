"""Look at the CUDA kernels inside the installed module, print the table.

    python ci/cuda.py

Exits 1 unless the module holds the kernels, those of KERNELS and no other, and each of them
  - multiplies with the instruction named there, counted in the machine code;
  - has no stack: no register was spilled, no array went to local memory;
  - waits for wgmma, if it has it, once a step and once at the end, not after each (the compiler serialises
    them where it cannot do better).
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

#: Operands by their names in mangled ones, and the instruction that multiplies them.
OPERANDS = {
    "13__nv_bfloat16": ("bfloat16", r"\bHMMA\.16816\.F32\.BF16"),
    "6__half": ("float16", r"\bHMMA\.16816\.F32(?!\.BF16)"),
    "4Tf32": ("tf32", r"\bHMMA\.1688\.F32\.TF32"),
    "7Float32": ("float32", r"\bFFMA"),
    "f": ("float32", None),
}
TARGETS = ("sm_80", "sm_90a")
#: By target and kernel.
KERNELS: dict[tuple[str, str], str | None] = {
    ("sm_80", "linear_int8"): r"\bIMMA\.16832\.S8\.S8",
    ("sm_90a", "linear_int8"): r"\bIGMMA\.\w+\.S8\.S8",
}
for target in TARGETS:
    for operand, instruction in list(OPERANDS.values())[:4]:
        KERNELS[target, f"transform {operand}"] = KERNELS[target, f"filter_column {operand}"] = instruction
        if operand != "tf32":
            KERNELS[target, f"find_moments {operand}"] = None
WGMMA_WAITS = 2


def kernel_name(mangled: str) -> str:
    """As in KERNELS; "linear_int8" for the two whose names CUTLASS makes or shares."""
    if found := re.search(r"(transform|filter_column|find_moments)I(?:NS0_)?(?:4HalfI)?(\w+?)E", mangled):
        return f"{found[1]} {OPERANDS[found[2]][0]}"
    return "linear_int8" if re.search("multiply|LinearInt8Cuda|device_kernel", mangled) else mangled


def cuobjdump() -> str:
    spec = find_spec("triton")
    beside = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else None
    found = shutil.which("cuobjdump") or (beside and beside.is_file() and str(beside))
    if not found:
        sys.exit("error: cuobjdump was found neither on PATH nor in triton")
    return found


def dump(option: str, function: str) -> dict[tuple[str, str], str]:
    """What cuobjdump says of the module's kernels; `function` is the line that begins with a name."""
    assert _native.core is not None, _native.reason
    command = [cuobjdump(), option, str(_native.core.__file__)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = re.split(r"^Fatbin elf code:\n=+\narch = (\w+)$", text, flags=re.MULTILINE)
    kernels = {}
    for target, part in zip(parts[1::2], parts[2::2], strict=True):
        functions = re.split(function, part, flags=re.MULTILINE)
        for name, said in zip(functions[1::2], functions[2::2], strict=True):
            kernels[target, kernel_name(name)] = said
    return kernels


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
    resources = dump("--dump-resource-usage", r"^ Function (\S+):$")
    code = dump("--dump-sass", r"^\s+Function : (\S+)$")
    table = Table("target", "kernel", "instruction", "count", "registers", "stack", "code KiB", "")
    table.title = f"nvcc {info['cuda']}, CUTLASS {info['cutlass']}"
    failed = set(KERNELS) ^ set(resources)
    for key in sorted(set(KERNELS) & set(resources)):
        instruction = KERNELS[key]
        used = re.findall(instruction, code[key]) if instruction else []
        registers, stack = (number(rf"{name}:(\d+)", resources[key]) for name in ("REG", "STACK"))
        waits = len(re.findall(r"WARPGROUP\.DEPBAR", code[key]))
        size = int(re.findall(r"/\*([0-9a-f]{4,})\*/", code[key])[-1], 16) / 1024
        faults = []
        if instruction and not used:
            faults.append(f"no {instruction}")
        if stack:
            faults.append(f"{stack} bytes of stack")
        if waits > WGMMA_WAITS:
            faults.append(f"{waits} waits for wgmma")
        if faults:
            failed.add(key)
        label = used[0] if used else ""
        row = [*key, label, str(len(used)), str(registers), str(stack), f"{size:.0f}"]
        table.add_row(*row, "; ".join(faults) or "ok")
    console = Console(width=120)
    console.print(table)
    if failed:
        console.print(f"failed or not there: {', '.join(' '.join(key) for key in sorted(failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
