"""The options and the output that `forecast` and `verify` share: table, files and pictures of the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console

from wxkernels.errors import UserError

if TYPE_CHECKING:
    import xarray as xr

Option = Any  # what click hands over for one of `options`

_OPTIONS = (
    click.option(
        "--weights",
        type=click.Choice(["weatherbench2", "fourcastnet"]),
        default="weatherbench2",
        show_default=True,
        help="Convention of area weights and averages.",
    ),
    click.option(
        "--scores", "score_file", type=click.Path(path_type=Path), help="Write scores: .csv or .json."
    ),
    click.option(
        "--plot", type=click.Path(path_type=Path), help="Draw scores against lead time (.png, .pdf, .svg)."
    ),
    click.option(
        "--maps", type=click.Path(path_type=Path), help="Draw maps of mean, spread, truth and error."
    ),
    click.option("--map-variable", help="The variable of the maps. [a key variable]"),
    click.option("--map-lead", type=float, help="The lead time of the maps in hours. [the last with truth]"),
)


NAMES = ("weights", "score_file", "plot", "maps", "map_variable", "map_lead")  # as `show` takes them


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `show` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check(score_file: Path | None) -> None:
    """UserError for a score file of an unknown kind: before the work, not after it."""
    if score_file is not None and score_file.suffix not in (".csv", ".json"):
        raise UserError(f"--scores: {score_file} ends neither with .csv nor with .json")


def show(
    dataset: xr.Dataset,
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    weights: str,
    score_file: Path | None,
    plot: Path | None,
    maps: Path | None,
    map_variable: str | None,
    map_lead: float | None,
) -> None:
    """Print the table of `dataset`, which `weights` made; write the files and pictures asked for."""
    from wxkernels import verification
    from wxkernels.verification.report import key_variables

    check(score_file)
    console = Console(highlight=False)
    verification.print_table(dataset, console)
    unscored = [name for name in forecast["variable"].values if name not in dataset["variable"].values]
    if unscored:
        console.print(f"not scored, the truth lacks it: {', '.join(unscored)}", soft_wrap=True)
    written = [path for path in (score_file, plot, maps) if path is not None]
    if score_file is not None:
        write = verification.to_csv if score_file.suffix == ".csv" else verification.to_json
        write(dataset, score_file)
    if plot is not None:
        verification.plot_scores(dataset, plot)
    if maps is not None:
        stored = [name for name in dataset["variable"].values if name in forecast["variable"].values]
        variable = map_variable or key_variables(dataset.sel(variable=stored))[0]
        if map_lead is None:
            scored = dataset["lead_time"].values[dataset["times"].values > 0]
            lead = np.intersect1d(scored, forecast["lead_time"].values)[-1]
        else:
            lead = np.timedelta64(round(map_lead * 3600), "s").astype("timedelta64[ns]")
        verification.plot_maps(forecast, truth, variable, lead, maps)
    if written:
        console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
