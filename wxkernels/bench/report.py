"""Results as one page of HTML that needs nothing else: no network, and JavaScript only to sort tables."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wxkernels.bench import columns, drawing, plots
from wxkernels.bench.claims import claims, strongest
from wxkernels.bench.columns import Table
from wxkernels.bench.results import Results, Row
from wxkernels.bench.svg import inline_svg
from wxkernels.errors import UserError
from wxkernels.io.files import whole_file


@dataclass(frozen=True)
class Picture:
    svg: Markup
    note: str


@dataclass(frozen=True)
class Section:
    """A case in one run, or what else the run has."""

    title: str
    run: int
    pictures: Sequence[Picture]
    table: Table
    against: Table | None
    commands: Sequence[str]


def write(results: Sequence[Results], path: str | Path) -> None:
    """The page of these runs. UserError: it cannot be written."""
    page = render(results)
    with whole_file(path) as partial:
        # What is no character (half of a surrogate pair in a name) becomes a question mark.
        partial.write_text(page, encoding="utf-8", errors="replace")


def render(results: Sequence[Results]) -> str:
    """The page as text. Without matplotlib it has no pictures, and says what to install."""
    environment = Environment(
        loader=PackageLoader("wxkernels.bench", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        duration=columns.duration, exponent=columns.exponent, ratio=columns.ratio, sha256=_sha256
    )
    try:
        drawing.require_matplotlib()
        missing = None
    except UserError as why:
        missing = str(why)
    found = [claim for run in results for claim in claims(run.times)]
    return environment.get_template("report.html.j2").render(
        runs=results,
        best=strongest(found),
        glance=Table(columns.GLANCE, found),
        sections=list(_sections(results, draw=missing is None)),
        failed=Table(columns.FAILED, [failure for run in results for failure in run.failed]),
        missing=missing,
        devices=list(dict.fromkeys(str(run.conditions.get("device")) for run in results)),
    )


def _sections(results: Sequence[Results], draw: bool) -> Iterator[Section]:
    numbers = count()

    def pictures(some: Sequence[plots.Plot]) -> list[Picture]:
        if not draw:
            return []
        return [Picture(Markup(inline_svg(plot, f"p{next(numbers)}")), plot.note) for plot in some]

    for i, run in enumerate(results):
        for case in dict.fromkeys(row.case for row in run.times):
            rows = [row for row in run.times if row.case == case]
            # With one other variant the table of speeds says it already.
            several = any(len(row.against) > 1 for row in rows if row.kind == "ours")
            yield Section(
                _title(case, rows, results),
                i,
                pictures(plots.case_plots(rows, run.conditions)),
                Table(columns.TIMES, rows),
                columns.against(rows) if several else None,
                _commands(rows),
            )
        if run.parts:
            drawn = pictures(plots.part_plots(run.parts))
            yield Section(
                "Time by part", i, drawn, Table(columns.PARTS, run.parts), None, _commands(run.parts)
            )
        if run.memory:
            yield Section("Memory", i, [], Table(columns.MEMORY, run.memory), None, _commands(run.memory))


def _title(case: str, rows: Sequence[Row], results: Sequence[Results]) -> str:
    """The case; where several runs have it, with the batches of this one."""
    runs = [run for run in results if any(row.case == case for row in run.times)]
    batches = ", ".join(str(batch) for batch in dict.fromkeys(row.batch for row in rows))
    return case if len(runs) == 1 else f"{case}, batch {batches}"


def _commands(rows: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(row.command for row in rows))


def _sha256(text: str) -> str:
    """The hash by which the page's policy allows its own script, and no other."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
