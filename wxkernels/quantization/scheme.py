"""The record of which layer of a network is in which precision, and why."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor

#: From the finest to the coarsest: int8 has up to six bits after the first, e4m3 three.
PRECISIONS = ("fp32", "bf16", "int8", "fp8")
#: The largest hidden value of calibration is this share of e4m3's: a larger one may come, and the bits of
#: what is smaller are the same at any scale.
HEADROOM = 0.25


@dataclass(frozen=True)
class LayerScheme:
    """One layer: "fp32" leaves it as it is, the others round its weights and what they multiply; fp8 is e4m3.

    An MLP's norm n = LN(x) becomes n' = (n - shift) / scale, of which fc1 takes the inverse into its weights
    and bias: shift (C,) is the mean of n, scale (C,) is SmoothQuant's max|n - shift|^a / max|W|^(1 - a) with
    a = smooth, and 1 for a = 0. hidden_scale, hidden_offset: scale and zero point of the int8 hidden layer,
    scale of that in e4m3 (`ops.mlp`). error: its estimated part in the network's error. Sizes in bytes. The
    vectors are not in `to_dict`: a converted network has them in its weights. Sources: Xiao et al. 2023
    (arXiv 2211.10438), Wei et al. 2023 (arXiv 2304.09145) for the shift.
    """

    precision: str
    smooth: float = 0.0
    hidden_scale: float | None = None
    hidden_offset: int = 0
    error: float | None = None
    size_before: int = 0
    size_after: int = 0
    shift: Tensor | None = field(default=None, repr=False, compare=False)
    scale: Tensor | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        names = ("precision", "smooth", "hidden_scale", "hidden_offset", "error", "size_before", "size_after")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises ValueError, KeyError or TypeError for a damaged dict."""
        found = cls(
            precision=_precision(values["precision"]),
            smooth=_number("smooth", values["smooth"]),
            hidden_scale=_optional("hidden_scale", values["hidden_scale"]),
            hidden_offset=int(_number("hidden_offset", values["hidden_offset"])),
            error=_optional("error", values["error"]),
            size_before=int(_number("size_before", values["size_before"])),
            size_after=int(_number("size_after", values["size_after"])),
        )
        if found.hidden_scale is not None and not found.hidden_scale > 0:
            raise ValueError(f"hidden_scale: expected > 0, got {found.hidden_scale}")
        if not -127 <= found.hidden_offset <= 127:
            raise ValueError(f"hidden_offset: expected -127 to 127, got {found.hidden_offset}")
        return found


@dataclass(frozen=True)
class Scheme:
    """All layers of a network by name, such as "blocks.3.mlp", and what was asked for and measured.

    precision: what was asked for. budget, error: the network's (`calibrate`), None where not measured.
    Sizes: of all weights, in bytes. calibration: where the states came from.
    """

    precision: str
    layers: dict[str, LayerScheme]
    budget: float | None = None
    error: float | None = None
    size_before: int = 0
    size_after: int = 0
    calibration: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads back."""
        names = ("precision", "budget", "error", "size_before", "size_after", "calibration")
        layers = {name: layer.to_dict() for name, layer in self.layers.items()}
        return {name: getattr(self, name) for name in names} | {"layers": layers}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises ValueError, KeyError or TypeError for a damaged dict."""
        return cls(
            precision=_precision(values["precision"]),
            layers={name: LayerScheme.from_dict(layer) for name, layer in dict(values["layers"]).items()},
            budget=_optional("budget", values["budget"]),
            error=_optional("error", values["error"]),
            size_before=int(_number("size_before", values["size_before"])),
            size_after=int(_number("size_after", values["size_after"])),
            calibration=dict(values["calibration"]),
        )

    @property
    def saved(self) -> float:
        """The share of the size that is saved, 0 to 1."""
        return 1 - self.size_after / self.size_before if self.size_before else 0.0

    @property
    def kept(self) -> dict[str, str]:
        """Layers whose precision is finer than what the network was asked for gives them, by name."""
        finer = {name: asked(name, self.precision) for name in self.layers}
        return {
            name: layer.precision
            for name, layer in self.layers.items()
            if PRECISIONS.index(layer.precision) < PRECISIONS.index(finer[name])
        }

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any choice in it (not with errors or provenance)."""
        choices = [
            (n, s.precision, s.smooth, s.hidden_scale, s.hidden_offset) for n, s in self.layers.items()
        ]
        return hashlib.sha256(json.dumps(choices).encode()).hexdigest()[:16]


def hidden_code(least: float, largest: float) -> tuple[float, int]:
    """(hidden_scale, hidden_offset) with which int8 holds least <= 0 to largest >= 0, and 0 exactly.

    scale = (largest - least) / 254, offset = round(-127 - least / scale); 1 and 0 where both are 0.
    """
    scale = (largest - least) / 254
    return (scale, round(-127 - least / scale)) if scale > 0 else (1.0, 0)


def hidden_scale_fp8(largest: float) -> float:
    """The scale that takes `largest` >= 0 to HEADROOM of 448; 1 where it is 0."""
    return largest / (HEADROOM * 448) or 1.0


def kind(name: str) -> str:
    """mlp, filter, patch_embed, pos_embed or head."""
    return name.rpartition(".")[2]


def asked(name: str, precision: str) -> str:
    """The precision of layer `name` where the network's is `precision`.

    int8 is for MLPs and positions, fp8 for MLPs: then positions, which nothing multiplies, are int8. The rest
    of both is bf16.
    """
    if precision not in ("int8", "fp8") or kind(name) == "mlp":
        return precision
    return "int8" if kind(name) == "pos_embed" else "bf16"


def _precision(value: Any) -> str:
    if value not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {value!r}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return value


def _optional(name: str, value: Any) -> float | None:
    return None if value is None else _number(name, value)
