"""Measure the variants of a problem side by side: interleaved rounds, medians, error beside speed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wxkernels.bench.machine import Ceilings

#: A call on one of several input sets; rotating them keeps a variant from finding its input in the cache.
Call = Callable[[Sequence[Tensor]], Any]
#: Turns what a call returned for a set of inputs into the value that `Problem.exact` computes; not timed.
Finish = Callable[[Any, Sequence[Tensor]], Tensor]


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
class Variant:
    """One way to compute a problem. `build` makes its call; what it prepares (compilation) is not timed."""

    name: str
    build: Callable[[], Call]
    work: Work
    kind: Literal["ours", "pytorch", "peer"] = "ours"  # the fastest "pytorch" is the baseline
    finish: Finish = lambda result, inputs: result


@dataclass(frozen=True)
class Problem:
    """A case at one shape and dtype. `exact` computes in float64, all samples or only the first ones."""

    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    inputs: Sequence[Sequence[Tensor]]
    exact: Callable[[Sequence[Tensor]], Tensor]
    variants: Sequence[Variant]
    command: str


@dataclass(frozen=True)
class Row:
    """One line of the table. Times in ms; error is the largest absolute error over the largest |exact|."""

    device: str
    op: str
    shape: str
    dtype: str
    backend: str
    kind: str  # "ours", "pytorch" or "peer"
    median_ms: float
    p20_ms: float
    p80_ms: float
    speedup: float  # median over rounds of the time of the fastest PyTorch variant over this one's
    against: dict[str, float]  # the same against each variant that is not ours
    gflops: float
    gbytes: float
    floor_ms: float | None
    floor_share: float | None
    error: float
    command: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Measured:
    """Rows of one kind, and the peers that failed while they were prepared: (op, backend, reason)."""

    rows: list[Any] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)

    def __iadd__(self, other: "Measured") -> "Measured":
        self.rows += other.rows
        self.failed += other.failed
        return self


def measure(
    problem: Problem,
    ceilings: Ceilings,
    *,
    rounds: int,
    device: torch.device,
    progress: Callable[[str], None] = lambda text: None,
) -> Measured:
    """A row for each variant, all timed in the same interleaved rounds. A peer that fails is left out."""
    calls: dict[str, Call] = {}
    errors, failed = {}, []
    progress("the exact result in float64")
    with torch.inference_mode():
        exact = problem.exact(problem.inputs[0])
    scale = exact.abs().max().item() if exact.numel() else 1.0
    for variant in problem.variants:
        progress(f"prepares {variant.name}")
        try:
            calls[variant.name], found = _prepare(variant, problem.inputs[0])
        except Exception as error:
            if variant.kind != "peer":
                raise
            failed.append((problem.op, variant.name, _first_line(error)))
            continue
        difference = (found[: len(exact)].to(exact) - exact).abs()
        errors[variant.name] = (difference.max().item() if exact.numel() else 0.0) / (scale or 1.0)
        del found, difference
    variants = [v for v in problem.variants if v.name in calls]
    times = {v.name: np.empty(rounds) for v in variants}
    with torch.inference_mode():
        for variant in variants:  # again: preparing one can invalidate what was compiled for another
            progress(f"warms up {variant.name}")
            calls[variant.name](problem.inputs[-1])
        for r in range(rounds):
            inputs = problem.inputs[r % len(problem.inputs)]
            for i in range(len(variants)):
                name = variants[(i + r) % len(variants)].name  # no variant always follows the same one
                progress(f"round {r + 1} of {rounds}: {name}")
                times[name][r] = seconds(calls[name], inputs, device)
    rows = [_row(problem, v, variants, times, errors, ceilings, rounds) for v in variants]
    return Measured(rows, failed)


def seconds(call: Call, inputs: Sequence[Tensor], device: torch.device) -> float:
    """The time of one call: events on a GPU, the clock elsewhere."""
    if device.type == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call(inputs)
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3
    begin = time.perf_counter()
    call(inputs)
    return time.perf_counter() - begin


def _prepare(variant: Variant, inputs: Sequence[Tensor]) -> tuple[Call, Tensor]:
    call = variant.build()
    with torch.inference_mode():
        return call, variant.finish(call(inputs), inputs)


def _row(
    problem: Problem,
    variant: Variant,
    variants: Sequence[Variant],
    times: Mapping[str, np.ndarray],
    errors: Mapping[str, float],
    ceilings: Ceilings,
    rounds: int,
) -> Row:
    t = times[variant.name]
    median = float(np.median(t))
    plain = [v.name for v in variants if v.kind == "pytorch"] or [variants[0].name]
    baseline = times[min(plain, key=lambda name: float(np.median(times[name])))]
    floor = variant.work.seconds(ceilings)
    return Row(
        device=ceilings.device,
        op=problem.op,
        shape="x".join(map(str, problem.shape)),
        dtype=str(problem.dtype).removeprefix("torch."),
        backend=variant.name,
        kind=variant.kind,
        median_ms=1e3 * median,
        p20_ms=1e3 * float(np.percentile(t, 20)),
        p80_ms=1e3 * float(np.percentile(t, 80)),
        speedup=float(np.median(baseline / t)),
        against={
            v.name: float(np.median(times[v.name] / t)) for v in variants if v.kind != "ours" and v != variant
        },
        gflops=sum(variant.work.flops.values()) / median / 1e9,
        gbytes=variant.work.bytes / median / 1e9,
        floor_ms=None if floor is None else 1e3 * floor,
        floor_share=None if floor is None else floor / median,
        error=errors[variant.name],
        command=f"{problem.command} --rounds {rounds} --backend {variant.name}",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"
