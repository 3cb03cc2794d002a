"""wxkernels-bench: measure the kernels against PyTorch, side by side, with the error beside the speed."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from wxkernels.bench import drawing, export, plots, selection, tables
from wxkernels.bench.allocator import keep_freed_memory
from wxkernels.bench.case import Case
from wxkernels.bench.cases import CASES
from wxkernels.bench.ceilings import measure_ceilings
from wxkernels.bench.compare import compare, unmatched
from wxkernels.bench.engine import Progress, Size, measure, measure_in_processes
from wxkernels.bench.machine import conditions, load
from wxkernels.bench.memory import footprints
from wxkernels.bench.profile import measure_parts, write_trace
from wxkernels.bench.results import Failure, Results, read
from wxkernels.cli import Group, one_line_errors, threads_option, torch_device
from wxkernels.errors import UserError
from wxkernels.io.files import require_writable

_FILE = click.Path(path_type=Path)
_QUICK_ROUNDS = 3


class _Bench(Group):
    """Measures, unless its first word is one of its commands."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        extra["obj"] = shlex.join(["wxkernels-bench", *words])
        if words and words[0] in self.commands:
            return self.commands[words[0]].main(words[1:], f"wxkernels-bench {words[0]}", **extra)
        return super().main(words, prog_name, **extra)


def _options(*which: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in reversed(which):
            command = option(command)
        return command

    return add


_SIZES = _options(
    click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:i]."),
    threads_option,
    click.option(
        "--shape", "shapes", multiple=True, help="A model's name or sizes such as 90x180x768x8; repeatable."
    ),
    click.option(
        "--batch", "batches", type=click.IntRange(1), multiple=True, help="Batch size; repeatable. [1]"
    ),
)
_VARIANTS = _options(
    click.option("--backend", "backends", multiple=True, help="Of ours only this; repeatable."),
    click.option("--peer", "peers", multiple=True, help="Of the peers only this; repeatable."),
)
_PRECISION = click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(selection.PRECISIONS),
    help="Only ours in this precision; repeatable.",
)
_ROUNDS = click.option("--rounds", type=click.IntRange(1), help="Interleaved rounds. [15; fourcastnet 5]")
_PROCESSES = click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Of several each is a fresh one, with all rounds, and noise between them is in the interval.",
)
_OUTPUT = _options(
    click.option("--json", "json_path", type=_FILE, help="Write a results file."),
    click.option("--csv", "csv_path", type=_FILE, help="Write the rows."),
    click.option("--reproduce", is_flag=True, help="Print the command behind each row."),
)


@click.group(
    cls=_Bench,
    invoke_without_command=True,
    subcommand_metavar="",
    context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": True},
)
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@_SIZES
@click.option("--dtype", "dtypes", multiple=True, help="Of the input; repeatable. [the case's first]")
@_VARIANTS
@_ROUNDS
@_PROCESSES
@click.option("--quick", is_flag=True, help="A look: small shapes, 3 rounds, the first baseline only.")
@click.option("--list", "listing", is_flag=True, help="List cases, shapes and variants, and stop.")
@_OUTPUT
@click.option("--plot", "plot_path", type=_FILE, help="Draw the results.")
@click.option("--logger", "loggers", multiple=True, help="Add the run to a log: wandb, csv or csv=FILE.")
@click.pass_obj
@one_line_errors
def main(
    command_line, cases, device, threads, shapes, batches, dtypes, backends, peers, rounds, processes, quick,
    listing, json_path, csv_path, reproduce, plot_path, loggers,
):  # fmt: skip
    """Measure CASE (default: all), every variant in the same interleaved rounds on random input.

    Without --backend and --peer all that can runs. With --backend alone the case's baselines run beside it,
    with --peer alone all of ours. Speeds are against the fastest PyTorch variant that ran, or without one
    against the fastest peer.
    """
    target = _device(device, threads)
    chosen = [selection.case(name) for name in dict.fromkeys(cases or CASES)]
    if listing:
        for part in tables.cases(chosen, target):
            Console(width=120).print(part, highlight=False)
        return
    results = Results(command_line, {})
    if not cases:  # then what cannot run here is told and left out
        absent = {case.name: selection.missing(case, target) for case in chosen}
        chosen = [case for case in chosen if absent[case.name] is None]
        results.failed += [Failure(name, "every variant", why) for name, why in absent.items() if why]
    logs = [export.logger(text) for text in loggers]
    _writable(json_path, csv_path, plot=plot_path)
    sizes = [
        (case, size)
        for case in chosen
        for size in selection.sizes(case, target, shapes, batches, dtypes, quick)
    ]
    names = {case.name: selection.compared(case, target, backends, peers, quick) for case in chosen}
    state = {"allocator": keep_freed_memory(), "load": load()}
    ceilings = measure_ceilings(target, quick=quick)

    def take(case: Case, size: Size, progress: Progress) -> None:
        options: Any = {"rounds": rounds or (_QUICK_ROUNDS if quick else case.rounds), "progress": progress}
        if processes > 1:
            what = case.problem, size, names[case.name]
            rows, failed = measure_in_processes(*what, ceilings, processes=processes, **options)
        else:
            torch.compiler.reset()  # recompilations are limited, and old ones would count
            rows, failed = measure(case.problem(size, names[case.name]), ceilings, **options)
        results.times += rows
        results.failed += failed

    results.conditions = {**ceilings.conditions(), **state}
    _sweep(results, results.times, sizes, take, json_path, csv_path, reproduce)
    if plot_path:
        plots.plot_results([results], plot_path)
    for log in logs:
        log(results)


