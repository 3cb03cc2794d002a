"""The time of a network's step by part: embedding, filter, MLP, head, and what is left."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wxkernels.bench.engine import Call, Work
from wxkernels.bench.machine import Ceilings

#: What lies between the named parts.
OTHER = "other"


class Clock:
    """Seconds by part, added up between `start` and `stop`; waits for a GPU at both ends."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class OpClock(TorchDispatchMode):
    """Adds up the time of torch operators that `parts` gives a part for, by their names."""

    def __init__(self, clock: Clock, parts: Mapping[str, str]):
        super().__init__()
        self.clock, self.parts = clock, parts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        part = self.parts.get(func.name().partition(".")[0])
        if part is None:
            return func(*args, **(kwargs or {}))
        begin = self.clock.now()
        result = func(*args, **(kwargs or {}))
        self.clock.seconds[part] += self.clock.now() - begin
        return result


@contextmanager
def module_clock(clock: Clock, parts: Mapping[str, Sequence[nn.Module]]) -> Iterator[None]:
    """Adds up the time of the forwards of modules, by part."""
    begun: dict[nn.Module, float] = {}
    handles = []
    for part, modules in parts.items():
        for module in modules:

            def enter(module: nn.Module, args: Any) -> None:
                begun[module] = clock.now()

            def leave(module: nn.Module, args: Any, output: Any, part: str = part) -> None:
                clock.seconds[part] += clock.now() - begun.pop(module)

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Profiled:
    """A variant of a network, what times its parts, and the least work of each."""

    name: str
    call: Call
    clock: Callable[[Clock], AbstractContextManager[Any]]
    work: Mapping[str, Work]


@dataclass(frozen=True)
class Part:
    """One part of a step of one variant: medians over rounds, ms. `floor_ms` None: nothing need be done."""

    op: str
    shape: str
    backend: str
    part: str
    median_ms: float
    share: float  # of the step
    floor_ms: float | None
    floor_share: float | None
    command: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_parts(
    op: str,
    shape: Sequence[int],
    variants: Sequence[Profiled],
    inputs: Sequence[Any],
    ceilings: Ceilings,
    *,
    rounds: int,
    device: torch.device,
    command: str,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Part]:
    """The parts of each variant, timed in the same interleaved rounds after one step to warm up."""
    times: dict[str, dict[str, list[float]]] = {v.name: defaultdict(list) for v in variants}
    for r in range(rounds + 1):
        for i in range(len(variants)):
            variant = variants[(i + r) % len(variants)]
            progress(f"round {r} of {rounds}: {variant.name}")
            clock = Clock(device)
            with torch.inference_mode(), variant.clock(clock):
                begin = clock.now()
                variant.call(inputs)
                whole = clock.now() - begin
            if r:
                for part in variant.work:
                    times[variant.name][part].append(clock.seconds[part])
                times[variant.name][OTHER].append(whole - sum(clock.seconds.values()))
    found = []
    for variant in variants:
        medians = {part: float(np.median(t)) for part, t in times[variant.name].items()}
        for part, median in medians.items():
            floor = variant.work[part].seconds(ceilings) if part in variant.work else None
            found.append(
                Part(
                    op=op,
                    shape="x".join(map(str, shape)),
                    backend=variant.name,
                    part=part,
                    median_ms=1e3 * median,
                    share=median / sum(medians.values()),
                    floor_ms=None if floor is None else 1e3 * floor,
                    floor_share=None if floor is None or not median else floor / median,
                    command=f"{command} --rounds {rounds} --backend {variant.name}",
                )
            )
    return found
