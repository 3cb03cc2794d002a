"""What a forecast starts from: the model, the initial state, and the truth and climatology to score it by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr

from wxkernels import data
from wxkernels.errors import UserError
from wxkernels.io import load_climatology, open_fields, tutorial
from wxkernels.io.grid import Grid
from wxkernels.io.lexicon import FOURCASTNET_20

if TYPE_CHECKING:
    from wxkernels.models import WeatherModel

#: Networks of random weights: what of AFNONet's arguments is not FourCastNet's.
RANDOM_SIZES: dict[str, dict[str, Any]] = {
    "fourcastnet": {},
    "small": {"img_size": (32, 64), "embed_dim": 64, "depth": 2},
}


@dataclass
class Case:
    """A model with what it starts from.

    initial (variable, lat, lon) with the coordinate `time`; truth (time, variable, lat, lon), lazy, with the
    diagnosed variables that its file has; climatology (variable, lat, lon), NaN for those that it lacks;
    states (time, variable, lat, lon), lazy: all times of the file of the initial state; all in physical units
    on the model's grid.
    """

    model: WeatherModel
    initial: xr.DataArray
    truth: xr.DataArray | None
    climatology: xr.DataArray | None
    states: xr.DataArray | None = None

    @property
    def initial_time(self) -> np.datetime64:
        return np.datetime64(self.initial["time"].item(), "ns")


def load_case(
    source: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    statistics: str | Path | None = None,
    variables: Sequence[str] | None = None,
    orography: str | Path | None = None,
    precipitation: str | Path | None = None,
    time: Any = None,
    truth: str | Path | None = None,
    climatology: str | Path | None = None,
    regrid: bool = False,
) -> Case:
    """The case in `source`: a file, FourCastNet's tutorial folder, or None for the shipped forecast.

    checkpoint, statistics and climatology are found in a tutorial folder; elsewhere the checkpoint must be
    given. time: the initial time, by default the first. truth: by default the later times of `source`.
    Raises UserError, one line, for what is missing or does not fit.
    """
    from wxkernels import models

    if source is None and checkpoint is None:
        source, checkpoint = data.default_cases_path(), data.default_model_path()
        climatology = climatology or data.default_climatology_path()
    elif source is None:
        raise UserError("no initial state: give the file that holds it beside the checkpoint")
    source = Path(source)
    if source.is_dir():
        found = tutorial.find(source)
        checkpoint = checkpoint or found.checkpoint
        climatology = climatology or found.time_means
        if statistics is None and found.means is not None:
            statistics = found.means.parent
    if checkpoint is None:
        raise UserError(f"{source}: no checkpoint; give one with --model")
    model = models.load(
        checkpoint,
        statistics=statistics,
        variables=variables,
        orography=orography,
        precipitation=precipitation,
    )
    diagnosed = tuple(model.diagnostics)

    def opened(path: str | Path, nan: Literal["refuse", "keep"]) -> xr.DataArray:
        return open_fields(
            path, model.output_variables, grid=model.grid, regrid=regrid, optional=diagnosed, nan=nan
        )

    fields = opened(source, "refuse")
    at = _position(fields["time"].values, time, source)
    states = fields.sel(variable=list(model.variables))
    initial = states.isel(time=at).load()
    later = opened(truth or source, "keep")
    return Case(
        model,
        initial,
        later if (later["time"] > initial["time"]).any() or truth is not None else None,
        None
        if climatology is None
        else load_climatology(
            climatology, model.output_variables, model.grid, regrid=regrid, optional=diagnosed
        ),
        states,
    )


def random_case(size: str, seed: int) -> Case:
    """A network with random weights and a random state, to measure time and memory by: no forecast.

    size: one of RANDOM_SIZES. FourCastNet's 20 variables, means 0 and standard deviations 1.
    """
    from wxkernels.models import AFNONet, WeatherModel

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = AFNONet(**RANDOM_SIZES[size])
        values = torch.randn(len(FOURCASTNET_20), *network.img_size).numpy()
    H, W = network.img_size
    grid = Grid(90 - 180 / H * np.arange(H), 360 / W * np.arange(W))
    numbers = f"random numbers, seed {seed}"
    C = len(FOURCASTNET_20)
    model = WeatherModel(network, FOURCASTNET_20, grid, torch.zeros(C), torch.ones(C), source=numbers)
    coords = {"variable": list(FOURCASTNET_20), "lat": grid.lat, "lon": grid.lon}
    initial = xr.DataArray(values, coords, ("variable", "lat", "lon"), attrs={"source": numbers})
    return Case(model, initial.assign_coords(time=np.datetime64("2000-01-01", "ns")), None, None)


def _position(times: np.ndarray, wanted: Any, source: Path) -> int:
    if wanted is None:
        return 0
    try:
        wanted = np.datetime64(wanted, "ns")
    except ValueError:
        raise UserError(f"--time: {wanted!r} is no time; write 2018-01-01T06:00") from None
    found = np.flatnonzero(times == wanted)
    if not found.size:
        first, last = (np.datetime_as_string(t, "m") for t in (times[0], times[-1]))
        raise UserError(
            f"{source}: has no time {np.datetime_as_string(wanted, 'm')}; it holds {len(times)}"
            f" from {first} to {last}"
        )
    return int(found[0])
