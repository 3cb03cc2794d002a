"""Which layer gets which precision: the search against a budget of error."""

import logging
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from wxkernels.quantization.conversion import blocks_of, layer_names
from wxkernels.quantization.measurement import Measurement, nbytes
from wxkernels.quantization.scheme import PRECISIONS, Scheme, asked, kind

log = logging.getLogger("wxkernels")

#: Of the network's error: so that the shipped forecast keeps its skill (docs/precision.md).
BUDGETS = {"bf16": 0.003, "int8": 0.03, "fp8": 0.03}


@torch.no_grad()
def calibrate(
    network: nn.Module,
    states: Sequence[Tensor],
    *,
    precision: str,
    overrides: Mapping[str, str] | None = None,
    budget: float | None = None,
    persistent: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Scheme:
    """The scheme in which a step of `network` differs from what it is by no more than `budget`.

    error = RMS(f_q(x) - f(x)) / RMS(f(x) - x) over all states and points, of the worst variable. x counts for
    the first `persistent` channels: by default all if f has as many outputs as inputs, else none. Where all
    results are inputs, an error that is the same from every state counts for STEPS steps, in which it adds up
    while one that is random falls behind (`measurement`); of a single state the next is taken too.
    Every layer starts at `precision` ("fp32", "bf16"; "int8": MLPs and positions, the rest bf16; "fp8": MLPs,
    positions int8, the rest bf16), or at that of the first pattern in `overrides` that fits its name, such as
    {"blocks.0.*": "bf16"}, which it keeps. The layers with the largest errors of their own move to the next
    finer precision (fp8, int8, bf16, fp32) until the error is within the budget (by default BUDGETS). An int8
    MLP has SmoothQuant where that makes its error smaller, and its hidden layer reaches from its least to its
    largest value.

    network: ours or another package's, floating, with AFNO blocks (`convert_block`); it is left as it is.
    states: normalised inputs (B, C, H, W), a few; without any nothing is measured, and int8 and fp8 MLPs are
    refused.
    provenance: kept in the scheme. Raises ValueError for a network without blocks, or whose results are not
    finite, states that are not finite, a budget that is not finite and above 0, unknown precisions and
    patterns that fit no layer.
    """
    names = layer_names(network)
    if not blocks_of(network):
        raise ValueError(f"network: expected AFNO blocks, found none in {type(network).__name__}")
    choice, fixed = _start(names, precision, overrides or {})
    for x in states:
        if x.dim() != 4 or not x.is_floating_point() or not x.isfinite().all():
            raise ValueError(f"states: expected finite numbers (B, C, H, W), got {x.dtype} {tuple(x.shape)}")
    if not len(states) and any(kind(name) == "mlp" and choice[name] in ("int8", "fp8") for name in names):
        raise ValueError(f"states: expected at least one to calibrate {precision} on, got none")
    budget = BUDGETS.get(precision) if budget is None else budget
    if budget is not None and not 0 < budget < math.inf:
        raise ValueError(f"budget: expected a finite number above 0, got {budget}")
    measured = Measurement(network, states, persistent=persistent)
    error = None
    if len(states):
        choice, error = _search(measured, choice, fixed, budget)
    layers = {name: measured.layer(name, choice[name]) for name in names}
    before = nbytes(network)
    return Scheme(
        precision=precision,
        layers=layers,
        budget=budget,
        error=error,
        size_before=before,
        size_after=before + sum(layer.size_after - layer.size_before for layer in layers.values()),
        calibration=dict(provenance or {}),
    )


def _start(
    names: Sequence[str], precision: str, overrides: Mapping[str, str]
) -> tuple[dict[str, str], frozenset[str]]:
    """The precision of each layer to begin with, and the layers for which a pattern has decided it."""
    for what, value in (("precision", precision), *((f"overrides[{p!r}]", v) for p, v in overrides.items())):
        if value not in PRECISIONS:
            raise ValueError(f"{what}: expected one of {', '.join(PRECISIONS)}, got {value!r}")
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"overrides: {pattern!r} fits none of the layers {', '.join(names)}")
    patterns = {name: next((p for p in overrides if fnmatchcase(name, p)), None) for name in names}
    choice = {n: asked(n, precision if p is None else overrides[p]) for n, p in patterns.items()}
    return choice, frozenset(name for name, pattern in patterns.items() if pattern is not None)


def _search(
    measured: Measurement, choice: dict[str, str], fixed: frozenset[str], budget: float | None
) -> tuple[dict[str, str], float]:
    """A choice within the budget, and its error.

    The squares of the layers' errors add up to about that of the network. So many of the worst layers move
    that it is within the budget; then it is measured, and where it is not, more move by as much as it lacks.
    """
    if budget is None:
        return choice, measured.error(choice)
    choice = dict(choice)
    squares = {name: _square(measured, name, precision) for name, precision in choice.items()}
    movable = {name for name in choice if name not in fixed and choice[name] != "fp32"}
    goal, least = budget, 0
    while True:
        moves = 0
        while movable and (moves < least or math.sqrt(sum(squares.values())) > goal):
            worst = max(sorted(movable), key=squares.__getitem__)
            choice[worst] = PRECISIONS[PRECISIONS.index(choice[worst]) - 1]
            squares[worst] = _square(measured, worst, choice[worst])
            moves += 1
            if choice[worst] == "fp32":
                movable.remove(worst)
        error = measured.error(choice)
        log.info("quantization: error %.5f, budget %.5f", error, budget)
        if error <= budget or not movable:
            return choice, error
        goal, least = math.sqrt(sum(squares.values())) * budget / error, 1


def _square(measured: Measurement, name: str, precision: str) -> float:
    return (measured.layer(name, precision).error or 0.0) ** 2
