"""What a case declares, and what the cases share."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wxkernels import backends as choice
from wxkernels.bench.engine import Call, Problem
from wxkernels.bench.machine import Ceilings
from wxkernels.bench.memory import Footprint
from wxkernels.bench.profile import Part

#: Is told what goes on.
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """What a problem is made of: the batch, a shape of the case, the dtype of its input, where it runs."""

    batch: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def command(self, case: str) -> str:
        """The command line that measures `case` at this size."""
        dtype = "" if self.dtype == torch.float32 else f" --dtype {dtype_name(self.dtype)}"
        device = "" if self.device.type == "cpu" else f" --device {self.device}"
        return (
            f"wxkernels-bench {case} --shape {'x'.join(map(str, self.shape))} --batch {self.batch}{dtype}"
            f"{device} --threads {torch.get_num_threads()}"
        )


@dataclass(frozen=True)
class Case:
    """`problem` builds one of `shapes`, which go without the batch and by names "model" or "model:layer".

    `backends` gives None for a variant that runs on a device, else the reason why it does not; `baselines`
    run with whatever variant is asked for. A case of a whole network also measures the `profile` of a step,
    for the variants in `profiled`, and its `memory`.
    """

    name: str
    summary: str
    axes: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Sequence[torch.dtype]
    backends: Callable[[torch.device], dict[str, str | None]]
    problem: Callable[[Size, Sequence[str]], Problem]
    baselines: Sequence[str] = ("eager", "compiled")
    rounds: int = 15
    profile: Callable[[Size, Sequence[str], Ceilings, int, Progress], list[Part]] | None = None
    profiled: Sequence[str] = ()
    memory: Callable[[Size, Progress], list[Footprint]] | None = None


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def implementations(op: choice.Op, *probe: Tensor | None) -> dict[str, str | None]:
    """The backends of an op but its reference: None for one that takes tensors like `probe`, or why not."""
    return {
        name: implementation.unavailable() or implementation.unsupported(*probe)
        for name, implementation in op.implementations.items()
        if name != "reference"
    }


def on_backend(name: str, call: Callable[..., Any]) -> Call:
    """`call(*tensors)` on one backend of our ops."""

    def run(tensors: Sequence[Tensor]) -> Any:
        with choice.use(name):
            return call(*tensors)

    return run


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile(function), sharing no compiled code with other variants.

    PyTorch keeps what it compiled by code object and takes any of it whose guards hold, so that a network
    compiled with other settings would run in the place of this one.
    """

    def own(*tensors: Tensor) -> Any:
        return function(*tensors)

    own.__code__ = own.__code__.replace()  # a copy
    return torch.compile(own, dynamic=False, fullgraph=True)


def absent(*modules: str) -> str | None:
    """Why a peer that needs these modules is not here; None where it is."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"{', '.join(missing)} is not installed: pip install -c constraints.txt '.[bench]'"
