"""The tables of the report: their columns, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeGuard

from wxkernels.bench.drawing import three
from wxkernels.bench.results import Row


@dataclass(frozen=True)
class Column:
    """`text` writes the cell of a row; `value` is what a column of numbers is sorted by, None: words."""

    head: str
    text: Callable[[Any], str]
    value: Callable[[Any], float | None] | None = None
    kind: Callable[[Any], str] | None = None  # of the variant that the column names


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Any]


def number(value: float | None) -> str:
    """Three digits, and all that are before the point: 2.94, 10.0, 18750."""
    if not _sound(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else three(value)


def ratio(value: float | None) -> str:
    """2.73, 328."""
    return f"{value:.{0 if abs(value) >= 100 else 2}f}" if _sound(value) else ""


def percent(value: float | None) -> str:
    return f"{100 * value:.0f}" if _sound(value) else ""


def megabytes(value: float | None) -> str:
    return f"{value / 1e6:.1f}" if _sound(value) else ""


def duration(value_ms: float) -> str:
    """2.94 s."""
    return f"{number(value_ms / 1e3)} s" if value_ms >= 1e3 else f"{number(value_ms)} ms"


def exponent(value: float | None) -> str:
    """2.9e-3; an exact result is 0."""
    if not value or not _sound(value):
        return "0" if value == 0 else ""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


def interval(row: Row) -> str:
    return " to ".join(ratio(end) for end in (row.speedup_low, row.speedup_high) if end is not None)


def notes(row: Row) -> str:
    several = f"{row.processes} processes", row.processes > 1
    found = ("noisy", row.noisy), ("warm", not row.cold), several
    return ", ".join(note for note, holds in found if holds)


def against(rows: Sequence[Row]) -> Table:
    """How much faster ours are than each of the others at the same size, a column each of ours."""
    ours = [row for row in rows if row.kind == "ours"]
    own = {(*row.problem, row.backend): row.against for row in ours}

    def speed(name: str) -> Callable[[Row], float | None]:
        return lambda row: own.get((*row.problem, name), {}).get(row.backend)

    names = dict.fromkeys(row.backend for row in ours)
    speeds = [_numbers(f"{name}, x", speed(name), ratio) for name in names]
    return Table((*PLACE, *speeds), [row for row in rows if row.kind != "ours"])


def _numbers(head: str, value: str | Callable[[Any], Any], write: Callable[[Any], str]) -> Column:
    get = attrgetter(value) if isinstance(value, str) else value
    return Column(head, lambda row: write(get(row)), get)


def _words(head: str, value: str) -> Column:
    get = attrgetter(value)
    return Column(head, lambda row: str(get(row)))


def _sound(value: Any) -> TypeGuard[float]:
    """A number that can be written, not None, NaN or beyond all measure: results come from files."""
    return isinstance(value, int | float) and abs(value) < 1e15


SIZE = (_words("op", "op"), _words("shape", "shape"), _numbers("batch", "batch", str))
VARIANT = Column("variant", attrgetter("backend"), kind=attrgetter("kind"))
PLACE = (VARIANT, *SIZE[1:], _words("dtype", "dtype"))
TIMES = (
    *PLACE,
    _words("precision", "precision"),
    _numbers("median, ms", "median_ms", number),
    _numbers("p20, ms", "p20_ms", number),
    _numbers("p80, ms", "p80_ms", number),
    _numbers("speed, x", "speedup", ratio),
    Column("interval, x", interval, attrgetter("speedup_low")),
    _numbers("Gop/s", "gflops", number),
    _numbers("GB/s", "gbytes", number),
    _numbers("floor, ms", "floor_ms", number),
    _numbers("of floor, %", "floor_share", percent),
    _numbers("error", "error", exponent),
    Column("notes", notes),
)
PARTS = (
    *SIZE,
    _words("variant", "backend"),
    _words("part", "part"),
    _numbers("median, ms", "median_ms", number),
    _numbers("p20, ms", "p20_ms", number),
    _numbers("p80, ms", "p80_ms", number),
    _numbers("of the step, %", "share", percent),
    _numbers("floor, ms", "floor_ms", number),
    _numbers("of floor, %", "floor_share", percent),
)
MEMORY = (
    *SIZE,
    _words("variant", "backend"),
    _words("measured", "kind"),
    _numbers("file, MB", "file", megabytes),
    _numbers("parameters, MB", "parameters", megabytes),
    _numbers("start, MB", "start", megabytes),
    _numbers("ready, MB", "ready", megabytes),
    _numbers("peak, MB", "peak", megabytes),
)
FAILED = (_words("op", "op"), _words("variant", "backend"), _words("why it did not run", "reason"))
#: Of claims.
GLANCE = (
    _words("case", "ours.case"),
    _words("shape", "ours.shape"),
    _numbers("speed, x", "ours.speedup", ratio),
    _numbers("batch", "ours.batch", str),
    _words("dtype", "ours.dtype"),
    Column("fastest of ours", attrgetter("ours.backend"), kind=attrgetter("ours.kind")),
    _numbers("ms", "ours.median_ms", number),
    _numbers("error", "ours.error", exponent),
    Column("fastest PyTorch", attrgetter("pytorch.backend"), kind=attrgetter("pytorch.kind")),
    _numbers("ms", "pytorch.median_ms", number),
    _numbers("error", "pytorch.error", exponent),
    Column(
        "interval, x",
        lambda claim: interval(claim.ours) + claim.noisy * ", noisy",
        attrgetter("ours.speedup_low"),
    ),
    _numbers("of floor, %", "ours.floor_share", percent),
)
