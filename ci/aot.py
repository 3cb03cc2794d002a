"""Compile the Triton kernels for GPUs that are not here, check what comes out, print the table.

    python ci/aot.py [--only sm_90]

Compiles the launches that `wxkernels.ops.spectral_filter` makes for the cases below, argument specialisation
and schedule included, and exits 1 unless each of them
  - holds the target's matrix instructions, counted in the PTX or the AMD assembly (float32 on CUDA is FMA);
  - stays within the target's shared memory and, on sm_100, tensor memory (Triton's metadata);
  - spills no register: spill stores in ptxas's report, `.vgpr_spill_count` and `.sgpr_spill_count` on AMD.
It needs triton and no GPU.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from wxkernels.ops.spectral_filter import reference
from wxkernels.ops.spectral_filter import triton as backend


@dataclass(frozen=True)
class Machine:
    """What a target offers: its matrix instruction, shared memory in bytes a program, threads in a warp."""

    backend: str
    arch: int | str
    matrix: str
    shared: int
    warp: int


MACHINES = {
    "sm_80": Machine(
        "cuda", 80, r"mma\.sync", 99 << 10, 32
    ),  # 163 KiB; sm_86 and sm_89 run the same and have 99
    "sm_90": Machine("cuda", 90, r"wgmma\.mma_async", 227 << 10, 32),
    "sm_100": Machine("cuda", 100, r"tcgen05\.mma", 227 << 10, 32),
    "gfx90a": Machine("hip", "gfx90a", r"v_mfma_f32", 64 << 10, 64),
    "gfx942": Machine("hip", "gfx942", r"v_mfma_f32", 64 << 10, 64),
}
TENSOR_MEMORY = 512  # columns on sm_100

CASES = [  # name, (B, H, W, C), nb, hidden_size_factor, dtype, float32 products
    ("FourCastNet", (1, 90, 180, 768), 8, 1, torch.bfloat16, "ieee"),
    ("FourCastNet", (1, 90, 180, 768), 8, 1, torch.float16, "ieee"),
    ("FourCastNet", (1, 90, 180, 768), 8, 1, torch.float32, "ieee"),
    ("FourCastNet", (1, 90, 180, 768), 8, 1, torch.float32, "tf32x3"),
    ("physicsnemo", (1, 45, 90, 256), 16, 1, torch.bfloat16, "ieee"),
    ("wide block", (1, 90, 180, 768), 4, 2, torch.bfloat16, "ieee"),
]
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Job:
    machine: str
    case: str
    dtype: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    attributes: tuple[tuple[int, str], ...]
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Built:
    matrix: int
    fma: int
    registers: int
    shared: int
    tensor_memory: int
    spills: int


def jobs(machine: str) -> list[Job]:
    """One job for each different kernel of the cases."""
    found = {}
    for name, (B, H, W, C), nb, factor, dtype, float32 in CASES:
        bs = C // nb
        target = backend.Target(MACHINES[machine].backend, MACHINES[machine].arch, float32)
        if float32 == "tf32x3" and target.backend != "cuda":
            continue
        x, w1, b1, w2, b2 = (
            torch.empty(shape, dtype=kind, device="meta")
            for shape, kind in (
                ((B, H, W, C), dtype),
                ((2, nb, bs, bs * factor), dtype),
                ((2, nb, bs * factor), torch.float32),
                ((2, nb, bs * factor, bs), dtype),
                ((2, nb, bs), torch.float32),
            )
        )
        modes = reference.kept_modes(H, W, 1.0)
        for launch in backend.launches(x, w1, b1, w2, b2, torch.empty_like(x), 0.01, modes, target):
            label = TYPES[dtype] if float32 == "ieee" else float32
            job = specialised(launch, machine, name, label)
            key = (job.kernel, job.signature, job.constants, job.attributes)
            found.setdefault(key, job)
    return list(found.values())


def specialised(launch: backend.Launch, machine: str, case: str, dtype: str) -> Job:
    """The types, constants and divisibilities that Triton's launcher would read off the arguments."""
    from triton.backends.compiler import BaseBackend

    from wxkernels.ops.spectral_filter import triton_kernels

    compiler = triton_compiler(machine)
    signature, attributes = {}, []
    constants = launch.constants | launch.tiles.sizes
    for n, name in enumerate(getattr(triton_kernels, launch.kernel).arg_names):
        value = launch.arguments.get(name)
        attribute = ""
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + TYPES[value.dtype]
            attribute = compiler.get_tensor_specialization(value, align=True)
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value is None or value == 1:
            signature[name] = "constexpr"
            constants.setdefault(name, value)
        else:
            signature[name] = "i32"
            attribute = BaseBackend.get_int_specialization(value, align=True)
        if attribute:
            attributes.append((n, attribute))
    schedule = launch.tiles.num_warps, launch.tiles.num_stages
    parts = tuple(signature.items()), tuple(constants.items()), tuple(attributes)
    return Job(machine, case, dtype, launch.kernel, *parts, *schedule)


