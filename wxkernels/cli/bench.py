"""wxkernels-bench: measure the kernels against PyTorch, side by side, with the error beside the speed."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wxkernels.bench import tables
from wxkernels.bench.case import Case, Size, dtype_name
from wxkernels.bench.cases import CASES
from wxkernels.bench.engine import Measured, measure
from wxkernels.bench.machine import conditions, measure_ceilings
from wxkernels.bench.plots import plot_parts
from wxkernels.cli import one_line_errors, torch_device
from wxkernels.errors import UserError
from wxkernels.io.files import whole_file


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option("--list", "listing", is_flag=True, help="List cases, shapes and backends, and stop.")
@click.option(
    "--shape", "shapes", multiple=True, help="A model's name or sizes such as 90x180x768x8; repeatable."
)
@click.option("--batch", "batches", type=click.IntRange(0), multiple=True, help="Batch size; repeatable. [1]")
@click.option("--dtype", "dtypes", multiple=True, help="Of the input; repeatable. [the case's first]")
@click.option(
    "--backend", "names", multiple=True, help="Only this variant (the baseline runs too); repeatable."
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:i].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [PyTorch's own choice]")
@click.option("--rounds", type=click.IntRange(1), help="Interleaved rounds. [15; fourcastnet 5]")
@click.option("--profile", is_flag=True, help="The time of a step by part instead (fourcastnet).")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw the --profile to this file.")
@click.option(
    "--memory",
    is_flag=True,
    help="The peak memory of a step instead, in processes of their own (fourcastnet).",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write conditions and rows here.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option("--reproduce", is_flag=True, help="Print the command behind each row.")
@one_line_errors
def main(
    cases, listing, shapes, batches, dtypes, names, device, threads, rounds, profile, plot_path, memory,
    json_path, csv_path, reproduce,
):  # fmt: skip
    """Measure CASE (default: all). Every variant runs in the same interleaved rounds on random input."""
    if threads:
        torch.set_num_threads(threads)
    target = torch_device(device)
    chosen = [_case(name) for name in cases or CASES]
    if listing:
        return _list(chosen, target)
    if plot_path and not profile:
        raise UserError("--plot draws what --profile measures: give both")
    what = "profile" if profile else "memory" if memory else "problem"
    for case in chosen:
        if getattr(case, what) is None:
            having = ", ".join(name for name, case in CASES.items() if getattr(case, what))
            raise UserError(f"--{what}: {case.name} has none; {having} has")
    sizes = [
        (case, Size(batch, shape, _dtype(case, dtype), target))
        for case in chosen
        for shape in _shapes(case, shapes)
        for dtype in dtypes or (dtype_name(case.dtypes[0]),)
        for batch in batches or (1,)
    ]
    if plot_path and len(sizes) > 1:
        raise UserError("--plot draws one size: give one case, one --shape and one --batch")
    wanted = {case.name: _variants(case, names, target, profile) for case in chosen}
    ceilings = measure_ceilings(target)
    measured = Measured()
    with Console(stderr=True).status("") as status:
        for case, size in sizes:
            torch.compiler.reset()  # recompilations are limited, and old ones would count

            def tell(text: str, before: str = f"{case.name}, batch {size.batch}: ") -> None:
                status.update(before + text)

            chosen_rounds = rounds or case.rounds
            if profile and case.profile:
                measured.rows += case.profile(size, wanted[case.name], ceilings, chosen_rounds, tell)
            elif memory and case.memory:
                measured.rows += case.memory(size, tell)
            else:
                problem = case.problem(size, wanted[case.name])
                measured += measure(problem, ceilings, rounds=chosen_rounds, device=target, progress=tell)
    header = conditions(target, ceilings)
    tables.show(Console(width=140 if not sys.stdout.isatty() else None), header, measured, reproduce)
    if plot_path:
        case, size = sizes[0]
        title = f"{case.name}, {size.batch} x {'x'.join(map(str, size.shape))}: {header['device']}"
        plot_parts(measured.rows, title, plot_path)
    _write(measured, header, json_path, csv_path)
    return None


def _write(measured: Measured, header: dict[str, Any], json_path: Path | None, csv_path: Path | None) -> None:
    rows = [row.as_dict() for row in measured.rows]
    if json_path:
        content = {"conditions": header, "rows": rows, "failed": measured.failed}
        with whole_file(json_path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n")
    if csv_path:
        with whole_file(csv_path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _case(name: str) -> Case:
    if name not in CASES:
        raise UserError(f"there is no case {name!r}; choose one of {', '.join(CASES)}")
    return CASES[name]


def _shapes(case: Case, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The shapes that are named or spelled out; by default those of the case's first model."""
    found: list[tuple[int, ...]] = []
    for text in texts or [next(iter(case.shapes)).partition(":")[0]]:
        named = [shape for name, shape in case.shapes.items() if text in (name, name.partition(":")[0])]
        sizes = text.split("x")
        if not named and (
            len(sizes) != len(case.axes.split(" x ")) or not all(s.isdigit() and int(s) for s in sizes)
        ):
            raise UserError(f"--shape: {text!r} is neither {case.axes} nor one of {', '.join(case.shapes)}")
        found += named or [tuple(map(int, sizes))]
    return found


def _dtype(case: Case, name: str) -> torch.dtype:
    known = {dtype_name(d): d for d in case.dtypes}
    if name not in known:
        raise UserError(f"--dtype: {case.name} takes {', '.join(known)}, not {name!r}")
    return known[name]


def _variants(case: Case, names: tuple[str, ...], device: torch.device, profile: bool) -> list[str]:
    """The variants to run: the named ones with the baselines, or all that can."""
    here = case.backends(device)
    for name in names:
        if name not in here:
            raise UserError(f"--backend: there is no {name!r}; choose from {', '.join(here)}")
        if profile and name not in case.profiled:
            raise UserError(f"--profile: {name} has no parts; choose from {', '.join(case.profiled)}")
        if here[name]:
            raise UserError(f"--backend: {name} cannot run here: {here[name]}")
    if profile:
        return [name for name in case.profiled if name in (names or case.profiled) and here[name] is None]
    return [
        name
        for name, reason in here.items()
        if reason is None and (not names or name in names or name in case.baselines)
    ]


def _list(cases: list[Case], device: torch.device) -> None:
    table = Table("case", "shapes", "dtypes", f"backends on {device}")
    for case in cases:
        shapes = "\n".join(f"{name}: {'x'.join(map(str, s))}" for name, s in case.shapes.items())
        dtypes = "\n".join(map(dtype_name, case.dtypes))
        here = "\n".join(
            name if why is None else escape(f"{name}: no, {why}")
            for name, why in case.backends(device).items()
        )
        table.add_row(f"{case.name}\n{case.summary}", f"{case.axes}\n{shapes}", dtypes, here)
    Console(width=120).print(table)
