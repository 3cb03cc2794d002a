"""Compile the Triton kernels for GPUs that are not here, check what comes out, print the table.

    python ci/aot.py [--only sm_90]

Compiles the launches that the ops make for the cases below, argument specialisation and schedule included,
with their own tiles and those stored in wxkernels/ops/tiles.json, and exits 1 unless each of them
  - holds the target's matrix instructions for its operands, counted in the PTX or the AMD assembly, where it
    multiplies (float32 on CUDA is FMA, and nothing else);
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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from wxkernels.ops._triton import Launch, Target, kernel, operands, tuned, without_e4m3
from wxkernels.ops.layer_norm import triton as layer_norm
from wxkernels.ops.linear_fp8 import triton as linear_fp8
from wxkernels.ops.linear_int8 import triton as linear_int8
from wxkernels.ops.mlp import triton as mlp
from wxkernels.ops.patch_embed import triton as patch_embed
from wxkernels.ops.patch_head import triton as patch_head
from wxkernels.ops.quantize_rows import triton as quantize_rows
from wxkernels.ops.spectral_filter import triton as spectral_filter
from wxkernels.ops.spectral_filter.reference import kept_modes


@dataclass(frozen=True)
class Machine:
    """What a target offers: shared memory (bytes a program), instructions for matrices of each type."""

    target: Target
    shared: int
    matrix: str
    matrix_int8: str
    matrix_e4m3: str | None = None  # None where `without_e4m3` says why


MACHINES = {
    "sm_80": Machine(
        Target("cuda", 80),
        99 << 10,  # 163 KiB; sm_86 and sm_89 run the same and have 99
        r"mma\.sync",
        r"mma\.sync\S*\.s32\.s8\.s8\.s32",
    ),
    "sm_90": Machine(
        Target("cuda", 90),
        227 << 10,
        r"wgmma\.mma_async",
        r"wgmma\.mma_async\S*\.s32\.s8\.s8",
        r"wgmma\.mma_async\S*\.f32\.e4m3\.e4m3",
    ),
    "sm_100": Machine(
        Target("cuda", 100),
        227 << 10,
        r"tcgen05\.mma",
        r"mma\.sync\S*\.s32\.s8\.s8\.s32",  # Triton 3.7 multiplies int8 there as on sm_80
        r"tcgen05\.mma\S*kind::f8f6f4",
    ),
    "gfx90a": Machine(Target("hip", "gfx90a", 64), 64 << 10, r"v_mfma_f32", r"v_mfma_i32_\w*i8"),
    "gfx942": Machine(Target("hip", "gfx942", 64), 64 << 10, r"v_mfma_f32", r"v_mfma_i32_\w*i8"),
}
TENSOR_MEMORY = 512  # columns on sm_100
NOT_MULTIPLYING = ("layer_norm", "quantize_rows")  # kernels

FP32, FP16, BF16, INT8 = torch.float32, torch.float16, torch.bfloat16, torch.int8
E4M3 = torch.float8_e4m3fn
TYPES = {FP32: "fp32", FP16: "fp16", BF16: "bf16", INT8: "i8", E4M3: "fp8e4nv", torch.int32: "i32"}

FILTERS = [  # name, (B, H, W, C), nb, hidden_size_factor, dtype, float32 products
    ("FourCastNet", (1, 90, 180, 768), 8, 1, BF16, "ieee"),
    ("FourCastNet", (1, 90, 180, 768), 8, 1, FP16, "ieee"),
    ("FourCastNet", (1, 90, 180, 768), 8, 1, FP32, "ieee"),
    ("FourCastNet", (1, 90, 180, 768), 8, 1, FP32, "tf32x3"),
    ("FourCastNet", (1, 90, 180, 768), 8, 1, FP32, "tf32"),
    ("physicsnemo", (1, 45, 90, 256), 16, 1, BF16, "ieee"),
    ("wide block", (1, 90, 180, 768), 4, 2, BF16, "ieee"),
]
NORMS = [  # name, (rows, C), dtype, that of the result
    ("FourCastNet", (16200, 768), FP32, INT8),
    ("FourCastNet", (16200, 768), BF16, INT8),
    ("FourCastNet", (16200, 768), FP32, E4M3),
    ("FourCastNet", (16200, 768), BF16, BF16),
    ("narrow", (1001, 5), FP32, INT8),
    ("widest", (1001, 8192), FP32, INT8),
    ("widest, odd", (1001, 8191), FP16, FP16),
]
QUANTISED = [  # name, (rows, K), dtype, that of the result
    ("FourCastNet", (16200, 768), FP32, INT8),
    ("hidden", (16200, 3072), BF16, INT8),
    ("widest, odd", (1001, 8191), FP32, INT8),
    ("widest, odd", (1001, 8191), FP32, E4M3),
]
LINEARS = [  # name, (M, K, N), activation, a scale for each row of x, residual's dtype, result's dtype
    # In int8; fc2's sums start at the offset of its rows.
    ("fc1", (16200, 768, 3072), "gelu", True, None, INT8),
    ("fc2", (16200, 3072, 768), "none", True, FP32, FP32),
    ("parts of tiles", (2001, 100, 1312), "gelu_tanh", False, BF16, INT8),
    ("odd", (2001, 100, 1301), "gelu_tanh", True, FP32, INT8),
    ("fc1, 49 rows", (49, 768, 3072), "gelu", True, None, INT8),
    ("odd, 49 rows", (49, 100, 77), "none", False, FP16, FP16),
]
LINEARS_E4M3 = [linear for linear in LINEARS if linear[0] in ("fc1", "fc2", "odd")]  # e4m3 for int8
MLPS = [  # name, (M, C, D), activation, dtype, that of the weights, float32 products
    ("FourCastNet", (16200, 768, 3072), "gelu", FP32, BF16, "ieee"),
    ("FourCastNet", (16200, 768, 3072), "gelu", BF16, BF16, "ieee"),
    ("FourCastNet", (16200, 768, 3072), "gelu", FP16, FP16, "ieee"),
    ("FourCastNet", (16200, 768, 3072), "gelu", FP32, FP32, "ieee"),
    ("FourCastNet", (16200, 768, 3072), "gelu", FP32, FP32, "tf32x3"),
    ("odd", (2001, 100, 1301), "gelu_tanh", FP32, BF16, "ieee"),
    ("odd", (2001, 100, 1301), "gelu_tanh", BF16, FP16, "ieee"),
]
PATCHES = [  # name, (C, H, W), (p, q), D, dtype, that of the weights, int8 positions, float32 products
    ("FourCastNet", (20, 720, 1440), (8, 8), 768, FP32, BF16, False, "ieee"),
    ("FourCastNet", (20, 720, 1440), (8, 8), 768, FP32, BF16, True, "ieee"),
    ("FourCastNet", (20, 720, 1440), (8, 8), 768, BF16, BF16, False, "ieee"),
    ("FourCastNet", (20, 720, 1440), (8, 8), 768, FP16, FP16, False, "ieee"),
    ("FourCastNet", (20, 720, 1440), (8, 8), 768, FP32, FP32, False, "ieee"),
    ("FourCastNet", (20, 720, 1440), (8, 8), 768, FP32, FP32, False, "tf32x3"),
    ("odd", (3, 70, 99), (7, 9), 77, FP32, BF16, True, "ieee"),
]


@dataclass(frozen=True)
class Job:
    machine: str
    case: str
    dtype: str
    op: str
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


def launches(target: Target) -> Iterator[tuple[str, str, Launch]]:
    """(case, dtype, launch) of all cases; the arguments have shapes and no memory."""

    def empty(*shape: int, dtype: torch.dtype = FP32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def precision(dtype: torch.dtype, float32: str) -> tuple[str, Target]:
        return TYPES[dtype] if float32 == "ieee" else float32, replace(target, float32=float32)

    for name, (B, H, W, C), nb, factor, dtype, float32 in FILTERS:
        if float32 != "ieee" and target.backend != "cuda":
            continue
        bs = C // nb
        x, y = empty(B, H, W, C, dtype=dtype), empty(B, H, W, C, dtype=dtype)
        w1, b1 = empty(2, nb, bs, bs * factor, dtype=dtype), empty(2, nb, bs * factor)
        w2, b2 = empty(2, nb, bs * factor, bs, dtype=dtype), empty(2, nb, bs)
        modes, label, on = kept_modes(H, W, 1.0), *precision(dtype, float32)
        for launch in spectral_filter.launches(x, x, w1, b1, w2, b2, y, 0.01, modes, on):
            yield name, label, launch
    quantised = [INT8] if without_e4m3(target) else [INT8, E4M3]
    for name, (M, C), dtype, out_dtype in NORMS:
        if out_dtype in (*quantised, dtype):
            x, weight, bias = empty(M, C, dtype=dtype), empty(C), empty(C)
            y, scale = empty(M, C, dtype=out_dtype), None if out_dtype == dtype else empty(M)
            yield name, TYPES[dtype], layer_norm.launch(x, weight, bias, y, scale, 1e-6, target)
    for name, (M, K), dtype, out_dtype in QUANTISED:
        if out_dtype in quantised:
            x, q = empty(M, K, dtype=dtype), empty(M, K, dtype=out_dtype)
            yield name, TYPES[dtype], quantize_rows.launch(x, q, empty(M), target)
    linears = [(INT8, *linear) for linear in LINEARS]
    if E4M3 in quantised:
        linears += [(E4M3, *linear) for linear in LINEARS_E4M3]
    for dtype, name, (M, K, N), activation, row_scales, residual_dtype, out in linears:
        x, weight = empty(M, K, dtype=dtype), empty(N, K, dtype=dtype)
        y = empty(M, N, dtype=dtype if out == INT8 else out)
        x_scale, out_scale = empty(M) if row_scales else empty(), empty() if out == INT8 else None
        residual = None if residual_dtype is None else empty(M, N, dtype=residual_dtype)
        parts = x, weight, empty(N), empty(N), x_scale, residual, out_scale, y, activation, target
        if dtype == E4M3:
            yield name, TYPES[dtype], linear_fp8.launch(*parts)
        else:
            start = empty(N, dtype=torch.int32) if name == "fc2" else None
            yield name, TYPES[dtype], linear_int8.launch(*parts, start)
    for name, (M, C, D), activation, dtype, weights, float32 in MLPS:
        if float32 != "ieee" and target.backend != "cuda":
            continue
        x, y, fc1 = empty(M, C, dtype=dtype), empty(M, C, dtype=dtype), empty(D, C, dtype=weights)
        label, on = precision(operands(x, fc1)[1].dtype, float32)
        layers = fc1, empty(D), empty(C, D, dtype=weights), empty(C)
        for launch in mlp.launches(x, empty(C), empty(C), *layers, y, 1e-6, activation, on):
            yield name, label, launch
    for name, (C, H, W), (p, q), D, dtype, weights, int8, float32 in PATCHES:
        if float32 != "ieee" and target.backend != "cuda":
            continue
        h, w = H // p, W // q
        x, tokens = empty(1, C, H, W, dtype=dtype), empty(1, h, w, D, dtype=dtype)
        weight, bias = empty(D, C, p, q, dtype=weights), empty(D)
        label, on = precision(operands(x, weight)[1].dtype, float32)
        pos, pos_scale = empty(1, h * w, D, dtype=INT8 if int8 else weights), empty(h * w) if int8 else None
        yield name, label, patch_embed.launch(x, weight, bias, pos, pos_scale, tokens, on)
        weight, bias = empty(p * q * C, D, dtype=weights), empty(p * q * C)
        yield name, label, patch_head.launch(tokens, weight, bias, x, (p, q), on)


def jobs(machine: str) -> list[Job]:
    """One job for each different kernel of the cases."""
    found: dict[Any, Job] = {}
    for case, dtype, launch in launches(MACHINES[machine].target):
        for tiles in filter(None, (launch.tiles, tuned(machine).get(launch.key))):
            job = specialised(replace(launch, tiles=tiles), machine, case, dtype)
            found.setdefault(replace(job, case="", dtype=""), job)
    return list(found.values())


def specialised(launch: Launch, machine: str, case: str, dtype: str) -> Job:
    """The types, constants and divisibilities that Triton's launcher would read off the arguments."""
    from triton.backends.compiler import BaseBackend

    compiler = triton_compiler(machine)
    signature, attributes = {}, []
    constants = launch.constants | launch.tiles.sizes
    for n, name in enumerate(kernel(launch.op, launch.kernel).arg_names):
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
    return Job(machine, case, dtype, launch.op, launch.kernel, *parts, *schedule)


