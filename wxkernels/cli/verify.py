"""wxkernels verify: score a stored forecast against the truth."""

from pathlib import Path

import click

from wxkernels.cli import one_line_errors, scores


@click.command()
@click.argument("forecast", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option(
    "--climatology", type=click.Path(path_type=Path), help="Time means, for ACC and as a reference."
)
@click.option("--regrid", is_flag=True, help="Interpolate truth and climatology to the forecast's grid.")
@click.option("--allow-partial", is_flag=True, help="Score a forecast whose run has not ended.")
@scores.options
@one_line_errors
def verify(
    forecast: Path,
    truth: Path,
    climatology: Path | None,
    regrid: bool,
    allow_partial: bool,
    **report: scores.Option,
) -> None:
    """Score FORECAST (a zarr store of `wxkernels forecast`) against TRUTH (any file of fields)."""
    from wxkernels import verification
    from wxkernels.io import load_climatology, open_fields, open_forecast
    from wxkernels.io.grid import grid_of

    stored = open_forecast(forecast, allow_partial=allow_partial)
    variables, grid = [str(name) for name in stored["variable"].values], grid_of(stored)
    diagnosed = stored.attrs.get("diagnosed", [])
    scores.check(report, variables, stored["lead_time"].values)
    observed = open_fields(truth, variables, grid=grid, regrid=regrid, nan="keep", optional=diagnosed)
    mean = None
    if climatology is not None:
        mean = load_climatology(climatology, variables, grid, regrid=regrid, optional=diagnosed)
    found = verification.verify(
        forecast,
        observed,
        climatology=mean,
        weights=report["weights"],
        allow_partial=allow_partial,
    )
    scores.show(found, stored, observed, **report)
