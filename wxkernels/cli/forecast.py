"""wxkernels forecast: from an initial state to an ensemble forecast, its scores and its pictures."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from rich.console import Console

import wxkernels
from wxkernels import backends
from wxkernels.cli import inputs, one_line_errors, scores
from wxkernels.cli.quantize import quantize
from wxkernels.errors import UserError

if TYPE_CHECKING:
    from wxkernels.forecast import Perturbation, Result
    from wxkernels.forecast.case import Case
    from wxkernels.io import Output


@click.command()
@click.argument("source", type=click.Path(path_type=Path), required=False)
@inputs.data
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "int8", "fp8"]),
    help="Of weights and products; calibrates on the initial state. [the checkpoint's]",
)
@inputs.random_weights
@inputs.members
@inputs.machine
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The zarr store. [forecast.zarr, -2, -3, ...]"
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; give its other arguments again.")
@click.option("--overwrite", is_flag=True, help="Replace a forecast at --output.")
@click.option("--keep", help="Write only these variables, separated by commas.")
@click.option("--keep-leads", help="Write only these lead times in hours, separated by commas.")
@click.option("--region", help="Write only this box: north,west,south,east in degrees.")
@click.option("--statistics-only", is_flag=True, help="Write mean and standard deviation instead of members.")
@click.option("--netcdf", type=click.Path(path_type=Path), help="Write the forecast as netCDF too.")
@click.option(
    "--no-capture", is_flag=True, help="On a GPU: launch every step anew instead of replaying its CUDA graph."
)
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@scores.options
@one_line_errors
def forecast(source: Path | None, model: Path | None, **options: Any) -> None:
    """Forecast from the state in SOURCE: a file of fields, or FourCastNet's tutorial folder (ccai_demo).

    Without arguments: the shipped shallow-water model from a state it never saw, scored against the truth,
    with a picture of the scores and maps beside the store.
    """
    random = options["random_weights"] is not None
    shipped = source is None and model is None and not random
    console = Console(highlight=False)
    report = {name: options.pop(name) for name in scores.NAMES}
    if report["maps"] and options["statistics_only"]:
        raise UserError("--maps: draws the members; leave --statistics-only away")
    case = inputs.case_of(source, model, options)
    if case.truth is None and any(report[name] for name in ("score_file", "plot", "maps")):
        raise UserError("there is no truth to score against; give it with --truth")
    store, output = _store(options["output"], options["resume"]), _output(options)
    if shipped:
        _name_reports(report, store, options["statistics_only"])
    leads = (np.arange(options["steps"] + 1) * case.model.time_step).astype("timedelta64[ns]")
    kept = case.model.output_variables if output.variables is None else output.variables
    netcdf = [] if options["netcdf"] is None else [options["netcdf"]]
    scores.check(report, kept, leads if output.lead_times is None else np.array(output.lead_times), netcdf)
    count = options["members"]
    console.print(
        f"{count} member{'s' if count > 1 else ''}, {options['steps']} steps of {_hours(case)} h from"
        f" {np.datetime_as_string(case.initial_time, 'm')}, {len(case.model.output_variables)} variables on"
        f" {case.model.grid}",
        soft_wrap=True,
    )
    if random:
        console.print("random weights, a random state: this measures time, it is no forecast")
    with inputs.on_machine(options) as device:
        quantize(case, options["precision"], device, console)
        layers = case.model.scheme.layers.values() if case.model.scheme else ()
        if any(layer.precision == "fp8" for layer in layers) and not backends.has_gpu_kernel("mlp", device):
            console.print(
                f"fp8 has no kernel that is proven on {device}: PyTorch computes it, correct and slow"
            )
        result, scorer = _run(case, store, leads, output, options, report["weights"], device)
    if result.member_steps:  # none of a run that was complete
        each, model_s = (s / result.member_steps for s in (result.seconds, result.model_seconds))
        console.print(
            f"{result.member_steps} member-steps in {result.seconds:.1f} s, {result.speed:.3g} a second;"
            f" {each:.3g} s a member-step, {model_s:.3g} s of it the model in {case.model.precision};"
            f" written: {store}",
            soft_wrap=True,
        )
    if options["netcdf"]:
        from wxkernels.io import to_netcdf

        to_netcdf(store, options["netcdf"])
        console.print(f"written: {options['netcdf']}", soft_wrap=True)
    _score(case, store, report, scorer)


def _store(output: Path | None, resume: bool) -> Path:
    """The store's path: as given, else the first of forecast.zarr, forecast-2.zarr, ... that is free."""
    if output is not None:
        return output if output.suffix == ".zarr" else output.with_name(output.name + ".zarr")
    if resume:
        raise UserError("--resume: give the store to go on with, --output")
    names = (Path("forecast.zarr" if i == 1 else f"forecast-{i}.zarr") for i in range(1, sys.maxsize))
    return next(path for path in names if not path.exists())


