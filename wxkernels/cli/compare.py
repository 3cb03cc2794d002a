"""wxkernels verify --compare: the skill of one model in several precisions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from wxkernels.cli import inputs, scores
from wxkernels.cli.quantize import summary
from wxkernels.errors import UserError

if TYPE_CHECKING:
    import xarray as xr

    from wxkernels.forecast.case import Case
    from wxkernels.models import WeatherModel

STATES = 4  # to calibrate on


def compare(source: Path | None, precisions: str, options: dict[str, Any], report: dict[str, Any]) -> None:
    """Run the forecast of `inputs` in each precision, print how they differ and write the files asked for."""
    from wxkernels.forecast.compare import compare, initial_times
    from wxkernels.verification import plot_comparison, print_comparison
    from wxkernels.verification.comparison import to_table_file

    names = _names(precisions)
    if wrong := [name for name in ("maps", "map_variable", "map_lead") if report[name] is not None]:
        raise UserError(f"--{wrong[0].replace('_', '-')}: --compare draws no maps; leave it away")
    scores.check(report, (), np.array([], "timedelta64[ns]"))
    perturbation, batch_size = inputs.perturbation_of(options), inputs.batch_size_of(options["batch_size"])
    case = inputs.case_of(source, options["model"], options)
    assert case.states is not None
    steps = options["steps"]
    starts = initial_times(case, options["starts"], steps)
    console = Console(highlight=False)
    hours = case.model.time_step / np.timedelta64(1, "h")
    console.print(
        f"{options['members']} members, {steps} steps of {hours:g} h from"
        f" {_span(starts)}, {len(case.model.output_variables)} variables on {case.model.grid}",
        soft_wrap=True,
    )
    with inputs.on_machine(options) as device:
        dataset = compare(
            _models(case, names, starts, options, device, console),
            case.states.sel(time=starts),
            steps=steps,
            members=options["members"],
            perturbation=perturbation,
            control=options["control"],
            seed=options["seed"],
            batch_size=batch_size,
            truth=case.truth,
            climatology=case.climatology,
            weights=report["weights"],
            progress=not options["no_progress"],
        )
    print_comparison(dataset, console)
    if report["score_file"] is not None:
        to_table_file(dataset, report["score_file"])
    if report["plot"] is not None:
        plot_comparison(dataset, report["plot"])
    if written := [str(report[name]) for name in ("score_file", "plot") if report[name] is not None]:
        console.print(f"written: {', '.join(written)}", soft_wrap=True)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if len(names) < 2 or len(set(names)) < len(names) or not set(names) <= {"fp32", "bf16", "int8", "fp8"}:
        raise UserError(f"--compare: expected two or more of fp32,bf16,int8,fp8, got {text!r}")
    return names


def _models(
    case: Case,
    names: list[str],
    starts: np.ndarray,
    options: dict[str, Any],
    device: torch.device,
    console: Console,
) -> dict[str, WeatherModel]:
    """The case's model in each precision, on the device; says what calibrated it."""
    from wxkernels.forecast.calibrate import calibrate

    if case.model.precision != "fp32":
        raise UserError(
            f"{case.model.source}: is in {case.model.precision} already; give the checkpoint it was made from"
        )
    states = _calibration(case, starts, options, console)
    models = {name: copy.deepcopy(case.model).to(device) for name in names}
    for name, model in models.items():
        if name != "fp32":
            scheme = calibrate(model, states, name, name=str(states.attrs.get("source", "")))
            console.print(f"{name}: {summary(scheme, states.sizes['time'])}", soft_wrap=True)
    return models


def _calibration(case: Case, starts: np.ndarray, options: dict[str, Any], console: Console) -> xr.DataArray:
    """The states to calibrate on: of --calibration, or of the source, if it can be none that is scored."""
    from wxkernels.forecast.compare import calibration_times, evenly
    from wxkernels.io import open_fields

    path, model = options["calibration"], case.model
    if path is not None:
        fields = open_fields(path, model.variables, grid=model.grid, regrid=options["regrid"])
        states = fields.sel(time=evenly(fields["time"].values, STATES))
        what = f"those of {path}"
    else:
        assert case.states is not None
        times = calibration_times(case, starts, options["steps"], STATES)
        states = case.states.sel(time=times)
        scored = np.isin(times, starts).any()
        what = "the initial ones: the data has no others" if scored else "none of them scored"
    console.print(
        f"calibrated on {states.sizes['time']} of the states, {what}: "
        + ", ".join(np.datetime_as_string(states["time"].values, "m")),
        soft_wrap=True,
    )
    return states.load()


def _span(times: np.ndarray) -> str:
    texts = np.datetime_as_string(times, "m")
    return texts[0] if len(texts) == 1 else f"{len(texts)} times, {texts[0]} to {texts[-1]}"
