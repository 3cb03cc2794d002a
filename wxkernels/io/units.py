"""Units: those that a file states are converted, those that its numbers contradict are an error."""

from __future__ import annotations

import re

import numpy as np

from wxkernels.errors import UserError
from wxkernels.io.lexicon import GRAVITY, VARIABLES

# SI units of the lexicon: {other spelling: (scale, offset)}, SI = value * scale + offset
_SAME = (1.0, 0.0)
_TO_SI: dict[str, dict[str, tuple[float, float]]] = {
    "K": {"k": _SAME, "kelvin": _SAME, "degk": _SAME}
    | dict.fromkeys(
        ["degc", "c", "°c", "celsius", "deg_c", "degrees_celsius", "degree_celsius"], (1.0, 273.15)
    ),
    "Pa": {"pa": _SAME, "pascal": _SAME, "pascals": _SAME, "n m-2": _SAME, "kpa": (1e3, 0.0)}
    | dict.fromkeys(["hpa", "mb", "mbar", "millibar", "millibars"], (100.0, 0.0)),
    "m2 s-2": {"m2 s-2": _SAME, "j kg-1": _SAME, "dam": (10 * GRAVITY, 0.0)}
    | dict.fromkeys(["gpm", "m", "metre", "metres", "meter", "meters"], (GRAVITY, 0.0)),
    "%": {"%": _SAME, "percent": _SAME, "1": (100.0, 0.0), "(0 - 1)": (100.0, 0.0), "fraction": (100.0, 0.0)},
    "m": {"m": _SAME, "metre": _SAME, "meter": _SAME, "metres": _SAME, "meters": _SAME, "gpm": _SAME}
    | {"m of water equivalent": _SAME, "mm": (1e-3, 0.0), "kg m-2": (1e-3, 0.0), "cm": (1e-2, 0.0)},
    "kg kg-1": {"kg kg-1": _SAME, "1": _SAME, "g kg-1": (1e-3, 0.0)},
    "m s-1": {"m s-1": _SAME, "km h-1": (1 / 3.6, 0.0), "kt": (0.514444, 0.0), "knots": (0.514444, 0.0)},
    "Pa s-1": {"pa s-1": _SAME, "hpa s-1": (100.0, 0.0)},
    "kg m-2": {"kg m-2": _SAME, "mm": _SAME},
    "1": {"1": _SAME, "(0 - 1)": _SAME, "fraction": _SAME, "%": (1e-2, 0.0)},
}
_KNOWN = {spelling for spellings in _TO_SI.values() for spelling in spellings}


def to_si(units: str, name: str, where: str) -> tuple[float, float]:
    """Scale and offset that bring variable `name` from the units that a file states to SI.

    No units, or a spelling that nobody here knows, count as SI: the values are checked against their range
    all the same. UserError: known units of another quantity.
    """
    spelling = re.sub(
        r"\s*/\s*(\w+?)(\d*)$", r" \1-\g<2>", units.strip().replace("**", "").replace("^", "")
    ).lower()
    spelling = re.sub(r"-$", "-1", re.sub(r"\s+", " ", spelling))
    expected = VARIABLES[name].units
    found = _TO_SI[expected].get(spelling)
    if found is None and spelling in _KNOWN:
        raise UserError(
            f"{where}: {name} has units '{units}', expected '{expected}'; correct its attribute units"
        )
    return found or _SAME


def check_range(values: np.ndarray, name: str, where: str) -> None:
    """UserError where finite `values` of variable `name` cannot be in SI units; it names what would fit."""
    meaning = VARIABLES[name]
    lowest, highest = float(values.min()), float(values.max())
    within = meaning.lowest <= lowest and highest <= meaning.highest
    if within and not _is_fraction(values, name):
        return
    message = f"{where}: {name} runs from {lowest:g} to {highest:g}, which cannot be {meaning.units}"
    for spelling, (scale, offset) in _TO_SI[meaning.units].items():
        fits = meaning.lowest <= lowest * scale + offset and highest * scale + offset <= meaning.highest
        if (scale, offset) != _SAME and fits:
            change = f"multiply by {scale:g}" if scale != 1 else f"add {offset:g}"
            raise UserError(f"{message}; it looks like '{spelling}': {change}, or set its attribute units")
    raise UserError(
        f"{message} ({meaning.lowest:g} to {meaning.highest:g}); check the variable and its fill value"
    )


def _is_fraction(values: np.ndarray, name: str) -> bool:
    """Whether a relative humidity (%) runs from 0 to 1: below 1.5 over an area of the troposphere."""
    if VARIABLES[name].standard_name != "relative_humidity":
        return False
    return int(name[1:]) >= 300 and values.size >= 100 and bool(0 < values.max() <= 1.5)
