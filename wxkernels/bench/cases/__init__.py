"""The cases by name. A case declares its shapes, its inputs, its exact result, its work and its variants."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from wxkernels.bench.cases import fourcastnet, spectral_filter
from wxkernels.bench.engine import Problem


@dataclass(frozen=True)
class Case:
    """`shapes` by the name of the model they come from, without the batch; `problem` builds one of them."""

    name: str
    summary: str
    axes: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Sequence[torch.dtype]
    backends: Callable[[torch.device], dict[str, str | None]]  # name -> None, or why not here
    problem: Callable[[int, tuple[int, ...], torch.dtype, torch.device, Sequence[str]], Problem]


CASES = {
    "spectral_filter": Case(
        "spectral_filter",
        "the AFNO token mixer with its residual",
        spectral_filter.AXES,
        spectral_filter.SHAPES,
        spectral_filter.DTYPES,
        spectral_filter.backends,
        spectral_filter.problem,
    ),
    "fourcastnet": Case(
        "fourcastnet",
        "one step of the published network, patched",
        fourcastnet.AXES,
        fourcastnet.SHAPES,
        fourcastnet.DTYPES,
        fourcastnet.backends,
        fourcastnet.problem,
    ),
}
