"""Small fields with the project's dimensions, and the scores of an ensemble in one call."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

from wxkernels.verification import Scorer

START = np.datetime64("2018-01-01", "ns")
STEP = np.timedelta64(6, "h")


def coordinates(lat: np.ndarray, columns: int, variables: tuple[str, ...]) -> dict:
    return {"variable": list(variables), "lat": lat, "lon": np.arange(columns) * (360 / columns)}


@pytest.fixture(scope="session")
def make_fields() -> Callable[..., xr.DataArray]:
    """Values (time, variable, lat, lon), or without time, as a DataArray from START in steps of 6 h."""

    def make(values: np.ndarray, variables: tuple[str, ...] = ("z500", "t2m"), lat: np.ndarray | None = None):
        rows, columns = values.shape[-2:]
        lat = np.linspace(90, -90, rows) if lat is None else lat
        coords = coordinates(lat, columns, variables)
        if values.ndim == 3:
            return xr.DataArray(values, coords, ("variable", "lat", "lon"))
        coords["time"] = START + np.arange(len(values)) * STEP
        return xr.DataArray(values, coords, ("time", "variable", "lat", "lon"))

    return make


@pytest.fixture(scope="session")
def score_steps() -> Callable[..., xr.Dataset]:
    """Scores of members (lead, member, variable, lat, lon) whose step 0 is the initial time START."""

    def score(truth: xr.DataArray, members: np.ndarray, **options) -> xr.Dataset:
        scorer = Scorer(truth, init_time=START, lead_times=np.arange(len(members)) * STEP, **options)
        for step, fields in enumerate(members):
            scorer.update(step, torch.from_numpy(fields))
        return scorer.result()

    return score
