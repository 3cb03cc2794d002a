"""Scores of a stored forecast are those of the run."""

import numpy as np
import pytest
import torch
import xarray as xr

from wxkernels.errors import UserError
from wxkernels.io import ForecastWriter, Output, open_forecast
from wxkernels.io.grid import Grid
from wxkernels.verification import Scorer, verify

START = np.datetime64("2018-01-01", "ns")
LEADS = np.arange(4) * np.timedelta64(6, "h").astype("timedelta64[ns]")


@pytest.fixture
def truth(make_fields) -> xr.DataArray:
    return make_fields(np.random.default_rng(0).standard_normal((6, 2, 5, 8)).astype(np.float32))


@pytest.fixture
def members() -> np.ndarray:
    return (
        np.random.default_rng(1).standard_normal((4, 3, 2, 5, 8)).astype(np.float32)
    )  # (lead, member, C, H, W)


def write(
    path, truth: xr.DataArray, members: np.ndarray, *, complete: bool = True, output: Output | None = None
):
    grid = Grid(truth.lat.values, truth.lon.values)
    options = {"time": START, "lead_times": LEADS, "members": 3, "attrs": {}, "output": output}
    writer = ForecastWriter(path, grid=grid, variables=["z500", "t2m"], **options)
    for step, fields in enumerate(members):
        if output is not None and output.statistics_only:
            writer.statistics(step, fields.mean(0), fields.std(0))
        else:
            writer.put(step, slice(0, 3), fields)
    writer.close(complete=complete)


def test_store_scores_as_the_run_did(tmp_path, truth, members, score_steps):
    write(tmp_path / "run.zarr", truth, members)
    running = score_steps(truth, members, climatology=truth[5])
    xr.testing.assert_identical(verify(tmp_path / "run.zarr", truth, climatology=truth[5]), running)
    stored = open_forecast(tmp_path / "run.zarr")
    xr.testing.assert_identical(verify(stored.isel(time=0), truth, climatology=truth[5]), running)


def test_chosen_leads_variables_and_region(tmp_path, truth, members, score_steps):
    output = Output(variables=["t2m"], lead_times=LEADS[[1, 3]], region=(50, 0, -50, 200))
    write(tmp_path / "part.zarr", truth, members, output=output)
    part = verify(tmp_path / "part.zarr", truth)
    region = truth.sel(lat=slice(50, -50), lon=slice(0, 200))
    whole = score_steps(region, members[..., 1:4, :5], variables=["z500", "t2m"])
    xr.testing.assert_allclose(part, whole.sel(variable=["t2m"]).isel(lead_time=[1, 3]))


def test_several_initial_times(truth, members):
    dims = ("ensemble", "time", "lead_time", "variable", "lat", "lon")
    two = np.stack([members, members[::-1]]).transpose(2, 0, 1, 3, 4, 5)
    coords = {"time": truth.time[:2], "lead_time": LEADS, **{name: truth[name] for name in truth.dims[1:]}}
    found = verify(xr.DataArray(two, {**coords, "ensemble": range(3)}, dims), truth)
    scorer = Scorer(truth, init_time=START, lead_times=LEADS)
    for first, steps in enumerate((members, members[::-1])):
        scorer.start(truth.time.values[first])
        for step, fields in enumerate(steps):
            scorer.update(step, torch.from_numpy(fields.copy()))
    xr.testing.assert_identical(found, scorer.result())


def test_initial_times_without_truth_are_passed_over(truth, members, score_steps):
    dims = ("time", "lead_time", "ensemble", "variable", "lat", "lon")
    times = START - np.array([365, 0], dtype="timedelta64[D]")
    coords = {"time": times, "lead_time": LEADS, **{name: truth[name] for name in truth.dims[1:]}}
    found = verify(xr.DataArray(np.stack([members, members]), coords, dims), truth)
    expected = score_steps(truth, members)
    xr.testing.assert_equal(found, expected)
    assert found.attrs["missing_truth"].startswith("2017-01-01T00:00, ")


def test_deterministic_forecast_needs_no_member_dimension(truth, members, score_steps):
    coords = {"lead_time": LEADS, "time": START, **{name: truth[name] for name in truth.dims[1:]}}
    forecast = xr.DataArray(members[:, 0], coords, ("lead_time", "variable", "lat", "lon"))
    xr.testing.assert_identical(verify(forecast, truth), score_steps(truth, members[:, :1]))


def test_what_cannot_be_scored(tmp_path, truth, members):
    write(tmp_path / "half.zarr", truth, members[:2], complete=False)
    with pytest.raises(UserError, match="unfinished"):
        verify(tmp_path / "half.zarr", truth)
    half = verify(tmp_path / "half.zarr", truth, allow_partial=True)
    assert half["rmse"].isnull().any("variable").values.tolist() == [False, False, True, True]
    write(tmp_path / "mean.zarr", truth, members, output=Output(statistics_only=True))
    with pytest.raises(UserError, match="only mean and standard deviation"):
        verify(tmp_path / "mean.zarr", truth)
    with pytest.raises(UserError, match="no coordinate lead_time"):
        verify(truth, truth)


def test_channels_that_the_truth_lacks_are_passed_over(truth, members, score_steps):
    """A diagnosed variable without truth; one that is not diagnosed must be there."""
    two = truth.assign_coords(variable=["tp06", "t2m"])
    one, mean = two.sel(variable=["t2m"]), two[5].where(two["variable"] != "tp06")
    dims = ("lead_time", "ensemble", "variable", "lat", "lon")
    coords = {"time": START, "lead_time": LEADS, **{name: two[name] for name in dims[2:]}}
    forecast = xr.DataArray(members, {**coords, "ensemble": range(3)}, dims, attrs={"diagnosed": ["tp06"]})
    whole = score_steps(two, members, climatology=mean)
    assert whole["rmse"].notnull().all()
    assert whole["acc"].sel(variable="tp06").isnull().all()
    assert whole["acc"].sel(variable="t2m").notnull().all()
    expected = whole.sel(variable=["t2m"])
    xr.testing.assert_equal(verify(forecast, one, climatology=mean), expected)
    running = score_steps(one, members, climatology=mean, variables=["t2m"], channels=["tp06", "t2m"])
    xr.testing.assert_equal(running, expected)
    with pytest.raises(UserError, match="truth: lacks tp06"):
        verify(forecast.drop_attrs(), one)
    with pytest.raises(UserError, match="truth: lacks t2m"):
        verify(forecast, two.sel(variable=["tp06"]))
