"""What a case declares, and what the cases share."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wxkernels import backends as choice
from wxkernels.bench.engine import Call, Problem, Progress, Size
from wxkernels.bench.profile import Network
from wxkernels.bench.results import Footprint

#: Variants by name: None for one that runs on a device, else the reason why it does not.
Here = dict[str, str | None]


@dataclass(frozen=True)
class Case:
    """`problem` builds one of `shapes`, which go without the batch and by names "model" or "model:layer".

    `ours` and `peers` are its variants on a device; `baselines` are the peers that run when none is asked
    for. A case of a whole network has a `network` to take apart, for the variants in `profiled`, and its own
    `memory`: that of ours read from a checkpoint.
    """

    name: str
    summary: str
    axes: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Sequence[torch.dtype]
    ours: Callable[[torch.device], Here]
    peers: Callable[[torch.device], Here]
    problem: Callable[[Size, Sequence[str]], Problem]
    baselines: Sequence[str] = ("eager", "compiled")
    rounds: int = 15
    network: Callable[[Size, Sequence[str]], Network] | None = None
    profiled: Sequence[str] = ()
    memory: Callable[[Size, Sequence[str], Progress], list[Footprint]] | None = None


def implementations(op: choice.Op, *probe: Tensor | None) -> Here:
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


def split(name: str) -> tuple[str, str]:
    """What runs and its precision, of "native-bf16" or "eager-bf16"; fp32 where the name has none."""
    how, _, precision = name.partition("-")
    return how, precision or "fp32"


def all_in(dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
    """An input set with its weights in `dtype`."""
    return [tensor.to(dtype) for tensor in tensors]


def absent(*modules: str, fix: str = "pip install -c constraints.txt '.[bench]'") -> str | None:
    """Why a peer that needs these modules is not here; None where it is."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} is not installed: {fix}" if missing else None
