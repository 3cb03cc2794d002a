"""The tables that wxkernels-bench prints, in 120 columns."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wxkernels.bench.case import Case
from wxkernels.bench.compare import LEAST, Change
from wxkernels.bench.engine import dtype_name
from wxkernels.bench.results import Footprint, Part, Results, Row
from wxkernels.bench.statistics import Ratio

#: Processors that others may keep busy before a run is not quiet.
_QUIET = 0.5


def show(console: Console, results: Results, reproduce: bool) -> None:
    """Print the conditions, what was found, who failed and, to reproduce, the command of each row."""
    for line in conditions(results.conditions):
        console.print(line, highlight=False, markup=False)
    for part in (*_times(results.times), *_parts(results.parts), *_footprints(results.memory)):
        console.print(part, highlight=False)
    for failure in results.failed:
        text = f"{failure.op}: {failure.backend} did not run: {failure.reason}"
        console.print(text, highlight=False, markup=False)
    if reproduce:
        rows: list[Any] = [*results.times, *results.parts, *results.memory]
        for command in dict.fromkeys(row.command for row in rows):
            console.print(command, highlight=False, markup=False, soft_wrap=True)


def conditions(header: dict[str, Any]) -> Iterator[str]:
    """What ran where, in lines."""
    memory, cache = header.get("memory_gbytes"), header.get("cache_mbytes")
    clock = header.get("clock_mhz")
    state = [
        header["device"],
        memory and f"{memory} GB memory",
        cache and f"{cache} MB cache",
        clock and f"{clock:.0f} MHz",
        header.get("power_w") and f"{header['power_w']:.0f} W",
        header.get("allocator") and f"allocator: {header['allocator']}",
        header.get("load") is not None and f"load {header['load']}",
    ]
    yield ", ".join(text for text in state if text)
    if header.get("peak_gflops"):
        peaks = ", ".join(f"{name} {value}" for name, value in header["peak_gflops"].items())
        copy, triad = header.get("copy_gbytes"), header.get("triad_gbytes")
        yield f"measured peaks: {peaks} GFLOP/s; copy {copy}, triad {triad} GB/s"
    versions = (f"{name} {header[name]}" for name in ("torch", "wxkernels", "commit", "date"))
    yield ", ".join(versions)
    if header.get("unfinished"):
        yield f"Unfinished: the run was stopped after {header['unfinished']}."
    if (header.get("load") or 0) > _QUIET:
        yield f"Not quiet: others kept {header['load']} processors busy before the run; times are noisy."


def changes(found: Sequence[Change], before: Sequence[Row], after: Sequence[Row]) -> Iterator[Table | str]:
    """What `compare` found, the rows of each problem together; then those of ours that were not compared."""
    for problem, some in _grouped(found, lambda change: _title(change.row)):
        table = _table(problem, "backend", "baseline", "old", "new", "new/old", "95 %", "")
        for change in some:
            old, new, ratio = change.old, change.new, change.ratio
            colour = {"slower": "red", "faster": "green"}.get(change.verdict, "")
            verdict = f"[{colour}]{change.verdict}[/]" if colour else change.verdict
            cells = (f"{old.median:.2f}x", f"{new.median:.2f}x", f"{ratio.median:.2f}", _interval(ratio))
            table.add_row(escape(change.row.backend), escape(change.baseline), *cells, verdict)
        yield table
    yield (
        f"old, new: speed against the baseline of the same run. A change is more than {LEAST:.0%}, and its"
        " interval, from the noise of both runs, does not hold 1."
    )
    if any(change.processes == 1 for change in found):
        yield "Of a run in one process the noise between processes is not known: measure with --processes 3."
    for run, rows in (("OLD", before), ("NEW", after)):
        for problem, some in _grouped(rows, _title):
            names = ", ".join(row.backend for row in some)
            yield escape(f"Only in {run}, or without a baseline in both: {names} of {problem}")


def cases(found: Sequence[Case], device: Any) -> Iterator[Table | str]:
    """Shapes, dtypes and variants of each case, with the reason where one cannot run."""
    for case in found:
        table = Table(box=box.SIMPLE, show_header=False, width=118, title_justify="left", title_style="bold")
        table.title = f"{case.name}: {escape(case.summary)}"
        table.add_column(width=8)
        table.add_column(overflow="fold")
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in case.shapes.items())
        table.add_row("shape", f"{case.axes}: {shapes}")
        table.add_row("dtype", ", ".join(map(dtype_name, case.dtypes)))
        for word, here in (("ours", case.ours(device)), ("peers", case.peers(device))):
            able = [name for name, reason in here.items() if reason is None]
            table.add_row(word, ", ".join(able) or "none")
            for why in dict.fromkeys(reason for reason in here.values() if reason):
                names = ", ".join(name for name in here if here[name] == why)
                table.add_row("", escape(f"{names}: no, {why}"))
        yield table


def _times(rows: Sequence[Row]) -> Iterator[Table | str]:
    for problem, some in _grouped(rows, _title):
        table = _table(problem, "backend", "median ms", "p20 - p80", "speed", "95 %", "GFLOP/s", "GB/s",
                       "of floor", "error", "")  # fmt: skip
        for row in some:
            table.add_row(
                row.backend,
                _number(row.median_ms),
                _spread(row.p20_ms, row.p80_ms),
                f"{row.speedup:.2f}x",
                "" if row.backend == row.baseline else _interval(_speedup(row)),
                _number(row.gflops),
                _number(row.gbytes),
                "" if row.floor_share is None else f"{row.floor_share:.0%}",
                f"{row.error:.1e}",
                "noisy" if row.noisy else "",
            )
        yield table
        yield from _notes(some)
        ours = [row for row in some if row.kind == "ours"]
        if ours and len(ours[0].against) > 2:
            table = _table("times faster than", "", *(row.backend for row in ours))
            for peer in ours[0].against:
                table.add_row(peer, *(f"{row.against[peer]:.2f}" for row in ours))
            yield table
    if rows:
        yield (
            "speed: against the fastest PyTorch variant of the same rounds, without one the fastest peer."
            " floor: operations of each precision at its peak, or bytes at the speed of memory. error:"
            " largest, against float64, over the largest value."
        )


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    if any(row.noisy for row in rows):
        yield (
            "noisy: timed once, or the interval is wider than a tenth of the speed, or p80 is a fifth above"
            " p20; take more --rounds on a quieter machine."
        )
    if rows[0].processes > 1:
        yield f"95 %: from the lowest to the highest end of the intervals of {rows[0].processes} processes."
    if not rows[0].cold:
        yield "Warm: the rotated inputs are not known to be larger than the last level cache."


def _parts(rows: Sequence[Part]) -> Iterator[Table | str]:
    for problem, some in _grouped(rows, lambda row: f"{row.case} {row.shape}, by part"):
        table = _table(
            problem, "backend", "part", "median ms", "p20 - p80", "of the step", "floor ms", "of floor"
        )
        for backend, parts in _grouped(some, lambda row: row.backend):
            table.add_section()
            for i, row in enumerate(parts):
                table.add_row(
                    "" if i else backend,
                    row.part,
                    _number(row.median_ms),
                    _spread(row.p20_ms, row.p80_ms),
                    f"{row.share:.1%}",
                    "" if row.floor_ms is None else _number(row.floor_ms),
                    "" if row.floor_share is None else f"{row.floor_share:.0%}",
                )
        yield table


def _footprints(rows: Sequence[Footprint]) -> Iterator[Table | str]:
    for problem, some in _grouped(rows, lambda row: f"{row.case} {row.shape}, {row.kind} memory"):
        table = _table(problem, "backend", "file MB", "tensors MB", "start MB", "ready MB", "peak MB")
        for row in some:
            file = "" if row.file is None else f"{row.file / 1e6:.1f}"
            taken = (row.parameters, row.start, row.ready, row.peak)
            table.add_row(row.backend, file, *(f"{size / 1e6:.1f}" for size in taken))
        yield table
    if rows:
        yield (
            "In a process of its own: with PyTorch loaded (start), with the network or the inputs (ready), at"
            " most in one call (peak). loaded: our network, read from the checkpoint file of that precision."
        )


def _table(title: str, *columns: str) -> Table:
    """Numbers are in all columns but those of names."""
    table = Table(
        title=escape(title), box=box.SIMPLE, title_justify="left", title_style="bold", padding=(0, 1, 0, 0)
    )
    for i, name in enumerate(columns):
        words = i == 0 or name in ("baseline", "part", "")
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    return table


def _number(value: float) -> str:
    """Three digits, more before the point where there are: 0.123, 12.3, 12345."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_number(low)} - {_number(high)}"


def _title(row: Row) -> str:
    model = f" ({row.model})" if row.model and row.model not in row.shape else ""
    return f"{row.case} {row.shape} {row.dtype}{model}"


def _speedup(row: Row) -> Ratio:
    return Ratio(row.speedup, row.speedup_low, row.speedup_high)


def _interval(ratio: Ratio) -> str:
    return "" if ratio.low is None else f"{ratio.low:.2f} - {ratio.high:.2f}"


def _grouped(rows: Sequence[Any], name: Callable[[Any], str]) -> Iterator[tuple[str, list[Any]]]:
    for title, some in groupby(rows, key=name):
        yield title, list(some)