@main.command()
@click.argument("case")
@_SIZES
@_VARIANTS
@_PRECISION
@_ROUNDS
@_OUTPUT
@click.option("--plot", "plot_path", type=_FILE, help="Draw the parts.")
@click.option("--trace", "trace_path", type=_FILE, help="Write a step of each variant as a Chrome trace.")
@click.pass_obj
@one_line_errors
def profile(
    command_line, case, device, threads, shapes, batches, backends, peers, precisions, rounds,
    json_path, csv_path, reproduce, plot_path, trace_path,
):  # fmt: skip
    """Measure the time of a step of CASE by part: embedding, filter, MLP, head and what lies between."""
    target = _device(device, threads)
    chosen = selection.case(case)
    if chosen.network is None:
        having = ", ".join(name for name, case in CASES.items() if case.network)
        raise UserError(f"profile: {chosen.name} has no parts; {having} has")
    _writable(json_path, csv_path, trace_path, plot=plot_path)
    sizes = selection.sizes(chosen, target, shapes, batches)
    if len(sizes) > 1 and (plot_path or trace_path):
        raise UserError("--plot and --trace are of one size: give one --shape and one --batch")
    names = selection.variants(chosen, target, backends, peers, precisions)
    if backends or peers or precisions:
        for name in names:
            if name not in chosen.profiled:
                raise UserError(f"profile: {name} has no parts; choose from {', '.join(chosen.profiled)}")
    else:
        names = [name for name in names if name in chosen.profiled]
    state = {"allocator": keep_freed_memory(), "load": load()}
    ceilings = measure_ceilings(target)
    results = Results(command_line, {**ceilings.conditions(), **state})

    def take(case: Case, size: Size, progress: Progress) -> None:
        assert case.network is not None
        network = case.network(size, names)
        results.parts += measure_parts(network, ceilings, rounds=rounds or case.rounds, progress=progress)
        if trace_path:
            progress("writes the trace")
            write_trace(network, trace_path)

    _sweep(results, results.parts, [(chosen, s) for s in sizes], take, json_path, csv_path, reproduce)
    if plot_path:
        shape = "x".join(map(str, sizes[0].shape))
        title = f"{chosen.name}, {sizes[0].batch} x {shape}: {results.conditions['device']}"
        plots.plot_parts(results.parts, title, plot_path)


@main.command()
@click.argument("case")
@_SIZES
@click.option("--dtype", "dtypes", multiple=True, help="Of the input; repeatable. [the case's first]")
@_VARIANTS
@_PRECISION
@_OUTPUT
@click.pass_obj
@one_line_errors
def memory(
    command_line, case, device, threads, shapes, batches, dtypes, backends, peers, precisions,
    json_path, csv_path, reproduce,
):  # fmt: skip
    """Measure the peak memory of one call of CASE, each variant in a process of its own."""
    target = _device(device, threads)
    chosen = selection.case(case)
    _writable(json_path, csv_path)
    sizes = selection.sizes(chosen, target, shapes, batches, dtypes)
    names = selection.variants(chosen, target, backends, peers, precisions)
    if chosen.profiled and not (backends or peers or precisions):
        names = [name for name in names if name in chosen.profiled]  # the others take minutes to compile
    results = Results(command_line, {"load": load()})

    def take(case: Case, size: Size, progress: Progress) -> None:
        if case.memory:
            results.memory += case.memory(size, names, progress)
        else:
            results.memory += footprints(case.name, case.problem, size, names, progress)

    _sweep(results, results.memory, [(chosen, s) for s in sizes], take, json_path, csv_path, reproduce)


