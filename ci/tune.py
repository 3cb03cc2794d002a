"""Time candidates of tiles for the Triton launches of the shipped models, and store those that win.

    python ci/tune.py [--seconds 60] [--copy FILE]     on a GPU: writes wxkernels/ops/tiles.json, and a copy
    python ci/tune.py --compile [--only sm_90]         anywhere: compiles all candidates, as ci/aot.py does

A candidate that does not compile, spills, or needs more shared memory than there is, is left out, and so is
one whose results are not those of the launch's own tiles. All are timed in the same interleaved rounds, with
1 and with 8 samples; what counts is the geometric mean of both, for tiles are stored without the number of
samples: a row's bits do not depend on it. Tiles are stored where they are faster by MARGIN at least, at the
slow end of the 95 % interval. Where the time is up, the launches that are left keep what they had.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import aot
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from wxkernels.bench.models import MODELS, Model
from wxkernels.bench.statistics import Ratio, ratio
from wxkernels.io.files import whole_file
from wxkernels.ops import _triton
from wxkernels.ops._triton import Launch, Target, Tiles
from wxkernels.ops.layer_norm import triton as layer_norm
from wxkernels.ops.linear_fp8 import triton as linear_fp8
from wxkernels.ops.linear_int8 import triton as linear_int8
from wxkernels.ops.mlp import triton as mlp
from wxkernels.ops.patch_embed import triton as patch_embed
from wxkernels.ops.patch_head import triton as patch_head
from wxkernels.ops.spectral_filter import triton as spectral_filter
from wxkernels.ops.spectral_filter.reference import kept_modes

STORED = Path(_triton.__file__).parent / "tiles.json"
NAMES = ("fourcastnet", "physicsnemo-default")
BATCHES = (1, 8)
FP32, BF16, INT8, E4M3 = torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn
#: Of layers, of the tokens.
PRECISIONS = [("bf16", FP32), ("int8", FP32), ("fp8", FP32), ("bf16", BF16), ("fp32", FP32)]
MARGIN = 0.03
ROUNDS = 9
REPEATS = 10  # runs in one measurement

#: Tiles of a product, rows x columns, and warps.
PRODUCTS = [
    (128, 256, 8),
    (256, 128, 8),
    (128, 128, 8),
    (128, 128, 4),
    (128, 64, 4),
    (64, 128, 4),
    (64, 64, 4),
]
#: The constant matrices of the spectral filter are padded to tiles of these.
PADDED = {"transform": {"BLOCK_M": 128, "BLOCK_K": 64}, "column_mlp": {"BLOCK_F": 128, "BLOCK_K": 64}}

Make = Callable[[Sequence[int], torch.dtype], Tensor]
Record = dict[str, object]


@dataclass(frozen=True)
class Group:
    """Launches of one key, one for each of BATCHES."""

    case: str
    launches: Sequence[Launch]

    @property
    def one(self) -> Launch:
        return self.launches[0]


def launches(
    model: Model, batch: int, precision: str, stream: torch.dtype, target: Target, make: Make
) -> Iterator[Launch]:
    """Those of each kind of layer in a network of that precision, with tokens of dtype `stream`."""
    (h, w), (p, q), C, D = model.tokens, model.patch, model.dim, model.hidden
    bs, points = C // model.blocks, model.channels * p * q
    weights = FP32 if precision == "fp32" else BF16

    def vector(size: int) -> Tensor:
        return make((size,), FP32)

    fields = make((batch, model.channels, *model.grid), stream)
    tokens, y = make((batch, h, w, C), stream), make((batch, h, w, C), stream)
    layers = (
        make((2, model.blocks, bs, bs), stream),
        make((2, model.blocks, bs), FP32),
        make((2, model.blocks, bs, bs), stream),
        make((2, model.blocks, bs), FP32),
    )
    multiplying = spectral_filter.multiplying(target, weights)
    yield from spectral_filter.launches(tokens, tokens, *layers, y, 0.01, kept_modes(h, w, 1.0), multiplying)
    if precision in ("int8", "fp8"):
        dtype = INT8 if precision == "int8" else E4M3
        n, hidden = make((batch * h * w, C), dtype), make((batch * h * w, D), dtype)
        scale, one = vector(batch * h * w), make((), FP32)
        yield layer_norm.launch(tokens, vector(C), vector(C), n, scale, 1e-6, target)
        fc1 = n, make((D, C), dtype), vector(D), vector(D), scale, None, one, hidden, "gelu", target
        fc2 = hidden, make((C, D), dtype), vector(C), vector(C), scale, tokens, None, y, "none", target
        if dtype == INT8:
            yield linear_int8.launch(*fc1, out_offset=-90)
            yield linear_int8.launch(*fc2, make((C,), torch.int32))
        else:
            yield linear_fp8.launch(*fc1)
            yield linear_fp8.launch(*fc2[:4], one, *fc2[5:])
        pos, pos_scale = make((1, h * w, C), INT8), vector(h * w)
    else:
        linears = make((D, C), weights), vector(D), make((C, D), weights), vector(C)
        yield from mlp.launches(tokens, vector(C), vector(C), *linears, y, 1e-6, "gelu", target)
        pos, pos_scale = make((1, h * w, C), weights), None
    weight = make((C, model.channels, p, q), weights)
    yield patch_embed.launch(fields, weight, vector(C), pos, pos_scale, tokens, target)
    yield patch_head.launch(tokens, make((points, C), weights), None, fields, (p, q), target)


def groups(target: Target, make: Make, batches: Sequence[int] = BATCHES) -> Iterator[Group]:
    """The launches to tune, each key once; those of a model come before the next model's tensors are made."""
    seen = set()
    for precision, stream in PRECISIONS:
        if precision == "fp8" and _triton.without_e4m3(target):
            continue
        for name in NAMES:
            made = [launches(MODELS[name], batch, precision, stream, target, make) for batch in batches]
            for alike in zip(*made, strict=True):
                if alike[0].key not in seen:
                    seen.add(alike[0].key)
                    yield Group(f"{name} {precision}", alike)


