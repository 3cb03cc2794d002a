"""What a patch did, for people and for programs."""

from contextlib import AbstractContextManager
from typing import NamedTuple

from torch import nn

from wxkernels.patching.forward import Forward
from wxkernels.patching.probe import Errors


class Replaced(NamedTuple):
    """A module that runs on our ops, and the errors of its probe (None where it was not probed).

    precisions: of its layers, by name: "same" (that of its parameters), "bf16", "int8" or "fp8".
    """

    name: str
    cls: str
    op: str
    precisions: dict[str, str]
    errors: Errors | None


class Skipped(NamedTuple):
    """A module that was left alone, and why."""

    name: str
    cls: str
    reason: str


class Report(AbstractContextManager["Report"]):
    """What `patch` replaced and what it left alone; as a context manager it undoes that patch at exit.

    A filter inside a replaced block runs in it and has no row. size_before, size_after: bytes of all weights
    of the model as given, and in the precisions that run. error: of a step against the model as given, over
    the change in it, where it was measured on calibration inputs (`quantization.calibrate`). capture: what of
    the calls is captured or why nothing is, None where that was not asked for.
    """

    def __init__(self) -> None:
        self.replaced: list[Replaced] = []
        self.skipped: list[Skipped] = []
        self.size_before = self.size_after = 0
        self.error: float | None = None
        self.capture: str | None = None
        self.before: list[tuple[nn.Module, Forward | None]] = []  # modules, and what patched them

    def __exit__(self, *error: object) -> None:
        for module, forward in self.before:
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
        self.before.clear()

    def __str__(self) -> str:
        rows = [("layer", "class", "what became of it", "precision", "error", "original's error")]
        for name, cls, op, precisions, errors in self.replaced:
            numbers = ("not probed", "")
            if errors is not None:
                shown = errors.ours if errors.rounded is None else errors.rounded
                numbers = (f"{shown:.1e}", f"{errors.original:.1e}")
            rows.append((name or "(model)", cls, f"replaced by {op}", _text(name, precisions), *numbers))
        rows += [
            (name or "(model)", cls, f"left alone: {why}", "", "", "") for name, cls, why in self.skipped
        ]
        calls = [] if self.capture is None else [f"calls: {self.capture}"]
        if len(rows) == 1:
            return "\n".join(["no layer that wxkernels knows was found", *calls])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, self._weights(), *calls])

    def _weights(self) -> str:
        line = f"weights: {self.size_before / 2**20:.2f} MiB as given"
        if self.size_after != self.size_before:
            saved = 1 - self.size_after / self.size_before
            line += f", {self.size_after / 2**20:.2f} MiB in these precisions ({saved:.0%} less)"
        if self.error is not None:
            line += f"; steps from the calibration inputs are off by {self.error:.2%} of their change"
        return line


def _text(name: str, precisions: dict[str, str]) -> str:
    """ "bf16", or "filter bf16, mlp int8"."""
    if len(values := set(precisions.values())) == 1:
        return values.pop()
    return ", ".join(f"{layer.rpartition('.')[2]} {value}" for layer, value in precisions.items())