@main.command("compare")
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@click.option("--fail-on-slower", is_flag=True, help="Exit with 1 if one of ours became slower.")
@one_line_errors
def compare_command(old, new, fail_on_slower):
    """Show what changed from OLD to NEW, two results files of one device, beyond the noise of both.

    Speeds are compared, each against the baseline of its own run: another day's clock does not matter.
    """
    before, after = read(old), read(new)
    found = compare(before, after)
    for part in tables.changes(found, unmatched(before, found), unmatched(after, found)):
        _console().print(part, highlight=False)
    if fail_on_slower and any(c.row.kind == "ours" and c.verdict == "slower" for c in found):
        sys.exit(1)


@main.command()
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="RESULTS...")
@click.option("-o", "--output", type=_FILE, required=True, help="The page to write, such as report.html.")
@one_line_errors
def report(files, output):
    """Write RESULTS, one or more results files, as one HTML page that needs no network."""
    from wxkernels.bench import report

    if output.resolve() in (path.resolve() for path in files):
        raise UserError(f"--output: {output} is one of the results; name another file, such as report.html")
    report.write([read(path) for path in files], output)


def _device(name: str, threads: int | None) -> torch.device:
    if threads:
        torch.set_num_threads(threads)
    device = torch_device(name)
    assert isinstance(device, torch.device)
    return device


def _writable(*paths: Path | None, plot: Path | None = None) -> None:
    """UserError, before anything is measured: what is asked for cannot be written."""
    for path in (*paths, plot):
        if path:
            require_writable(path)
    if plot:
        drawing.require_format(plot)


@contextmanager
def _in_memory(case: Case, size: Size) -> Iterator[None]:
    """UserError: the machine's memory does not hold a problem."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError | BrokenExecutor)  # killed, the last
        if short or "allocate memory" in str(error) or "overflow" in str(error):
            text = f"{case.name} {size.options()} does not fit into memory; take a smaller shape or batch"
            raise UserError(text) from None
        raise


def _sweep(
    results: Results,
    records: Sequence[Any],
    sizes: Sequence[tuple[Case, Size]],
    take: Callable[[Case, Size, Progress], None],
    json_path: Path | None,
    csv_path: Path | None,
    reproduce: bool,
) -> None:
    """`take` adds what it finds at each size to `results`, which are written after each and shown at the end.

    records: what a CSV file has of them. A run that is stopped (Ctrl-C, TERM, an error) keeps what it found,
    marked as unfinished.
    """
    measured, done = results.conditions, 0
    files = [str(path) for path in (json_path, csv_path) if path]
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Console(stderr=True).status("") as status:
            for case, size in sizes:
                place = f"{done + 1} of {len(sizes)}: {case.name}, batch {size.batch}: "
                with _in_memory(case, size):
                    take(case, size, lambda text, place=place: status.update(place + text))  # type: ignore[misc]
                done += 1
                results.conditions = {**conditions(size.device), **measured}
                if done < len(sizes):
                    results.conditions["unfinished"] = f"{done} of {len(sizes)} sizes"
                if json_path:
                    results.write(json_path)
                if csv_path:
                    export.write_csv(records, csv_path)
    except (Exception, KeyboardInterrupt) as error:
        if done:
            tables.show(_console(), results, reproduce)
        if done or isinstance(error, KeyboardInterrupt):
            kept = f", which are in {' and '.join(files)}" if done and files else ""
            click.echo(f"stopped after {done} of {len(sizes)} sizes{kept}", err=True)
        if isinstance(error, KeyboardInterrupt):
            sys.exit(130)
        raise
    finally:
        signal.signal(signal.SIGTERM, former)
    tables.show(_console(), results, reproduce)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)
