"""Measure the variants of a problem side by side: interleaved rounds, medians, error beside speed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wxkernels.bench.machine import Ceilings

#: A call on one of several input sets; rotating them keeps a variant from finding its input in the cache.
Call = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to compute a problem: `call` on a set of inputs, or the reason why it cannot run here."""

    name: str
    call: Call | None
    reason: str | None = None
    plain: bool = False  # a PyTorch peer: the fastest of these is the baseline


@dataclass(frozen=True)
class Problem:
    """A case at one shape and dtype. `flops` and `bytes` are the least that any implementation must do."""

    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    inputs: Sequence[Sequence[Tensor]]
    exact: Callable[[Sequence[Tensor]], Tensor]  # float64
    variants: Sequence[Variant]
    flops: float
    bytes: float
    command: str


@dataclass(frozen=True)
class Row:
    """One line of the table. Times in ms; error is the largest absolute error over the largest |exact|."""

    device: str
    op: str
    shape: str
    dtype: str
    backend: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    speedup: float  # median over rounds of the time of the fastest PyTorch variant over this one's
    gflops: float
    gbytes: float
    floor_share: float | None
    error: float
    command: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(problem: Problem, ceilings: Ceilings, *, rounds: int, device: torch.device) -> list[Row]:
    """A row for each variant that can run, all timed in the same interleaved rounds."""
    variants = [v for v in problem.variants if v.call is not None]
    errors = {}
    with torch.inference_mode():
        exact = problem.exact(problem.inputs[0])
        scale = exact.abs().max().item() or 1.0
        for variant in variants:
            found = _call(variant)(problem.inputs[0])  # also the warm-up: compilation, caches, scratch memory
            errors[variant.name] = (found.to(exact) - exact).abs().max().item() / scale
            _call(variant)(problem.inputs[-1])
        del exact, found
        times = {v.name: np.empty(rounds) for v in variants}
        for r in range(rounds):
            inputs = problem.inputs[r % len(problem.inputs)]
            for i in range(len(variants)):
                variant = variants[(i + r) % len(variants)]  # no variant always follows the same one
                times[variant.name][r] = _seconds(_call(variant), inputs, device)
    plain = [v.name for v in variants if v.plain] or [variants[0].name]
    baseline = times[min(plain, key=lambda name: float(np.median(times[name])))]
    floor = ceilings.floor_seconds(problem.flops, problem.bytes, problem.dtype)
    rows = []
    for variant in variants:
        t = times[variant.name]
        median = float(np.median(t))
        rows.append(
            Row(
                device=ceilings.device,
                op=problem.op,
                shape="x".join(map(str, problem.shape)),
                dtype=str(problem.dtype).removeprefix("torch."),
                backend=variant.name,
                median_ms=1e3 * median,
                p20_ms=1e3 * float(np.percentile(t, 20)),
                p80_ms=1e3 * float(np.percentile(t, 80)),
                speedup=float(np.median(baseline / t)),
                gflops=problem.flops / median / 1e9,
                gbytes=problem.bytes / median / 1e9,
                floor_share=None if floor is None else floor / median,
                error=errors[variant.name],
                command=f"{problem.command} --backend {variant.name}",
            )
        )
    return rows


def _call(variant: Variant) -> Call:
    assert variant.call is not None
    return variant.call


def _seconds(call: Call, inputs: Sequence[Tensor], device: torch.device) -> float:
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