def triton_compiler(machine: str):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    m = MACHINES[machine]
    return make_backend(GPUTarget(m.backend, m.arch, m.warp))


def attempt(job: Job) -> Built | str:
    """What was built, or the last line of the compiler's complaint."""
    try:
        return build(job)
    except Exception as error:
        return f"{type(error).__name__}: {error}".strip().splitlines()[-1]


def build(job: Job) -> Built:
    import triton
    from triton.compiler import ASTSource

    from wxkernels.ops.spectral_filter import triton_kernels

    compiler = triton_compiler(job.machine)
    attributes = {(n,): compiler.parse_attr(text) for n, text in job.attributes}
    kernel = getattr(triton_kernels, job.kernel)
    source = ASTSource(kernel, dict(job.signature), dict(job.constants), attributes)
    triton.knobs.nvidia.dump_ptxas_log = True
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        options = {"num_warps": job.num_warps, "num_stages": job.num_stages}
        compiled = triton.compile(source, target=compiler.target, options=options)
    if compiler.target.backend == "cuda":
        text, log = compiled.asm["ptx"], report.getvalue()
        fma = len(re.findall(r"fma\.rn\.f32|fma\.rn\.f32x2", text))
        registers, spills = number(r"Used (\d+) registers", log), number(r"(\d+) bytes spill stores", log)
    else:
        text, fma = compiled.asm["amdgcn"], 0
        registers = number(r"\.vgpr_count: +(\d+)", text)
        spills = sum(number(rf"\.{kind}_spill_count: +(\d+)", text) for kind in ("vgpr", "sgpr"))
    matrix = len(re.findall(MACHINES[job.machine].matrix, text))
    tensor_memory = getattr(compiled.metadata, "tmem_size", 0)
    return Built(matrix, fma, registers, compiled.metadata.shared, tensor_memory, spills)


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern!r} in the compiler's output")
    return int(found[1])


def faults(job: Job, built: Built | str) -> list[str]:
    if isinstance(built, str):
        return [built]
    machine = MACHINES[job.machine]
    found = []
    if job.dtype == "fp32" and machine.backend == "cuda":
        if not built.fma:
            found.append("no fma")
    elif not built.matrix:
        found.append(f"no {machine.matrix}".replace("\\", ""))
    if built.shared > machine.shared:
        found.append(f"{built.shared} bytes of shared memory, {machine.shared} there")
    if built.tensor_memory > TENSOR_MEMORY:
        found.append(f"{built.tensor_memory} columns of tensor memory, {TENSOR_MEMORY} there")
    if built.spills:
        found.append(f"{built.spills} spilled")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MACHINES, help="one target")
    machines = [only] if (only := parser.parse_args().only) else list(MACHINES)
    if os.environ.pop("TRITON_INTERPRET", None):
        sys.exit("error: TRITON_INTERPRET is set, and interpreted kernels do not compile; unset it")
    began = time.perf_counter()
    work = [job for machine in machines for job in jobs(machine)]
    columns = ["target", "case", "dtype", "kernel", "tiles", "warps", "stages"]
    columns += ["matrix instr.", "registers", "shared KiB", "spills", ""]
    table = Table(*columns, title="spectral_filter, Triton, compiled ahead of time")
    failed = 0
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # a cached kernel has no ptxas report
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            for job, built in zip(work, pool.map(attempt, work), strict=True):
                wrong = faults(job, built)
                failed += bool(wrong)
                table.add_row(*row(job, built), "; ".join(wrong) or "ok")
    console = Console(width=150)
    console.print(table)
    console.print(f"{len(work)} kernels, {failed} failed, {time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


def row(job: Job, built: Built | str) -> list[str]:
    sizes = [str(value) for name, value in job.constants if name.startswith("BLOCK")]
    label = [job.machine, job.case, job.dtype, job.kernel, "x".join(sizes)]
    label += [str(job.num_warps), str(job.num_stages)]
    if isinstance(built, str):
        return label + [""] * 4
    instructions = f"{built.matrix}" if built.matrix else f"fma {built.fma}"
    shared = f"{built.shared / 1024:.0f} / {MACHINES[job.machine].shared // 1024}"
    return [*label, instructions, str(built.registers), shared, str(built.spills)]


if __name__ == "__main__":
    sys.exit(main())
