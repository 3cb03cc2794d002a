"""Measure the variants of a problem side by side: interleaved rounds, medians, error beside speed."""

import dataclasses
import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wxkernels import capture
from wxkernels.bench.allocator import keep_freed_memory
from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.machine import cache_bytes
from wxkernels.bench.processes import in_fresh_process
from wxkernels.bench.results import Failure, Row
from wxkernels.bench.statistics import noisy, ratio

log = logging.getLogger("wxkernels")

#: A call on one of several input sets; rotating them keeps a variant from finding its input in the cache.
Call = Callable[[Sequence[Tensor]], Any]
#: Turns what a call returned for a set of inputs into the value that `Problem.exact` computes; not timed.
Finish = Callable[[Any, Sequence[Tensor]], Tensor]
#: Is told what goes on.
Progress = Callable[[str], None]

#: Input sets at most: those of the smallest shapes do not fill a cache, which their rows say.
_MOST_SETS = 256

#: A shorter variant runs this long in its turn before it is timed: for some ms the OpenMP threads of the one
#: before spin on the cores (native linear_int8 at 4050 x 256 -> 1024 on two cores: 7.0 ms, then 3.5 ms).
_SETTLING_SECONDS = 0.02

_MOST_WARM_UPS = 3

#: A result that is off by more of its largest value is another one than was asked for.
WRONG = 0.1


@dataclass(frozen=True)
class Work:
    """The least that any implementation must do: operations by the dtype of their operands, bytes moved."""

    flops: Mapping[torch.dtype, float]
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        flops = {
            dtype: self.flops.get(dtype, 0.0) + other.flops.get(dtype, 0.0)
            for dtype in {**self.flops, **other.flops}
        }
        return Work(flops, self.bytes + other.bytes)

    def seconds(self, ceilings: Ceilings) -> float | None:
        """The floor: the larger of operations over peaks and bytes over bandwidth; None if not known."""
        if ceilings.bandwidth is None or not self.flops.keys() <= ceilings.flops.keys():
            return None
        compute = sum(flops / ceilings.flops[dtype] for dtype, flops in self.flops.items())
        return max(compute, self.bytes / ceilings.bandwidth)


@dataclass(frozen=True)
class Size:
    """What a problem is made of: the batch, a shape of the case, the dtype of its input, where it runs."""

    batch: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    model: str | None = None  # the name of its shape

    def options(self) -> str:
        """The options of wxkernels-bench for this size."""
        dtype = "" if self.dtype == torch.float32 else f" --dtype {dtype_name(self.dtype)}"
        device = "" if self.device.type == "cpu" else f" --device {self.device}"
        shape = self.model or "x".join(map(str, self.shape))
        return f"--shape {shape} --batch {self.batch}{dtype}{device} --threads {torch.get_num_threads()}"


@dataclass(frozen=True)
class Variant:
    """One way to compute a problem. `build` makes its call; what it prepares (compilation) is not timed.

    `adapt` gives what the call takes in the place of an input set: the same values in another dtype, say.
    """

    name: str
    build: Callable[[], Call]
    work: Work
    kind: Literal["ours", "pytorch", "peer"] = "ours"  # the fastest "pytorch" is the baseline
    finish: Finish = lambda result, inputs: result
    adapt: Callable[[Sequence[Tensor]], Sequence[Tensor]] = lambda inputs: inputs


@dataclass(frozen=True)
class Problem:
    """A case at one size; `shape` is that of its input, with the batch.

    `sample` makes a set of random inputs. Of an op it has a copy of the same weights, other than those of the
    set before: in a network every layer has its own, which come from memory. `exact` computes in float64, all
    samples or only the first ones.
    """

    case: str
    op: str
    size: Size
    shape: tuple[int, ...]
    sample: Callable[[], Sequence[Tensor]]
    exact: Callable[[Sequence[Tensor]], Tensor]
    variants: Sequence[Variant]