def candidates(launch: Launch) -> list[Tiles]:
    """Tiles that may be faster than its own: a handful."""
    own = launch.tiles
    if launch.kernel in ("layer_norm", "quantize_rows"):
        found = [resized(own, warps, 1) for warps in (own.num_warps // 2, own.num_warps * 2)]
        for factor in (0.5, 2):
            rows = int(own.sizes["BLOCK_M"] * factor)
            found += [resized(own, max(1, int(own.num_warps * factor)), 1, BLOCK_M=rows)]
    elif launch.kernel == "column_mlp":
        found = [resized(own, own.num_warps, own.num_stages, BLOCK_F=rows) for rows in (32, 64, 128)]
        found += [resized(own, own.num_warps, own.num_stages, BLOCK_J=hidden) for hidden in (16, 32, 64)]
        found += [resized(own, own.num_warps, own.num_stages, BLOCK_K=depth) for depth in (16, 64)]
        found += [resized(own, 4, own.num_stages), *(resized(own, 8, stages) for stages in (1, 2, 3))]
    else:
        found = [
            resized(own, warps, own.num_stages, BLOCK_M=rows, BLOCK_N=columns)
            for rows, columns, warps in PRODUCTS
        ]
        depth = own.sizes["BLOCK_K"]
        found += [resized(own, own.num_warps, own.num_stages + 1)]
        found += [resized(own, own.num_warps, own.num_stages + 1, BLOCK_K=max(16, depth // 2))]
        found += [resized(own, own.num_warps, max(1, own.num_stages - 1), BLOCK_K=depth * 2)]
    limits = {name: max(16, _triton.cover(size)) for name, size in launch.extents.items()}
    limits |= PADDED.get(launch.kernel, {})
    distinct: list[Tiles] = []
    for tiles in found:
        tiles = replace(tiles, sizes={n: min(size, limits.get(n, size)) for n, size in tiles.sizes.items()})
        if tiles.num_warps and min(tiles.sizes.values()) and tiles not in (own, *distinct):
            distinct.append(tiles)
    return distinct


def resized(tiles: Tiles, num_warps: int, num_stages: int, **sizes: int) -> Tiles:
    return replace(tiles, sizes=tiles.sizes | sizes, num_warps=num_warps, num_stages=num_stages)


def job(launch: Launch, tiles: Tiles, machine: str, case: str) -> aot.Job:
    types = {value.dtype for value in launch.arguments.values() if isinstance(value, Tensor)}
    fp32 = types == {FP32} and launch.constants.get("PRECISION") == "ieee"
    label = "fp32" if fp32 else launch.constants.get("PRECISION", "")
    return aot.specialised(replace(launch, tiles=tiles), machine, case, label)


def fault(compiled: aot.Job) -> str | None:
    """Why a candidate is left out."""
    return next(iter(aot.faults(compiled, aot.attempt(compiled))), None)


def winner(times: Sequence[np.ndarray]) -> tuple[int, Ratio] | None:
    """Which candidate is faster than the own tiles, times[0], beyond noise, and its time over theirs.

    times: of each, (batches, rounds) in seconds.
    """
    means = [np.exp(np.log(seconds).mean(axis=0)) for seconds in times]
    ratios = {n: ratio(mean, means[0]) for n, mean in enumerate(means) if n}
    wins = {n: r for n, r in ratios.items() if r.high is not None and r.high <= 1 - MARGIN}
    return min(wins.items(), key=lambda item: item[1].median) if wins else None


def results(launch: Launch) -> list[Tensor]:
    """What a launch writes."""
    found = (launch.arguments.get(name) for name in ("y", "q", "scale"))
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


def works(launch: Launch, tiles: Tiles) -> bool:
    """Whether the tiles run here without spills, and give what the launch's own give."""
    from triton.errors import TritonError

    _triton.start(launch)
    expected = [tensor.clone() for tensor in results(launch)]
    for tensor in results(launch):
        tensor.fill_(99)
    try:
        compiled = _triton.start(replace(launch, tiles=tiles))
    except (TritonError, RuntimeError):  # RuntimeError: of its compiler's passes
        return False
    return compiled.n_spills == 0 and all(map(close, results(launch), expected))


def close(found: Tensor, expected: Tensor) -> bool:
    """Integers to one step, others to two of their own at the largest value, or what float32 sums lose."""
    difference, largest = (found.float() - expected.float()).abs().max(), expected.float().abs().max()
    if not expected.is_floating_point():
        return bool(difference <= 1)
    return bool(difference <= max(2 * torch.finfo(expected.dtype).eps, 1e-5) * largest)


def timer(launch: Launch) -> Callable[[], float]:
    """Seconds of one run of it: REPEATS of them as a CUDA graph, which leaves the launcher's time out."""
    _triton.start(launch)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            _triton.start(launch)

    def seconds() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / REPEATS

    return seconds


def measured(
    group: Group, tiles: Sequence[Tiles], timed: Callable[[Launch], Callable[[], float]]
) -> list[np.ndarray]:
    """The times of each tiles, (batches, rounds), all in the same interleaved rounds."""
    calls = [[timed(replace(launch, tiles=t)) for launch in group.launches] for t in tiles]
    times = [np.empty((len(group.launches), ROUNDS)) for _ in tiles]
    for r in range(ROUNDS):
        for i in range(len(tiles)):
            n = (i + r) % len(tiles)  # none always follows the same one
            times[n][:, r] = [call() for call in calls[n]]
    return times


def merged(old: Sequence[Record], new: Sequence[Record], architecture: str, done: set[str]) -> list[Record]:
    """The old records but those of launches that were timed now on this architecture, and the new ones."""
    kept = [r for r in old if r["architecture"] != architecture or r["launch"] not in done]
    return sorted([*kept, *new], key=lambda r: (str(r["architecture"]), str(r["launch"])))


def write(records: Sequence[Record], paths: Sequence[Path]) -> None:
    for path in paths:
        with whole_file(path) as partial:
            partial.write_text(json.dumps({"records": records}, indent=1) + "\n")


def tune(device: torch.device, seconds: float, paths: Sequence[Path]) -> None:
    """Time what there is time for on a GPU, and store what wins."""
    import triton

    from wxkernels.backends import device_architecture

    began = time.perf_counter()
    architecture, target = device_architecture(device), Target.of(device)
    generator = torch.Generator(device).manual_seed(0)

    def make(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        drawn = torch.randn(tuple(shape), generator=generator, device=device)
        return drawn.to(dtype) if dtype.is_floating_point else (40 * drawn).clamp(-127, 127).to(dtype)

    same = {"architecture": architecture, "triton": triton.__version__}
    same |= {"device": torch.cuda.get_device_name(device), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    new: list[Record] = []
    done: set[str] = set()
    ahead: dict[str, list[Future[None]]] = defaultdict(list)
    table = Table("launch", "own", "us", "best", "of own time", title=f"tiles on {architecture}")
    with compiler() as pool, torch.inference_mode():
        # All compile ahead, into Triton's cache, in the order in which they are timed.
        every = list(groups(target, meta))
        for group in every:
            launch = group.one
            arguments = {n: v.dtype if isinstance(v, Tensor) else v for n, v in launch.arguments.items()}
            for tiles in (launch.tiles, *candidates(launch)):
                constants = replace(launch, tiles=tiles).options
                task = launch.op, launch.kernel, arguments, constants
                ahead[launch.key].append(pool.submit(compile_ahead, *task))
        for group in groups(target, make):
            if time.perf_counter() - began > seconds:
                break
            wait(ahead[group.one.key])
            own = group.one.tiles
            sound = [t for t in candidates(group.one) if all(works(launch, t) for launch in group.launches)]
            times = measured(group, [own, *sound], timer)
            done.add(group.one.key)
            row = [group.one.key, text(own), f"{1e6 * np.median(times[0][0]):.0f}"]
            if best := winner(times):
                n, found = best
                chosen = sound[n - 1]
                new.append(record(group.one, chosen, found) | same)
                row += [text(chosen), f"{found.median:.2f}"]
            table.add_row(*row)
        pool.shutdown(cancel_futures=True)
    old = json.loads(STORED.read_text())["records"] if STORED.is_file() else []
    write(merged(old, new, architecture, done), paths)
    console = Console(width=200)
    console.print(table)
    console.print(f"{len(done)} of {len(every)} launches timed, {len(new)} have faster tiles")


def compile_ahead(op: str, name: str, arguments: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
    """As the launch itself would, with dtypes in the place of tensors; what fails now fails there again."""
    from triton.errors import TritonError

    function = _triton.kernel(op, name)
    ordered = [arguments[argument] for argument in function.arg_names if argument in arguments]
    with suppress(TritonError, RuntimeError):
        function.warmup(*ordered, grid=(1,), **constants)


def record(launch: Launch, tiles: Tiles, found: Ratio) -> Record:
    schedule = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    times = {"of_own_time": round(found.median, 3), "interval": [found.low, found.high]}
    return {"launch": launch.key, "sizes": tiles.sizes, **schedule, **times}


def text(tiles: Tiles) -> str:
    return f"{'x'.join(map(str, tiles.sizes.values()))} w{tiles.num_warps} s{tiles.num_stages}"


def meta(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def compiler() -> ProcessPoolExecutor:
    """Processes that compile."""
    return ProcessPoolExecutor(min(16, os.cpu_count() or 1), mp_context=get_context("spawn"))


def compile_all(machines: Sequence[str]) -> None:
    """How many candidates there are on each target, and why some are left out."""
    table = Table("target", "launches", "candidates", "kernels", "left out", title="candidates, compiled")
    with compiler() as pool:
        for machine in machines:
            count, checked = Counter(), {}
            for group in groups(aot.MACHINES[machine].target, meta, (1,)):
                count["launches"] += 1
                for tiles in candidates(group.one):
                    compiled = job(group.one, tiles, machine, group.case)
                    same = replace(compiled, case="")
                    count["candidates"] += 1
                    if same not in checked:
                        checked[same] = pool.submit(fault, compiled)
            reasons = Counter(kind(found) for future in checked.values() if (found := future.result()))
            left_out = ", ".join(f"{reason}: {number}" for reason, number in reasons.most_common())
            table.add_row(machine, *map(str, (*count.values(), len(checked))), left_out or "none")
    Console(width=150).print(table)


def kind(reason: str) -> str:
    """A reason of aot.faults without its numbers."""
    return " ".join(word for word in reason.partition(",")[0].split() if not word.isdigit())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="compile all candidates, without a GPU")
    parser.add_argument("--only", choices=aot.MACHINES, help="one target to compile for")
    parser.add_argument("--seconds", type=float, default=60, help="how long to tune")
    parser.add_argument("--copy", type=Path, help="another place for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        if options.compile:
            os.environ["TRITON_CACHE_DIR"] = cache  # a cached kernel has no ptxas report
            compile_all([options.only] if options.only else list(aot.MACHINES))
        elif torch.cuda.is_available():
            paths = [STORED, *([options.copy] if options.copy else [])]
            tune(torch.device("cuda", 0), options.seconds, paths)
        else:
            sys.exit("error: torch finds no GPU to time on; --compile needs none")


if __name__ == "__main__":
    main()
