"""wxkernels verify: score a stored forecast against the truth, or a model's precisions against each other."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from wxkernels.cli import compare, inputs, one_line_errors, scores
from wxkernels.errors import UserError


@click.command()
@click.argument("forecast", type=click.Path(path_type=Path), required=False)
@click.argument("truth_file", metavar="TRUTH", type=click.Path(path_type=Path), required=False)
@click.option("--allow-partial", is_flag=True, help="Score a forecast whose run has not ended.")
@click.option(
    "--compare", metavar="PRECISIONS",
    help="Run the forecast in each, such as fp32,bf16,int8, and hold all of them against the first."
    " The options below are those of `wxkernels forecast`.",
)  # fmt: skip
@click.option(
    "--starts", type=click.IntRange(1), default=1, show_default=True,
    help="Initial times to compare over, spread evenly over SOURCE from --time on.",
)  # fmt: skip
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="States to calibrate on. [times of SOURCE that are not scored]",
)
@inputs.data
@inputs.members
@inputs.machine
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@scores.options
@click.pass_context
@one_line_errors
def verify(context: click.Context, forecast: Path | None, truth_file: Path | None, **options: Any) -> None:
    """Score FORECAST (a zarr store of `wxkernels forecast`) against TRUTH (any file of fields).

    With --compare the only argument is SOURCE, as in `wxkernels forecast`, without it the shipped forecast:
    RMSE, CRPS, ACC and spread of the model in each precision, and how far each member is from itself in the
    first one.
    """
    report = {name: options.pop(name) for name in scores.NAMES}
    given = [p for p in options if context.get_parameter_source(p) is not ParameterSource.DEFAULT]
    if options["compare"] is None:
        _stored(forecast, truth_file, given, options, report)
    elif truth_file is not None or options["allow_partial"]:
        what = "--allow-partial" if truth_file is None else f"{truth_file} (a truth is given with --truth)"
        raise UserError(f"--compare: runs the forecast itself, from SOURCE alone; leave away {what}")
    else:
        compare.compare(forecast, options["compare"], options, report)


def _stored(
    forecast: Path | None,
    truth: Path | None,
    given: list[str],
    options: dict[str, Any],
    report: dict[str, Any],
) -> None:
    from wxkernels import verification
    from wxkernels.io import load_climatology, open_fields, open_forecast
    from wxkernels.io.grid import grid_of

    if forecast is None or truth is None:
        raise UserError("give the FORECAST and the TRUTH, or --compare fp32,bf16,int8")
    if wrong := [name for name in given if name not in ("climatology", "regrid", "allow_partial")]:
        raise UserError(f"--{wrong[0].replace('_', '-')}: is for --compare; a stored forecast has been made")
    stored = open_forecast(forecast, allow_partial=options["allow_partial"])
    variables, grid = [str(name) for name in stored["variable"].values], grid_of(stored)
    diagnosed = stored.attrs.get("diagnosed", [])
    scores.check(report, variables, stored["lead_time"].values)
    regrid, mean = options["regrid"], None
    observed = open_fields(truth, variables, grid=grid, regrid=regrid, nan="keep", optional=diagnosed)
    if options["climatology"] is not None:
        mean = load_climatology(options["climatology"], variables, grid, regrid=regrid, optional=diagnosed)
    found = verification.verify(
        forecast,
        observed,
        climatology=mean,
        weights=report["weights"],
        allow_partial=options["allow_partial"],
    )
    scores.show(found, stored, observed, **report)