@dataclass(frozen=True)
class Timed:
    """A variant in the rounds of a process: its seconds in each, and its error."""

    name: str
    kind: Literal["ours", "pytorch", "peer"]
    work: Work
    error: float
    seconds: np.ndarray


@dataclass(frozen=True)
class Timings:
    """What a process timed of a problem. It can be sent to another, which a problem cannot."""

    case: str
    op: str
    size: Size
    shape: tuple[int, ...]
    cold: bool
    variants: Sequence[Timed]
    failed: Sequence[Failure]


def option(name: str, kind: str) -> str:
    """The option of wxkernels-bench that names a variant."""
    return f"--{'backend' if kind == 'ours' else 'peer'} {name}"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measure(
    problem: Problem,
    ceilings: Ceilings,
    *,
    rounds: int,
    progress: Progress = lambda text: None,
) -> tuple[list[Row], list[Failure]]:
    """A row for each variant, all timed in the same interleaved rounds, by `time_variants`."""
    return rows([time_variants(problem, rounds, progress)], ceilings)


def measure_in_processes(
    make: Callable[[Size, Sequence[str]], Problem],
    size: Size,
    names: Sequence[str],
    ceilings: Ceilings,
    *,
    rounds: int,
    processes: int,
    progress: Progress = lambda text: None,
) -> tuple[list[Row], list[Failure]]:
    """`measure` in fresh processes, one after the other, each with so many rounds.

    make: the problem of these variants; a function of a module, it is sent by name. A peer that fails in one
    process is left out of all.
    """
    taken = []
    for i in range(processes):
        progress(f"process {i + 1} of {processes}")
        taken.append(in_fresh_process(_time_afresh, make, size, names, rounds))
    return rows(taken, ceilings)


def _time_afresh(
    make: Callable[[Size, Sequence[str]], Problem], size: Size, names: Sequence[str], rounds: int
) -> Timings:
    keep_freed_memory()
    return time_variants(make(size, names), rounds)


def time_variants(problem: Problem, rounds: int, progress: Progress = lambda text: None) -> Timings:
    """The times of each variant, all in the same interleaved rounds.

    A peer that fails is left out, and so is whatever has another result, unless it is ours.
    """
    failed = []
    prepared: dict[str, tuple[Call, list[Sequence[Tensor]]]] = {}
    errors: dict[str, float] = {}
    progress("the exact result in float64")
    inputs = rotated(problem)
    with torch.inference_mode():
        exact = problem.exact(inputs[0])
    for variant in problem.variants:
        progress(f"prepares {variant.name}")
        try:
            one, found = prepare(variant, inputs)
        except Exception as reason:
            if variant.kind != "peer":
                raise
            failed.append(Failure(problem.op, variant.name, _first_line(reason)))
            continue
        error = _error(found, exact)
        if not error <= WRONG:
            why = f"its result is wrong, by {error:.0%} of the largest value"
            if variant.kind == "ours":
                raise ValueError(f"{variant.name}: {why}")
            failed.append(Failure(problem.op, variant.name, why))
            continue
        prepared[variant.name], errors[variant.name] = one, error
        del found
    turns = Turns(prepared, problem.size.device)
    with torch.inference_mode():
        turns.warm_up(progress)
        times = _interleaved(turns, list(prepared), rounds, progress)
    cold = _rotating_bytes(inputs) > (cache_bytes(problem.size.device) or float("inf"))
    timed = [
        Timed(v.name, v.kind, v.work, errors[v.name], times[v.name])
        for v in problem.variants
        if v.name in prepared
    ]
    return Timings(problem.case, problem.op, problem.size, problem.shape, cold, timed, failed)


