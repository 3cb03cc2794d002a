"""The time of a network's step by part: embedding, filter, MLP, head, and what is left."""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils._python_dispatch import TorchDispatchMode

from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.engine import Call, Progress, Size, Work, option
from wxkernels.bench.results import Part
from wxkernels.io.files import whole_file

#: What lies between the named parts.
OTHER = "other"


class Clock:
    """Adds up seconds by part; waits for a GPU at both ends."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts for the part `name`, which is also a range of a trace."""
        with record_function(name):
            begin = self.now()
            yield
            self.seconds[name] += self.now() - begin


class OpClock(TorchDispatchMode):
    """Times torch operators that `parts` gives a part for, by their names."""

    def __init__(self, clock: Clock, parts: Mapping[str, str]):
        super().__init__()
        self.clock, self.parts = clock, parts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        part = self.parts.get(func.name().partition(".")[0])
        with self.clock.part(part) if part else ExitStack():
            return func(*args, **(kwargs or {}))


@contextmanager
def module_clock(clock: Clock, parts: Mapping[str, Sequence[nn.Module]]) -> Iterator[None]:
    """Times the forwards of modules, by part."""
    open_parts: dict[nn.Module, AbstractContextManager[None]] = {}
    handles = []
    for part, modules in parts.items():
        for module in modules:

            def enter(module: nn.Module, args: Any, part: str = part) -> None:
                open_parts[module] = clock.part(part)
                open_parts[module].__enter__()

            def leave(module: nn.Module, args: Any, output: Any) -> None:
                open_parts.pop(module).__exit__(None, None, None)

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
    kind: str  # "ours", "pytorch" or "peer"
    call: Call
    clock: Callable[[Clock], AbstractContextManager[Any]]
    work: Mapping[str, Work]


@dataclass(frozen=True)
class Network:
    """A network to take apart, at one size; `shape` is that of its input, with the batch."""

    case: str
    op: str
    size: Size
    shape: tuple[int, ...]
    inputs: Sequence[Tensor]
    variants: Sequence[Profiled]


def measure_parts(
    network: Network, ceilings: Ceilings, *, rounds: int, progress: Progress = lambda text: None
) -> list[Part]:
    """The parts of each variant, timed in the same interleaved rounds."""
    variants = network.variants
    times: dict[str, dict[str, list[float]]] = {v.name: defaultdict(list) for v in variants}
    for variant in variants:
        progress(f"warms up {variant.name}")
        _step(network, variant)
    for r in range(rounds):
        for i in range(len(variants)):
            variant = variants[(i + r) % len(variants)]
            progress(f"round {r + 1} of {rounds}: {variant.name}")
            for part, seconds in _step(network, variant).items():
                times[variant.name][part].append(seconds)
    return [part for v in variants for part in _parts(network, v, times[v.name], ceilings, rounds)]


def write_trace(network: Network, path: str | Path) -> None:
    """A step of each variant, one after another, as a Chrome trace: JSON for chrome://tracing or Perfetto."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it writes lines of its own to stderr
    activities = [torch.profiler.ProfilerActivity.CPU]
    if network.size.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for variant in network.variants:
            with record_function(variant.name):
                _step(network, variant)
    with whole_file(path) as partial:
        profiler.export_chrome_trace(str(partial))


def _step(network: Network, variant: Profiled) -> dict[str, float]:
    """Seconds of the parts of one step."""
    clock = Clock(network.size.device)
    with torch.inference_mode(), variant.clock(clock):
        begin = clock.now()
        variant.call(network.inputs)
        whole = clock.now() - begin
    found = {part: clock.seconds[part] for part in variant.work}
    return {**found, OTHER: whole - sum(found.values())}


def _parts(
    network: Network,
    variant: Profiled,
    times: Mapping[str, Sequence[float]],
    ceilings: Ceilings,
    rounds: int,
) -> Iterator[Part]:
    medians = {part: float(np.median(t)) for part, t in times.items()}
    chosen = option(variant.name, variant.kind)
    command = f"wxkernels-bench profile {network.case} {network.size.options()} --rounds {rounds} {chosen}"
    for part, median in medians.items():
        p20, p80 = np.percentile(times[part], (20, 80))
        floor = variant.work[part].seconds(ceilings) if part in variant.work else None
        yield Part(
            case=network.case,
            model=network.size.model,
            op=network.op,
            shape="x".join(map(str, network.shape)),
            batch=network.size.batch,
            backend=variant.name,
            part=part,
            median_ms=1e3 * median,
            share=median / sum(medians.values()),
            floor_ms=None if floor is None else 1e3 * floor,
            floor_share=None if floor is None or not median else floor / median,
            command=command,
            p20_ms=1e3 * float(p20),
            p80_ms=1e3 * float(p80),
        )
