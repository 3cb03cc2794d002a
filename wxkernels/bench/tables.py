"""The tables that wxkernels-bench prints."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from wxkernels.bench.engine import Measured, Row
from wxkernels.bench.memory import Footprint
from wxkernels.bench.profile import Part


def show(console: Console, header: dict[str, Any], measured: Measured, reproduce: bool) -> None:
    """Print the conditions, the rows, the peers that failed and, to reproduce, the command of each row."""
    peaks = ", ".join(f"{name} {value}" for name, value in header["peak_gflops"].items())
    console.print(
        f"{header['device']}; measured peaks: {peaks} GFLOP/s, copy {header['copy_gbytes']} GB/s;"
        f" torch {header['torch']}, commit {header['commit']}",
        highlight=False,
    )
    rows = measured.rows
    kinds: dict[type, Callable[[Sequence[Any]], Iterator[Table | str]]]
    kinds = {Row: _times, Part: _parts, Footprint: _footprints}
    for kind in dict.fromkeys(map(type, rows)):
        for part in kinds[kind](rows):
            console.print(part, highlight=False)
    for op, backend, reason in measured.failed:
        console.print(f"{op}: {backend} did not run: {reason}", highlight=False, markup=False)
    if reproduce:
        for command in dict.fromkeys(row.command for row in rows):
            console.print(command, highlight=False, soft_wrap=True)


def _times(rows: Sequence[Row]) -> Iterator[Table | str]:
    table = _table("op, shape, dtype", "backend", "median ms", "p20/p80 ms", "speed", "GFLOP/s", "GB/s",
                   "floor ms", "of floor", "error")  # fmt: skip
    for problem, some in _by_problem(rows, lambda row: f"{row.op}\n{row.shape} {row.dtype}"):
        table.add_section()
        for i, row in enumerate(some):
            table.add_row(
                "" if i else problem,
                row.backend,
                f"{row.median_ms:.3g}",
                f"{row.p20_ms:.3g}/{row.p80_ms:.3g}",
                f"{row.speedup:.2f}x",
                f"{row.gflops:.1f}",
                f"{row.gbytes:.1f}",
                "" if row.floor_ms is None else f"{row.floor_ms:.3g}",
                "" if row.floor_share is None else f"{row.floor_share:.0%}",
                f"{row.error:.1e}",
            )
    yield table
    yield (
        "speed: against the fastest PyTorch variant of the same rounds. floor: operations of each precision"
        " at its peak, or bytes at copy speed. error: largest, against float64, over the largest value."
    )
    for problem, some in _by_problem(rows, lambda row: f"{row.op} {row.shape} {row.dtype}"):
        ours = [row for row in some if row.kind == "ours"]
        if ours and len(ours[0].against) > 2:
            table = _table(f"{problem}: times faster than", *(row.backend for row in ours))
            for peer in ours[0].against:
                table.add_row(peer, *(f"{row.against[peer]:.2f}" for row in ours))
            yield table


def _parts(rows: Sequence[Part]) -> Iterator[Table | str]:
    table = _table("op, shape", "backend", "part", "median ms", "of the step", "floor ms", "of floor")
    for problem, some in _by_problem(rows, lambda row: f"{row.op}\n{row.shape}"):
        for i, (backend, parts) in enumerate(groupby(some, key=lambda row: row.backend)):
            table.add_section()
            for j, row in enumerate(parts):
                table.add_row(
                    "" if i or j else problem,
                    "" if j else backend,
                    row.part,
                    f"{row.median_ms:.3g}",
                    f"{row.share:.1%}",
                    "" if row.floor_ms is None else f"{row.floor_ms:.3g}",
                    "" if row.floor_share is None else f"{row.floor_share:.0%}",
                )
    yield table


def _footprints(rows: Sequence[Footprint]) -> Iterator[Table | str]:
    table = _table("op, shape", "backend", "file MB", "parameters MB", "PyTorch MB", "ready MB", "peak MB")
    for problem, some in _by_problem(rows, lambda row: f"{row.op}\n{row.shape}"):
        table.add_section()
        for i, row in enumerate(some):
            memory = row.resident
            sizes = (memory.parameters, memory.start, memory.ready, memory.peak)
            file = "" if row.file is None else f"{row.file / 1e6:.1f}"
            table.add_row("" if i else problem, row.backend, file, *(f"{size / 1e6:.1f}" for size in sizes))
    yield table
    yield (
        "Resident memory of a process with PyTorch loaded, with the network ready, and at most in one step."
        " loaded: our network, read from the checkpoint file of that precision."
    )


def _table(*columns: str) -> Table:
    """Names are in the first columns, up to "part"; the rest are numbers."""
    table = Table()
    for i, name in enumerate(columns):
        words = i == 0 or name in ("backend", "part")
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    return table


def _by_problem(rows: Sequence[Any], name: Callable[[Any], str]) -> Iterator[tuple[str, list[Any]]]:
    for problem, some in groupby(rows, key=name):
        yield problem, list(some)
