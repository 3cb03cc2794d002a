"""Pictures of a benchmark: time by variant, roofline, error against speed, scaling, time by part."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wxkernels.bench import drawing
from wxkernels.bench.drawing import INK, name_points, plain, sound, three, unit_for
from wxkernels.bench.results import Part, Results, Row
from wxkernels.errors import UserError
from wxkernels.io.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

#: Where an input has its grid; elsewhere its first size is rows. The other sizes agree along a line.
_GRID = {"fourcastnet": (2, 3), "patch_embed": (2, 3), "patch_head": (1, 2), "spectral_filter": (1, 2)}


@dataclass(frozen=True)
class Plot:
    """A picture, how to read it, its height in inches, and what draws it into a figure as wide as WIDTH."""

    title: str
    note: str
    height: float
    draw: Callable[[FigureBase], None]


def plot_results(results: Sequence[Results], path: str | Path) -> None:
    """All plots of all runs on one sheet, two beside each other; PNG, PDF or SVG by the name.

    UserError: without matplotlib, nothing to draw, or not writable.
    """
    plots = []
    for run in results:
        for rows in _grouped(run.times, lambda row: row.case).values():
            plots += case_plots(rows, run.conditions)
        plots += part_plots(run.parts)
    _save(plots, path)


def plot_parts(parts: Sequence[Part], title: str, path: str | Path) -> None:
    """Stacked bars, one a variant, of the milliseconds of each part; a black line is the variant's floor.

    The kind of file is that of the name (PNG, PDF, SVG). UserError: without matplotlib, or not writable.
    """
    _save([_parts_plot(parts, title)], path)


def case_plots(rows: Sequence[Row], conditions: Mapping[str, Any]) -> list[Plot]:
    """Of the rows of one case in one run. Bars, roofline and errors are at the smallest batch of a size."""
    rows = [row for row in rows if sound(row.median_ms, row.p20_ms, row.p80_ms, row.speedup)]
    found = []
    for series in _grouped(rows, lambda row: (row.case, row.model, row.dtype, _member_shape(row))).values():
        smallest = min(row.batch for row in series)
        some = sorted((row for row in series if row.batch == smallest), key=lambda row: row.median_ms)
        name = f"{some[0].case} {some[0].shape} {some[0].dtype}"
        found.append(_bars_plot(some, name))
        found += _roofline_plot(some, name, conditions)
        found += _errors_plot(some, name)
        found += _batch_plot(series)
    for series in _grouped(rows, lambda row: (row.case, row.dtype, row.batch, _grid(row)[1])).values():
        found += _resolution_plot(series)
    return found


def part_plots(parts: Sequence[Part]) -> list[Plot]:
    parts = [part for part in parts if sound(part.median_ms)]
    problems = _grouped(parts, lambda part: f"{part.case} {part.shape}")
    return [_parts_plot(some, f"Time by part: {name}") for name, some in problems.items()]


def draw(plots: Sequence[Plot]) -> Figure:
    """The plots in one figure, two beside each other. UserError: without matplotlib."""
    matplotlib = drawing.require_matplotlib()
    # A figure of its own, not pyplot's: no global state, no display, and safe in threads.
    from matplotlib.figure import Figure

    columns = min(2, len(plots))
    titles = [textwrap.fill(plain(plot.title, 120), 60) for plot in plots]
    each = [plot.height + 0.2 * title.count("\n") for plot, title in zip(plots, titles, strict=True)]
    heights = [max(each[i : i + columns]) for i in range(0, len(each), columns)]
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(columns * drawing.WIDTH, sum(heights)), layout="constrained")
        grid = figure.subfigures(len(heights), columns, squeeze=False, height_ratios=heights)
        for plot, title, place in zip(plots, titles, grid.flat, strict=False):
            place.suptitle(title, x=0.01, ha="left")
            plot.draw(place)
    return figure


def _save(plots: Sequence[Plot], path: str | Path) -> None:
    if not plots:
        raise UserError("there is nothing to draw: the results hold no times")
    kind = drawing.require_format(Path(path))
    figure = draw(plots)
    with whole_file(path) as partial_path:
        figure.savefig(partial_path, format=kind, dpi=200)


# --- time


def _bars_plot(rows: Sequence[Row], name: str) -> Plot:
    note = (
        "Medians, the fastest above; beside them the speed against the fastest PyTorch. Whiskers: 20th to"
        " 80th percentile. The line across a bar is the floor of its precision on this machine."
    )
    return Plot(f"Time: {name}", note, 0.95 + 0.26 * len(rows), partial(_bars, rows))


def _bars(rows: Sequence[Row], figure: FigureBase) -> None:
    ax = figure.subplots()
    unit, scale = unit_for(row.p80_ms for row in rows)
    right = 0.0
    for y, row in enumerate(rows):
        ax.barh(y, scale * row.median_ms, color=drawing.COLOURS[drawing.kind(row)], height=0.72)
        low, high = scale * min(row.p20_ms, row.median_ms), scale * max(row.p80_ms, row.median_ms)
        ax.plot([low, high], [y, y], color=INK, linewidth=1, marker="|", markersize=4)
        if row.floor_ms and sound(row.floor_ms):
            drawing.floor_across(ax, y, scale * row.floor_ms)
            high = max(high, scale * row.floor_ms)
        drawing.text_beside(ax, high, y, f"{three(scale * row.median_ms)} {unit}, {three(row.speedup)}x")
        right = max(right, high)
    _name_bars(ax, [plain(row.backend) + row.noisy * " (noisy)" for row in rows])
    ax.set_xlim(0, 1.02 * right)
    ax.set_xlabel(f"time, {unit}")
    drawing.legend_of_bars(figure, rows)


def _parts_plot(parts: Sequence[Part], title: str) -> Plot:
    note = "Medians of each part of a step; the line across a bar is the floor of the whole step."
    variants = len({part.backend for part in parts})
    return Plot(title, note, 1.15 + 0.36 * variants, partial(_parts, parts))


def _parts(parts: Sequence[Part], figure: FigureBase) -> None:
    ax = figure.subplots()
    variants = _grouped(parts, lambda part: part.backend)
    colours = dict(zip(dict.fromkeys(part.part for part in parts), cycle(drawing.PARTS), strict=False))
    unit, scale = unit_for(sum(part.median_ms for part in some) for some in variants.values())
    ends = []
    for y, some in enumerate(variants.values()):
        end = 0.0
        for part in some:
            width = scale * part.median_ms
            ax.barh(y, width, left=end, color=colours[part.part], edgecolor=INK, linewidth=0.5)
            end += width
        floor = scale * sum(part.floor_ms for part in some if part.floor_ms and sound(part.floor_ms))
        if floor:
            drawing.floor_across(ax, y, floor)
        drawing.text_beside(ax, end, y, f"{three(end)} {unit}")
        ends.append(end)
    _name_bars(ax, [plain(name) for name in variants])
    ax.set_xlim(0, 1.02 * max(ends))
    ax.set_xlabel(f"time of a step, {unit}")
    swatches = [drawing.swatch(colour, plain(name), INK) for name, colour in colours.items()]
    drawing.legend(figure, [*swatches, drawing.floor_line()])


def _name_bars(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()


# --- the limits of the machine


def _roofline_plot(rows: Sequence[Row], name: str, conditions: Mapping[str, Any]) -> list[Plot]:
    rows = [row for row in rows if sound(row.gflops, row.gbytes)]
    found = conditions.get("peak_gflops")
    dtypes = found if isinstance(found, Mapping) else {}
    rates = [rate for rate in map(conditions.get, ("copy_gbytes", "triad_gbytes")) if rate and sound(rate)]
    peaks = _grouped((dtype for dtype in dtypes if sound(dtypes[dtype])), lambda dtype: dtypes[dtype])
    if not peaks or not rates or not rows:
        return []
    note = (
        "Operations and bytes are the least that the problem needs. Lines: what this machine reached in the"
        " same run, with memory (the faster of copy and triad) and in products by dtype."
    )
    draw = partial(_roofline, rows, peaks, max(rates))
    return [Plot(f"Roofline: {name}", note, drawing.height_for(len(rows) + len(peaks)), draw)]


def _roofline(
    rows: Sequence[Row], peaks: Mapping[float, Sequence[str]], memory: float, figure: FigureBase
) -> None:
    ax = figure.subplots()
    points = [(row.gflops / row.gbytes, row.gflops, row) for row in rows]
    top = max(peaks)
    corners = [*(peak / memory for peak in peaks), *(x for x, _, _ in points)]
    left, right = min(corners) / 4, max(corners) * 4
    bottom = min([2 * memory * left, *(y / 2 for _, y, _ in points)])
    drawing.log_axis(ax.xaxis, left, right)
    drawing.log_axis(ax.yaxis, bottom, 2 * top)
    line: dict[str, Any] = {"color": INK, "linewidth": 0.9}
    for peak in peaks:
        ax.plot([peak / memory, right], [peak, peak], **line)
    ax.plot([left, top / memory], [memory * left, top], **line)
    middle = math.sqrt(max(bottom, memory * left) * top)
    ax.text(
        middle / memory,
        middle,
        f"memory {memory:.3g} GB/s",
        rotation=math.degrees(math.atan(memory)),
        rotation_mode="anchor",
        transform_rotates_text=True,
        ha="center",
        va="bottom",
        fontsize=drawing.FONT - 1,
    )
    names = [(right, peak, f"{'/'.join(dtypes)} peak {peak:.4g}") for peak, dtypes in peaks.items()]
    _mark(ax, points, names)
    ax.set_xlabel("operations a byte")
    ax.set_ylabel("Gop/s")
    drawing.legend_of_kinds(figure, rows)


# --- error and speed


def _errors_plot(rows: Sequence[Row], name: str) -> list[Plot]:
    rows = [row for row in rows if row.error == 0 or sound(row.error)]
    if not any(row.error for row in rows):
        return []
    note = (
        "Better is to the right and down. Errors are the largest against float64, over the largest value; one"
        " that is 0 stands at the lower edge. Speeds are against the fastest PyTorch."
    )
    return [Plot(f"Error and speed: {name}", note, drawing.height_for(len(rows)), partial(_errors, rows))]


def _errors(rows: Sequence[Row], figure: FigureBase) -> None:
    ax = figure.subplots()
    errors, speeds = [row.error for row in rows if row.error], [row.speedup for row in rows]
    lower_edge = min(errors) / 4
    drawing.log_axis(ax.xaxis, min(speeds) / 1.3, max(speeds) * 1.3)
    drawing.log_axis(ax.yaxis, lower_edge, 3 * max(errors), drawing.power)
    ax.axvline(1, color=drawing.FAINT, linewidth=0.8)
    _mark(ax, [(row.speedup, row.error or lower_edge, row) for row in rows])
    ax.set_xlabel("times as fast as the fastest PyTorch")
    ax.set_ylabel("largest error")
    drawing.legend_of_kinds(figure, rows)


def _mark(
    ax: Axes, points: Sequence[tuple[float, float, Row]], more: Sequence[tuple[float, float, str]] = ()
) -> None:
    """Points of rows, named; `more` are names of what is drawn already."""
    for x, y, row in points:
        ax.plot([x], [y], zorder=4 if row.kind == "ours" else 3, **drawing.marker(row))
    name_points(ax, [*((x, y, row.backend) for x, y, row in points), *more])


# --- scaling


def _batch_plot(rows: Sequence[Row]) -> list[Plot]:
    rows = [row for row in rows if row.batch > 0]
    if len({row.batch for row in rows}) < 2:
        return []
    first = min(rows, key=lambda row: row.batch)
    title = f"Scaling with batch: {first.case} {_member_shape(first)} {first.dtype}"
    note = "The time of a member against the batch; a line that falls gains from larger batches."
    return [_lines_plot(title, note, rows, lambda row: row.batch, "batch")]


def _resolution_plot(rows: Sequence[Row]) -> list[Plot]:
    rows = [row for row in rows if row.batch > 0 and _grid(row)[0]]
    if len({_grid(row)[0] for row in rows}) < 2:
        return []
    title = f"Scaling with resolution: {rows[0].case} {rows[0].dtype}, batch {rows[0].batch}"
    note = "The time of a member against the points of its grid."
    return [_lines_plot(title, note, rows, lambda row: _grid(row)[0], "points of the grid")]


def _lines_plot(title: str, note: str, rows: Sequence[Row], place: Callable[[Row], int], xlabel: str) -> Plot:
    variants = len({row.backend for row in rows})
    return Plot(title, note, drawing.height_for(variants), partial(_lines, rows, place, xlabel))


def _lines(rows: Sequence[Row], place: Callable[[Row], int], xlabel: str, figure: FigureBase) -> None:
    ax = figure.subplots()
    unit, scale = unit_for(row.median_ms / row.batch for row in rows)
    times = [scale * row.median_ms / row.batch for row in rows]
    places = sorted({place(row) for row in rows})
    drawing.log_axis(ax.xaxis, places[0] / 1.15, places[-1] * 1.15)
    drawing.log_axis(ax.yaxis, min(times) / 1.2, max(times) * 1.2)
    if len(places) <= 6:
        ax.set_xticks(places, [f"{x:g}" for x in places])
    ends = []
    for some in _grouped(sorted(rows, key=place), lambda row: row.backend).values():
        line = [(place(row), scale * row.median_ms / row.batch) for row in some]
        ax.plot(*zip(*line, strict=True), color=drawing.COLOURS[drawing.kind(some[0])], linewidth=1.2)
        ax.plot(*zip(*line, strict=True), **drawing.marker(some[0]))
        ends.append((*line[-1], some[0].backend))
    name_points(ax, ends)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(f"time a member, {unit}")
    drawing.legend_of_kinds(figure, rows)


# --- sizes


def _member_shape(row: Row) -> str:
    """The shape at batch 1: its first size is the batch, or rows of all members."""
    first, *rest = row.shape.split("x")
    if row.batch > 0 and first.isdecimal():
        first = str(int(first) // row.batch)
    return "x".join((first, *rest))


def _grid(row: Row) -> tuple[int, tuple[str, ...]]:
    """Points of the grid of a member (0: not known), and the other sizes."""
    sizes = _member_shape(row).split("x")
    places = _GRID.get(row.op, (0,))
    if len(sizes) <= max(places) or not all(sizes[i].isdecimal() for i in places):
        return 0, tuple(sizes)
    others = tuple(size for i, size in enumerate(sizes) if i not in places)
    return math.prod(int(sizes[i]) for i in places), others


def _grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """The items by their keys, in the order of the first of each."""
    found: dict[Any, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
