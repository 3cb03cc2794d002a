"""Scores of a forecast that is stored."""

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from wxkernels.errors import UserError
from wxkernels.io import open_forecast
from wxkernels.verification.scorer import Scorer
from wxkernels.verification.weights import Convention


def verify(
    forecast: str | Path | xr.DataArray,
    truth: xr.DataArray,
    *,
    climatology: xr.DataArray | None = None,
    weights: Convention = "weatherbench2",
    allow_partial: bool = False,
) -> xr.Dataset:
    """Scores of a stored forecast, the numbers a `Scorer` gives while the forecast runs.

    forecast: the path of a store, or a DataArray (ensemble, time, lead_time, variable, lat, lon), of which
    ensemble and time may be no dimensions; one time and lead is read at a time. The other arguments are those
    of `Scorer`; returns its `result`. What the forecast's attribute `diagnosed` names is scored where the
    truth has it. allow_partial admits a store whose run has not ended. Raises UserError.
    """
    if not isinstance(forecast, xr.DataArray):
        forecast = open_forecast(forecast, allow_partial=allow_partial)
    if "statistic" in forecast.dims:
        raise UserError("forecast: holds only mean and standard deviation; scores need the members")
    for dim in ("lead_time", "variable", "lat", "lon", "time"):
        if dim not in forecast.coords:
            raise UserError(
                f"forecast: has no coordinate {dim}; it has {', '.join(map(str, forecast.coords))}"
            )
    for dim in ("ensemble", "time"):
        if dim not in forecast.dims:
            forecast = forecast.expand_dims(dim)
    forecast = forecast.transpose("time", "lead_time", "ensemble", "variable", "lat", "lon")
    names = [str(name) for name in forecast["variable"].values]
    absent = set(forecast.attrs.get("diagnosed", ())) - set(truth["variable"].values)
    times, leads = forecast["time"].values, forecast["lead_time"].values
    covered = [time for time in times if np.isin(time + leads, truth["time"].values).any()]
    scorer = Scorer(
        truth,
        variables=[name for name in names if name not in absent],
        channels=names,
        grid=forecast,
        init_time=(covered or times)[0],
        lead_times=leads,
        climatology=climatology,
        weights=weights,
    )
    for init_time, fields in zip(times, forecast, strict=True):
        scorer.start(init_time)
        for step, members in enumerate(fields):
            scorer.update(step, torch.from_numpy(np.array(members.values)))
    return scorer.result()
