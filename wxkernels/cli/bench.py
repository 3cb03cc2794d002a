"""wxkernels-bench: measure the kernels against PyTorch, side by side, with the error beside the speed."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wxkernels.bench.cases import CASES, Case
from wxkernels.bench.engine import Row, measure
from wxkernels.bench.machine import conditions, measure_ceilings
from wxkernels.cli import one_line_errors, torch_device
from wxkernels.errors import UserError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option("--list", "listing", is_flag=True, help="List cases, shapes and backends, and stop.")
@click.option(
    "--shape", "shapes", multiple=True, help="A model's name or sizes such as 90x180x768x8; repeatable."
)
@click.option("--batch", "batches", type=click.IntRange(0), multiple=True, help="Batch size; repeatable. [1]")
@click.option("--dtype", "dtypes", multiple=True, help="float32, bfloat16 or float16; repeatable. [float32]")
@click.option(
    "--backend", "names", multiple=True, help="Only this variant (the baseline runs too); repeatable."
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:i].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [PyTorch's own choice]")
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Interleaved rounds.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write conditions and rows here.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option("--reproduce", is_flag=True, help="Print the command behind each row.")
@one_line_errors
def main(
    cases, listing, shapes, batches, dtypes, names, device, threads, rounds, json_path, csv_path, reproduce
):
    """Measure CASE (default: all). Every variant runs in the same interleaved rounds on random input."""
    if threads:
        torch.set_num_threads(threads)
    target = torch_device(device)
    chosen = [_case(name) for name in cases or CASES]
    if listing:
        return _list(chosen, target)
    ceilings = measure_ceilings(target)
    rows: list[Row] = []
    for case in chosen:
        here = case.backends(target)
        for shape in [_shape(case, s) for s in shapes or list(case.shapes)[:1]]:
            for dtype in [_dtype(case, d) for d in dtypes or ("float32",)]:
                for batch in batches or (1,):
                    problem = case.problem(batch, shape, dtype, target, _variants(here, names))
                    rows += measure(problem, ceilings, rounds=rounds, device=target)
    header = conditions(target, ceilings)
    _print(rows, header, reproduce)
    if json_path:
        json_path.write_text(
            json.dumps({"conditions": header, "rows": [r.as_dict() for r in rows]}, indent=1) + "\n"
        )
    if csv_path:
        with csv_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0].as_dict()))
            writer.writeheader()
            writer.writerows(r.as_dict() for r in rows)
    return None


def _case(name: str) -> Case:
    if name not in CASES:
        raise UserError(f"there is no case {name!r}; choose one of {', '.join(CASES)}")
    return CASES[name]


def _shape(case: Case, text: str) -> tuple[int, ...]:
    if text in case.shapes:
        return case.shapes[text]
    sizes = text.split("x")
    if len(sizes) != len(case.axes.split(" x ")) or not all(s.isdigit() and int(s) for s in sizes):
        raise UserError(f"--shape: {text!r} is neither {case.axes} nor one of {', '.join(case.shapes)}")
    return tuple(map(int, sizes))


def _dtype(case: Case, name: str) -> torch.dtype:
    known = {str(d).removeprefix("torch."): d for d in case.dtypes}
    if name not in known:
        raise UserError(f"--dtype: {case.name} takes {', '.join(known)}, not {name!r}")
    return known[name]


def _variants(here: dict[str, str | None], names: tuple[str, ...]) -> list[str]:
    """The variants to run: the named ones with the PyTorch baselines, or all that can."""
    for name in names:
        if name not in here:
            raise UserError(f"--backend: there is no {name!r}; choose from {', '.join(here)}")
        if here[name]:
            raise UserError(f"--backend: {name} cannot run here: {here[name]}")
    return [name for name in here if not names or name in names or name in ("eager", "compiled")]


def _list(cases: list[Case], device: torch.device) -> None:
    table = Table("case", "shapes", "dtypes", f"backends on {device}")
    for case in cases:
        shapes = "\n".join(f"{name}: {'x'.join(map(str, s))}" for name, s in case.shapes.items())
        dtypes = "\n".join(str(d).removeprefix("torch.") for d in case.dtypes)
        here = "\n".join(
            name if why is None else escape(f"{name}: no, {why}")
            for name, why in case.backends(device).items()
        )
        table.add_row(f"{case.name}\n{case.summary}", f"{case.axes}\n{shapes}", dtypes, here)
    Console(width=120).print(table)


def _print(rows: list[Row], header: dict[str, Any], reproduce: bool) -> None:
    console = Console(width=120 if not sys.stdout.isatty() else None)
    peaks = ", ".join(f"{name} {value}" for name, value in header["peak_gflops"].items())
    console.print(
        f"{header['device']}; measured peaks: {peaks} GFLOP/s, copy {header['copy_gbytes']} GB/s;"
        f" torch {header['torch']}, commit {header['commit']}",
        highlight=False,
    )
    table = Table()
    table.add_column("op, shape, dtype", no_wrap=True)
    table.add_column("backend")
    for name in ("median ms", "p20/p80 ms", "speed", "GFLOP/s", "GB/s", "of floor", "error"):
        table.add_column(name, justify="right")
    before = None
    for row in rows:
        problem = f"{row.op}\n{row.shape} {row.dtype}"
        if before not in (None, problem):
            table.add_section()
        table.add_row(
            problem if problem != before else "",
            row.backend,
            f"{row.median_ms:.3g}",
            f"{row.p20_ms:.3g}/{row.p80_ms:.3g}",
            f"{row.speedup:.2f}x",
            f"{row.gflops:.1f}",
            f"{row.gbytes:.1f}",
            "" if row.floor_share is None else f"{row.floor_share:.0%}",
            f"{row.error:.1e}",
        )
        before = problem
    console.print(table)
    console.print(
        "speed: against the fastest PyTorch variant of the same rounds. error: largest, against float64,"
        " relative to the largest value.",
        highlight=False,
    )
    if reproduce:
        for row in rows:
            console.print(row.command, highlight=False, soft_wrap=True)
