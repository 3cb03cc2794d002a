"""What is printed: within 120 columns, with what is to be known of the noise."""

import dataclasses
import io

import pytest
from rich.console import Console

from tests.bench.test_results import FOOTPRINT, PART, ROW
from wxkernels.bench import tables
from wxkernels.bench.compare import Change
from wxkernels.bench.results import Failure, Results
from wxkernels.bench.statistics import Ratio

HEADER = {"device": "a machine", "torch": "2.13.0", "wxkernels": "0.1.0", "commit": "abc", "date": "today"}
LONG = dataclasses.replace(
    ROW, backend="compiled-bf16-freezing", kind="pytorch", median_ms=18749.9, p20_ms=17857.9, p80_ms=18776.1,
    gflops=12345.6, gbytes=1234.5, speedup=0.123, floor_ms=8251.4, floor_share=0.44, shape="8x20x720x1440",
)  # fmt: skip


def printed(results, reproduce=False):
    console = Console(width=120, file=io.StringIO())
    tables.show(console, results, reproduce)
    return console.file.getvalue()


def run(*rows, **changed):
    return Results(
        "bench", {**HEADER, **changed}, list(rows), [PART], [FOOTPRINT], [Failure("mlp", "peer", "[why]")]
    )


def test_everything_stands_in_120_columns():
    text = printed(run(LONG, ROW))
    assert max(map(len, text.splitlines())) <= 120
    for word in ("compiled-bf16-freezing", "17858", "44%", "1.90 - 2.10"):
        assert word in text
    assert "mlp: peer did not run: [why]" in text
    assert "fc1" in text


@pytest.mark.parametrize(
    ("row", "header", "word"),
    [
        (dataclasses.replace(ROW, noisy=True), {}, "noisy: "),
        (dataclasses.replace(ROW, cold=False), {}, "Warm: "),
        (dataclasses.replace(ROW, processes=3), {}, "highest end of the intervals of 3 processes"),
        (ROW, {"load": 1.5}, "Not quiet: others kept 1.5 processors"),
    ],
)
def test_what_spoils_a_run_is_told(row, header, word):
    assert word in printed(run(row, **header))
    assert word not in printed(run(ROW, load=0.1))


def test_the_commands_are_whole_lines():
    row = dataclasses.replace(ROW, command="wxkernels-bench mlp " + "--peer eager " * 12 + "--rounds 5")
    assert row.command in printed(run(row), reproduce=True).splitlines()


@pytest.mark.parametrize("processes", [1, 3])
def test_changes_show_both_speeds_and_the_verdict(processes):
    console = Console(width=120, file=io.StringIO())
    change = Change(ROW, "eager", Ratio(2, 1.9, 2.1), Ratio(1, 0.9, 1.1), processes)
    for part in tables.changes([change], [], []):
        console.print(part)
    text = console.file.getvalue()
    assert all(word in text for word in ("2.00x", "1.00x", "0.50", "0.43 - 0.58", "slower"))
    assert ("Of a run in one process the noise between processes is not known" in text) == (processes == 1)


def test_names_of_a_results_file_are_no_markup():
    console = Console(width=120, file=io.StringIO())
    row = dataclasses.replace(ROW, backend="[/]", model="[/red]")
    for part in tables.changes([Change(row, "[/x]", Ratio(2, 1, 3), Ratio(2, 1, 3), 1)], [row], [row]):
        console.print(part)
    assert console.file.getvalue().count("[/] of mlp") == 2
    assert "[/x]" in console.file.getvalue()