def _hours(case: Case) -> str:
    return f"{case.model.time_step / np.timedelta64(1, 'h'):g}"


def _name_reports(report: dict[str, Any], store: Path, statistics_only: bool) -> None:
    """Give the shipped forecast its score file and pictures beside the store, where none were asked for."""
    suffixes = {"score_file": "-scores.csv", "plot": "-scores.png", "maps": "-maps.png"}
    if not scores.can_draw():
        click.echo("no pictures: they need matplotlib, pip install 'wxkernels[plot]'", err=True)
        suffixes = {"score_file": "-scores.csv"}
    elif statistics_only:
        del suffixes["maps"]
    for name, suffix in suffixes.items():
        report[name] = report[name] or store.with_name(store.stem + suffix)


def _run(
    case: Case,
    store: Path,
    leads: np.ndarray,
    output: Output,
    options: dict[str, Any],
    weights: str,
    device: torch.device,
) -> tuple[Result, Any]:
    """The run and its scorer. A run that is refused before its first state leaves no store behind."""
    from wxkernels import forecast as runner
    from wxkernels.io import ForecastWriter
    from wxkernels.verification import Scorer

    batch_size = inputs.batch_size_of(options["batch_size"])
    perturbation = inputs.perturbation_of(options)
    scorer = None
    if case.truth is not None:
        scorer = Scorer(
            case.truth,
            init_time=case.initial_time,
            lead_times=leads,
            variables=[str(name) for name in case.truth["variable"].values],
            channels=case.model.output_variables,
            grid=case.model.grid,
            climatology=case.climatology,
            weights=weights,  # type: ignore[arg-type]
        )
    writer = ForecastWriter(
        store,
        grid=case.model.grid,
        variables=case.model.output_variables,
        time=case.initial_time,
        lead_times=leads,
        members=options["members"],
        attrs=_provenance(case, perturbation, options),
        output=output,
        resume=options["resume"],
        overwrite=options["overwrite"],
    )
    try:
        result = runner.run(
            case.model,
            case.initial,
            steps=options["steps"],
            members=options["members"],
            perturbation=perturbation,
            control=options["control"],
            seed=options["seed"],
            batch_size=batch_size,
            device=device,
            writer=writer,
            scorer=scorer,
            resume=options["resume"],
            progress=not options["no_progress"],
            capture=not options["no_capture"],
        )
    except UserError:
        if not options["resume"] and not any(store.rglob("c/*")):  # zarr's chunks
            shutil.rmtree(store, ignore_errors=True)
        raise
    except runner.Interrupted as stop:
        again = [a for a in sys.argv[1:] if a not in ("--resume", "--overwrite")]
        if options["output"] is None:
            again += ["--output", str(store)]
        click.echo(
            f"\nstopped in step {stop.step}; go on with: wxkernels {shlex.join(again)} --resume", err=True
        )
        sys.exit(130)
    return result, scorer


def _output(options: dict[str, Any]) -> Output:
    from wxkernels.io import Output
    from wxkernels.io.lexicon import canonical

    keep = options["keep"]
    hours = _numbers("--keep-leads", options["keep_leads"])
    region = _numbers("--region", options["region"])
    if region is not None and len(region) != 4:
        raise UserError(f"--region: expected north,west,south,east, got {options['region']!r}")
    kept = None
    if hours is not None:
        kept = [np.timedelta64(round(h * 3600), "s").astype("timedelta64[ns]") for h in hours]
    return Output(
        variables=None if keep is None else [canonical(name) for name in keep.split(",")],
        lead_times=kept,
        region=None if region is None else (region[0], region[1], region[2], region[3]),
        statistics_only=options["statistics_only"],
    )


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{option}: expected numbers separated by commas, got {text!r}")
    return numbers


def _provenance(case: Case, perturbation: Perturbation | None, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": "ensemble forecast" if case.model.sha256 else "random weights: no forecast",
        "source": f"wxkernels {wxkernels.__version__}, torch {torch.__version__}",
        "checkpoint": case.model.source,
        "checkpoint_sha256": case.model.sha256,
        "diagnosed": list(case.model.diagnostics),
        "precision": case.model.precision,
        "scheme": None if case.model.scheme is None else case.model.scheme.to_dict(),
        "initial_state": str(case.initial.attrs.get("source", "")),
        "command": shlex.join(["wxkernels", *sys.argv[1:]]),
        "created": np.datetime_as_string(np.datetime64("now"), "s") + "Z",
        "perturbation": "none" if perturbation is None else repr(perturbation),
        "control": options["control"],
        "seed": options["seed"],
    }


def _score(case: Case, store: Path, report: dict[str, Any], scorer: Any | None) -> None:
    """Table, files and pictures of the scores, where there is a truth and, of a complete run, all fields."""
    if case.truth is None or scorer is None or not scorer.scored:
        return
    from wxkernels.io import open_forecast

    scores.show(scorer.result(), open_forecast(store), case.truth, **report)