def rows(taken: Sequence[Timings], ceilings: Ceilings) -> tuple[list[Row], list[Failure]]:
    """Of what one process, or several, timed of the same problem: the variants that ran in all of them."""
    failed = {failure.backend: failure for one in taken for failure in one.failed}
    kept = ([v for v in one.variants if v.name not in failed] for one in taken)
    variants = [
        dataclasses.replace(
            each[0], error=max(v.error for v in each), seconds=np.concatenate([v.seconds for v in each])
        )
        for each in zip(*kept, strict=True)
    ]
    return [_row(taken, v, variants, ceilings) for v in variants], list(failed.values())


class Replayed:
    """A call as a CUDA graph: what it launches, without the time that the launches take."""

    def __init__(self, call: Call, inputs: Sequence[Tensor]):
        self.graph = capture.Graph(lambda *tensors: call(tensors), inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        """Its result is overwritten by the next."""
        self.graph.fill(inputs)
        self.graph.replay()
        return self.graph.output


class Turns:
    """Calls of variants in turn, each on the next inputs.

    prepared: of each variant its call and what it takes for each input set, by name.
    """

    def __init__(self, prepared: Mapping[str, tuple[Call, Sequence[Sequence[Tensor]]]], device: torch.device):
        self.prepared, self.device = prepared, device
        self._last: dict[str, float] = {}
        self._sets: Iterator[int] = cycle(range(len(next(iter(prepared.values()))[1])) if prepared else ())

    def seconds(self, name: str) -> float:
        """The time of the next call of a variant."""
        call, own = self.prepared[name]
        self._last[name] = seconds(call, own[next(self._sets)], self.device)
        return self._last[name]

    def warm_up(self, progress: Progress = lambda text: None) -> None:
        """A call of each variant; again after one for which something was compiled anew.

        Code compiled for one is void when another changes what it depends on, such as the backends that
        einops knows: 20 s of a round, at full size.
        """
        for _ in range(_MOST_WARM_UPS):
            before = _graphs()
            for name in self.prepared:
                progress(f"warms up {name}")
                self.seconds(name)
            if _graphs() == before:
                return

    def settle(self, name: str) -> None:
        """Run a short variant untimed, on a CPU, until threads of the one before have gone to sleep."""
        if self.device.type != "cpu" or self._last.get(name, 0.0) >= _SETTLING_SECONDS:
            return
        end = time.perf_counter() + _SETTLING_SECONDS
        while time.perf_counter() < end:
            self.seconds(name)


def seconds(call: Call, inputs: Sequence[Tensor], device: torch.device) -> float:
    """The time of one call: the clock; on a GPU events, after its cache was overwritten."""
    if device.type == "cuda":
        launch: Callable[[], Any] = functools.partial(call, inputs)
        if isinstance(call, Replayed):
            call.graph.fill(inputs)
            launch = call.graph.replay
        _flushed(device).zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        launch()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3
    begin = time.perf_counter()
    call(inputs)
    return time.perf_counter() - begin


@functools.cache
def _flushed(device: torch.device) -> Tensor:
    """Memory twice as large as the cache."""
    return torch.empty(2 * (cache_bytes(device) or 0), dtype=torch.uint8, device=device)


def rotated(problem: Problem) -> list[Sequence[Tensor]]:
    """Two input sets, or as many as are together twice the last level cache, of which bfloat16 is half."""
    inputs = [problem.sample(), problem.sample()]
    each, cache = _rotating_bytes(inputs) // 2, cache_bytes(problem.size.device) or 0
    while each and len(inputs) * each <= 2 * cache and len(inputs) < _MOST_SETS:
        inputs.append(problem.sample())
    return inputs


def _rotating_bytes(inputs: Sequence[Sequence[Tensor]]) -> int:
    """Of the tensors that are others in every set."""
    shared = {id(t) for t in inputs[0]} & {id(t) for t in inputs[-1]}
    return sum(t.nbytes for tensors in inputs for t in tensors if id(t) not in shared)


def prepare(
    variant: Variant, inputs: Sequence[Sequence[Tensor]]
) -> tuple[tuple[Call, list[Sequence[Tensor]]], Tensor]:
    """The call, what it takes for each input set, and the value that it computes for the first.

    On a GPU the call is captured in a CUDA graph; where it cannot be, that is told, and it stays as it is.
    """
    with torch.inference_mode():
        own = [variant.adapt(tensors) for tensors in inputs]
    call = variant.build()
    with torch.inference_mode():
        if own[0][0].device.type in capture.DEVICES:
            try:
                call = Replayed(call, own[0])
            except capture.Uncapturable as error:
                log.warning("%s: timed with its launches, it is no CUDA graph: %s", variant.name, error)
        return (call, own), variant.finish(call(own[0]), inputs[0])


def _error(found: Tensor, exact: Tensor) -> float:
    """The largest absolute error over the largest value; 0 of nothing."""
    if not exact.numel():
        return 0.0
    largest = (found[: len(exact)].to(exact) - exact).abs().max().item()
    return largest / (exact.abs().max().item() or 1.0)


def _graphs() -> int:
    """How many graphs torch.compile has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # not imported before something is compiled
    return dynamo.counters["stats"]["unique_graphs"] if dynamo else 0


def _interleaved(
    turns: "Turns", names: Sequence[str], rounds: int, progress: Progress
) -> dict[str, np.ndarray]:
    """Seconds of each call in each round."""
    times = {name: np.empty(rounds) for name in names}
    order = np.random.default_rng(0)
    for r in range(rounds):
        for i in order.permutation(len(names)):  # no variant always follows the same one
            name = names[i]
            progress(f"round {r + 1} of {rounds}: {name}")
            turns.settle(name)
            times[name][r] = turns.seconds(name)
    return times


def _row(taken: Sequence[Timings], variant: Timed, variants: Sequence[Timed], ceilings: Ceilings) -> Row:
    problem, processes = taken[0], len(taken)
    size, t, flops = problem.size, variant.seconds, variant.work.flops
    median = float(np.median(t))
    # Of PyTorch, or of what there is.
    plain = [v for v in variants if v.kind == "pytorch"] or [v for v in variants if v.kind == "peer"]
    baseline = min(plain or variants, key=lambda v: float(np.median(v.seconds)))
    speedup = ratio(baseline.seconds, t, processes)
    floor = variant.work.seconds(ceilings)
    chosen = [option(variant.name, variant.kind)]
    if baseline.kind != "ours" and baseline is not variant:
        chosen.append(f"--peer {baseline.name}")
    each = f"--rounds {len(t) // processes}" + (f" --processes {processes}" if processes > 1 else "")
    return Row(
        device=ceilings.device,
        case=problem.case,
        model=size.model,
        op=problem.op,
        shape="x".join(map(str, problem.shape)),
        batch=size.batch,
        dtype=dtype_name(size.dtype),
        backend=variant.name,
        kind=variant.kind,
        precision=dtype_name(min(flops, key=lambda dtype: dtype.itemsize, default=size.dtype)),
        rounds=len(t),
        times_ms=[float(f"{1e3 * seconds:.6g}") for seconds in t],
        median_ms=1e3 * median,
        p20_ms=1e3 * float(np.percentile(t, 20)),
        p80_ms=1e3 * float(np.percentile(t, 80)),
        baseline=baseline.name,
        speedup=speedup.median,
        speedup_low=speedup.low,
        speedup_high=speedup.high,
        noisy=noisy(t, speedup),
        cold=all(one.cold for one in taken),
        against={
            v.name: ratio(v.seconds, t, processes).median
            for v in variants
            if v.kind != "ours" and v is not variant
        },
        gflops=sum(flops.values()) / median / 1e9,
        gbytes=variant.work.bytes / median / 1e9,
        floor_ms=None if floor is None else 1e3 * floor,
        floor_share=None if floor is None else floor / median,
        error=variant.error,
        command=f"wxkernels-bench {problem.case} {size.options()} {each} {' '.join(chosen)}",
        processes=processes,
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"