def triton_compiler(machine: str):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    target = MACHINES[machine].target
    return make_backend(GPUTarget(target.backend, target.arch, target.warp))


def attempt(job: Job) -> Built | str:
    """What was built, or the last line of the compiler's complaint."""
    try:
        return build(job)
    except Exception as error:
        return f"{type(error).__name__}: {error}".strip().splitlines()[-1]


def build(job: Job) -> Built:
    import triton
    from triton.compiler import ASTSource

    compiler = triton_compiler(job.machine)
    attributes = {(n,): compiler.parse_attr(text) for n, text in job.attributes}
    function = kernel(job.op, job.kernel)
    source = ASTSource(function, dict(job.signature), dict(job.constants), attributes)
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
    machine = MACHINES[job.machine]
    matrices = {"*i8": machine.matrix_int8, "*fp8e4nv": machine.matrix_e4m3}
    pattern = matrices.get(dict(job.signature).get("weight", ""), machine.matrix)
    assert pattern is not None  # no launch of such weights is made there
    matrix = len(re.findall(pattern, text))
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
    if job.kernel not in NOT_MULTIPLYING and not (built.matrix or (built.fma and without_matrix_units(job))):
        found.append("no matrix instruction")
    if built.matrix and without_matrix_units(job):
        found.append("a matrix instruction, which rounds")
    if built.shared > machine.shared:
        found.append(f"{built.shared} bytes of shared memory, {machine.shared} there")
    if built.tensor_memory > TENSOR_MEMORY:
        found.append(f"{built.tensor_memory} columns of tensor memory, {TENSOR_MEMORY} there")
    if built.spills:
        found.append(f"{built.spills} spilled")
    return found


def without_matrix_units(job: Job) -> bool:
    """CUDA's have no float32 product."""
    return job.dtype == "fp32" and MACHINES[job.machine].target.backend == "cuda"


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
    table = Table(*columns, title="Triton kernels, compiled ahead of time")
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
    instructions = ""
    if job.kernel not in NOT_MULTIPLYING:
        instructions = f"fma {built.fma}" if without_matrix_units(job) else f"{built.matrix}"
    shared = f"{built.shared / 1024:.0f} / {MACHINES[job.machine].shared // 1024}"
    return [*label, instructions, str(built.registers), shared, str(built.spills)]


if __name__ == "__main__":
    sys.exit(main())
