"""wxkernels statistics: means, standard deviations and the climatology of a data set."""

from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from wxkernels.cli import one_line_errors
from wxkernels.errors import UserError


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-v", "--variables", required=True, help="Names in channel order, separated by commas.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="A folder, or a .nc file."
)
@click.option("--climatology", type=click.Path(path_type=Path), help="Write the time mean here too (.nc).")
@click.option("--start", help="First time to take, such as 2018-01-01.")
@click.option("--end", help="Last time to take; a date means all of that day.")
@one_line_errors
def statistics(
    data: Path, variables: str, output: Path, climatology: Path | None, start: str | None, end: str | None
) -> None:
    """Compute mean and standard deviation of each variable of DATA over all times and points.

    A folder gets global_means.npy and global_stds.npy, as FourCastNet has them, and their variables.json.
    """
    from wxkernels.io import open_fields
    from wxkernels.io.statistics import compute, save_climatology, time_mean

    fields = open_fields(data, variables.split(","), untimed=True)
    fields = fields.isel(time=_between(fields["time"].values, start, end))
    found = compute(fields)
    found.save(output)
    if climatology:
        save_climatology(time_mean(fields), climatology)
    table = Table(
        "variable", "mean", "standard deviation", title=f"{data}, number of times: {fields.sizes['time']}"
    )
    for name, mean, std in zip(found.variables, found.mean, found.std, strict=True):
        table.add_row(name, f"{mean:.6g}", f"{std:.6g}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"written: {output}" + (f", {climatology}" if climatology else ""), soft_wrap=True)


def _between(times: np.ndarray, start: str | None, end: str | None) -> np.ndarray:
    """Positions from `start` to the end of `end` (a day, a month, a year). UserError: no time is there."""
    chosen = np.ones(len(times), bool)
    if start is not None:
        chosen &= times >= _time("--start", start).astype("datetime64[ns]")
    if end is not None:
        chosen &= times < (_time("--end", end) + 1).astype("datetime64[ns]")
    if not chosen.any():
        first, last = (np.datetime_as_string(t, "m") for t in (times[0], times[-1]))
        raise UserError(f"no time from {start} to {end}; the data holds {first} to {last}")
    return np.flatnonzero(chosen)


def _time(option: str, text: str) -> np.datetime64:
    """The time in `text`, in the unit that it is written to."""
    try:
        return np.datetime64(text)
    except ValueError:
        raise UserError(f"{option}: {text!r} is no time; write 2018-01-01 or 2018-01-01T06:00") from None
