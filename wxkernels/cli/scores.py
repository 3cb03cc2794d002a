"""The options and the output that `forecast` and `verify` share: table, files and pictures of the scores."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console

from wxkernels.errors import UserError
from wxkernels.io.files import require_writable

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


PICTURES = (".png", ".pdf", ".svg")
NAMES = ("weights", "score_file", "plot", "maps", "map_variable", "map_lead")  # as `show` takes them


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `show` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check(
    report: dict[str, Option], variables: Sequence[str], lead_times: np.ndarray, others: Sequence[Path] = ()
) -> None:
    """UserError for what `show` (or a writer of `others`) could not do: before the work, not after it.

    variables, lead_times: what the forecast holds for the maps.
    """
    files = {name: report[name] for name in ("score_file", "plot", "maps") if report[name] is not None}
    for path in (*files.values(), *others):
        require_writable(path)
    for name, kinds in (("score_file", (".csv", ".json")), ("plot", PICTURES), ("maps", PICTURES)):
        if name in files and files[name].suffix not in kinds:
            raise UserError(f"{files[name]}: expected a name that ends with {' or '.join(kinds)}")
    if report["map_variable"] is not None and report["map_variable"] not in variables:
        raise UserError(
            f"--map-variable: the forecast keeps no {report['map_variable']}; it keeps {', '.join(variables)}"
        )
    if report["map_lead"] is not None and not np.any(lead_times == _lead(report["map_lead"])):
        raise UserError(f"--map-lead: the forecast keeps no lead time of {report['map_lead']:g} h")
    if {"plot", "maps"} & set(files) and not can_draw():
        raise UserError("pictures need matplotlib; pip install 'wxkernels[plot]'")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _lead(hours: float) -> np.timedelta64:
    """UserError: `hours` is not finite."""
    if not np.isfinite(hours):
        raise UserError(f"--map-lead: expected hours, got {hours}")
    return np.timedelta64(round(hours * 3600), "s").astype("timedelta64[ns]")


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
            lead = _lead(map_lead)
        verification.plot_maps(forecast, truth, variable, lead, maps)
    if written:
        console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
