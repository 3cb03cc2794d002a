"""What the pictures of a benchmark share: colours, axes, names beside points, legends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wxkernels.bench.results import Row
from wxkernels.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import FigureBase

# Okabe and Ito's colours, told apart with every kind of colour vision.
INK, PAPER, FAINT = "#000000", "#FFFFFF", "#999999"
COLOURS = {"ours": "#0072B2", "pytorch": "#D55E00", "peer": "#808080"}
PARTS = ("#F0E442", "#56B4E9", "#009E73", "#CC79A7", "#BBBBBB")
_MARKERS = {"ours": "o", "pytorch": "s", "peer": "D"}
_NAMES = {"ours": "wxkernels", "pytorch": "PyTorch", "peer": "other peers"}

WIDTH = 5.2  # inches: the text of a picture as wide as a phone stays readable
FONT = 10.0  # points
STYLE = {
    "font.size": FONT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 11,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.0,
    "legend.handletextpad": 0.5,
    "text.parse_math": False,  # names come from files
}
_LINE = 1.35 * FONT / 72  # inches from a line of text to the next
_MARGIN = 1.15  # inches that title, ticks, label and legend take from a picture's height


def require_matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise UserError("pictures need matplotlib: pip install 'wxkernels[plot]'") from None
    return matplotlib


def require_format(path: Path) -> str:
    """The kind of picture by the name of its file, PNG without one. UserError: none that can be drawn."""
    require_matplotlib()
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    kind = path.suffix[1:].lower() or "png"
    if kind not in known:
        raise UserError(f"cannot draw {path}: {kind!r} is no kind of picture; use {', '.join(sorted(known))}")
    return kind


def kind(row: Row) -> str:
    return row.kind if row.kind in COLOURS else "peer"


def marker(row: Row) -> dict[str, Any]:
    """How a point of this row looks."""
    return {
        "linestyle": "",
        "color": COLOURS[kind(row)],
        "marker": _MARKERS[kind(row)],
        "markersize": 5,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.5,
    }


def text_beside(ax: Axes, x: float, y: float, text: str) -> None:
    ax.annotate(text, (x, y), xytext=(6, 0), textcoords="offset points", va="center")


def floor_across(ax: Axes, y: float, x: float) -> None:
    """A line across the bar at `y`, seen on every colour."""
    ax.vlines(x, y - 0.42, y + 0.42, color=PAPER, linewidth=3.2)
    ax.vlines(x, y - 0.42, y + 0.42, color=INK, linewidth=1.4)


def height_for(names: int) -> float:
    """Inches of a picture with that many names beside its points."""
    return max(3.2, _MARGIN + _LINE * names)


def name_points(ax: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """The names of points (x, y, name) in a column right of the axes, in their order, a thin line to each.

    The limits of the axes must stand.
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    placed = []
    for x, y, name in points:
        level = round(to_axes.transform((x, y))[1], 2)
        # Of points on one level: names are pushed down from the upper half, and up from the lower one.
        placed.append((level, x if level > 0.5 else -x, x, y, name))
    placed.sort()
    gap = _LINE / (height_for(len(points)) - _MARGIN)
    levels: list[float] = []
    for level, *_ in placed:
        levels.append(max(level, levels[-1] + gap) if levels else max(level, 0.0))
    above = 1 + gap
    for i in reversed(range(len(levels))):  # those that were pushed out above come down again
        levels[i] = above = min(levels[i], above - gap)
    line = {
        "arrowstyle": "-",
        "color": FAINT,
        "linewidth": 0.5,
        "shrinkA": 1,
        "shrinkB": 3,
        "relpos": (0, 0.5),
    }
    for (*_, x, y, name), level in zip(placed, levels, strict=True):
        ax.annotate(
            plain(name), (x, y), (1.06, level), textcoords="axes fraction", va="center", arrowprops=line
        )


def legend_of_kinds(figure: FigureBase, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    by_kind = {kind(row): row for row in rows}
    handles = [Line2D([], [], label=name, **marker(by_kind[k])) for k, name in _NAMES.items() if k in by_kind]
    legend(figure, handles)


def legend_of_bars(figure: FigureBase, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    kinds = set(map(kind, rows))
    handles = [swatch(COLOURS[k], name) for k, name in _NAMES.items() if k in kinds]
    if any(row.floor_ms for row in rows):
        handles.append(floor_line())
    handles.append(Line2D([], [], color=INK, linewidth=1, marker="|", markersize=4, label="p20 to p80"))
    legend(figure, handles)


def legend(figure: FigureBase, handles: Sequence[Any]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def swatch(colour: str, label: str, edge: str = "none") -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor=edge, linewidth=0.5, label=label)


def floor_line() -> Any:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"linestyle": "", "marker": "|", "markersize": 9, "markeredgewidth": 1.4}
    return Line2D([], [], color=INK, label="floor", **style)


def log_axis(axis: Axis, low: float, high: float, text: Callable[[float], str] | None = None) -> None:
    """A logarithmic axis from `low` to `high`, at least a factor of 2, with plain numbers at its ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    middle = math.sqrt(low * high)
    low, high = min(low, middle / math.sqrt(2)), max(high, middle * math.sqrt(2))
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.9 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    name = axis.axis_name  # type: ignore[attr-defined]
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: (text or _short)(value)))


def power(value: float) -> str:
    """1e-7."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def three(value: float) -> str:
    """A number with three digits: 2.94, 10.0, 198."""
    return f"{value:#.3g}".rstrip(".")


def unit_for(times_ms: Iterable[float]) -> tuple[str, float]:
    """The unit to draw in, and what turns milliseconds into it."""
    largest = max(times_ms)
    return ("s", 1e-3) if largest >= 1e3 else ("ms", 1.0) if largest >= 1 else ("µs", 1e3)


def sound(*values: Any) -> bool:
    """Whether they are numbers that can be drawn on an axis: results come from files."""
    return all(isinstance(value, int | float) and 1e-15 < value < 1e15 for value in values)


def plain(text: str, limit: int = 32) -> str:
    """A name as it can be drawn: printable, one line, not too long."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _short(value: float) -> str:
    """0.02, 300 or 2e6."""
    return f"{value:g}" if 1e-2 <= value < 1e5 else power(value)
