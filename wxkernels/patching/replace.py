"""patch and unpatch: put our op behind the layers of a running model, and put the originals back."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from torch import Tensor, nn

from wxkernels import backends
from wxkernels.errors import UserError
from wxkernels.patching import hosts
from wxkernels.patching.probe import Errors, ProbeError, probe

log = logging.getLogger("wxkernels")

#: The forward that a class had before `wxkernels.auto` replaced it.
original_forwards: dict[type, Callable[..., Tensor]] = {}


class Replaced(NamedTuple):
    """A layer that runs on our op, and the errors of its probe (None where it was not probed)."""

    name: str
    cls: str
    op: str
    errors: Errors | None


class Skipped(NamedTuple):
    """A layer that was left alone, and why."""

    name: str
    cls: str
    reason: str


class PatchedForward:
    """The `forward` of one patched layer. It holds the layer, so that a copy or pickle binds to its own."""

    def __init__(self, layer: nn.Module, backend: str | None):
        self.layer = layer
        self.backend = backend

    def __call__(self, x: Tensor) -> Tensor:
        with _on(self.backend):
            return hosts.run(self.layer, x)


class Report(AbstractContextManager["Report"]):
    """What `patch` replaced and what it left alone; as a context manager it undoes that patch at exit."""

    def __init__(self) -> None:
        self.replaced: list[Replaced] = []
        self.skipped: list[Skipped] = []
        self._before: list[tuple[nn.Module, PatchedForward | None]] = []

    def __exit__(self, *error: object) -> None:
        for layer, forward in self._before:
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.__dict__["forward"] = forward
        self._before.clear()

    def __str__(self) -> str:
        rows = [("layer", "class", "what became of it", "error", "original's error")]
        for name, cls, op, errors in self.replaced:
            numbers = ("not probed", "") if errors is None else (f"{e:.1e}" for e in errors)
            rows.append((name, cls, f"replaced by {op}", *numbers))
        rows += [(name, cls, f"left alone: {reason}", "", "") for name, cls, reason in self.skipped]
        if len(rows) == 1:
            return "no layer that wxkernels knows was found"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def patch(model: Any, *, backend: str | None = None, probe: bool = True) -> Report:
    """Let every layer of `model` that wxkernels knows run on our op; returns what was replaced and what not.

    A layer is replaced when its class, attributes and parameter shapes are those of a known host (those of
    FourCastNet, ai-models-fourcastnet, physicsnemo, modulus) and, with `probe`, our error against float64 on
    a probe is at most twice its own. Type, parameters, state_dict, hooks and `meta` stay. Copies and pickles
    stay patched; to read such a pickle one needs wxkernels, so `unpatch` before saving for elsewhere.
    Patching again replaces the patch. `model` is a torch.nn.Module, or an object that holds one at `.model`.
    `backend` names one for all calls (torch.compile then breaks its graph at each layer); by default each
    call chooses by its tensors. Raises UserError when `model` holds no module or the named backend cannot run
    here; the model is then as it was.
    """
    network = _network(model)
    report = Report()
    chosen: list[nn.Module] = []
    proofs: dict[tuple[Any, ...], tuple[str | None, Errors | None]] = {}  # layers alike share one
    with _on(backend):
        for name, layer in network.named_modules():
            if not hosts.is_candidate(layer):
                continue
            cls = f"{type(layer).__module__}.{type(layer).__qualname__}"
            reason, errors = _refusal(layer), None
            if reason is None and probe:
                key = hosts.signature(layer)
                if key not in proofs:
                    proofs[key] = _prove(layer)
                reason, errors = proofs[key]
            if reason:
                report.skipped.append(Skipped(name, cls, reason))
            else:
                report.replaced.append(Replaced(name, cls, "spectral_filter", errors))
                chosen.append(layer)
    for layer in chosen:
        report._before.append((layer, layer.__dict__.get("forward")))
        layer.__dict__["forward"] = PatchedForward(layer, backend)
    if not chosen:
        log.warning("patch: nothing was replaced in %s; the report says why", type(network).__qualname__)
    return report


def unpatch(model: Any) -> None:
    """Put the original forward of every patched layer of `model` back; harmless where nothing is patched."""
    for layer in _network(model).modules():
        if isinstance(layer.__dict__.get("forward"), PatchedForward):
            del layer.__dict__["forward"]


def _refusal(layer: nn.Module) -> str | None:
    reason = hosts.refusal(layer)
    if reason is None and not isinstance(layer.__dict__.get("forward"), PatchedForward | None):
        return "its forward was replaced on this very object"
    return reason


def _prove(layer: nn.Module) -> tuple[str | None, Errors | None]:
    """The reason of the probe to leave `layer` alone, or None, and the errors it found."""
    original = original_forwards.get(type(layer), type(layer).forward)
    try:
        errors = probe(layer, original)
    except ProbeError as error:
        return str(error), None
    return errors.refusal(), errors


def _on(backend: str | None) -> AbstractContextManager[None]:
    return nullcontext() if backend is None else backends.use(backend)


def _network(model: Any) -> nn.Module:
    for candidate in (model, getattr(model, "model", None)):
        if isinstance(candidate, nn.Module):
            return candidate
    raise UserError(
        f"model: expected a torch.nn.Module or an object that holds one at .model, got {type(model).__name__}"
    )
