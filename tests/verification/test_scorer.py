"""Streaming scores: refereed by the `scores` library and by what the scores must be."""

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scores.continuous import additive_bias, mae, mse
from scores.probability import crps_for_ensemble, rank_histogram

from wxkernels.errors import UserError
from wxkernels.io import open_fields
from wxkernels.verification import Scorer, ensemble, latitude_weights

START = np.datetime64("2018-01-01", "ns")
STEP = np.timedelta64(6, "h")
GRIDS = {
    "poles": np.linspace(90, -90, 9),
    "even": 90 - 180 * (np.arange(8) + 0.5) / 8,
    "regional": np.arange(58.0, 50.0, -1.0),
}


def ensemble_of(truth: xr.DataArray, members: int, seed: int = 0) -> np.ndarray:
    """Members (lead, member, variable, lat, lon), float32: the truth and errors that grow with lead time."""
    rng = np.random.default_rng(seed)
    leads = len(truth)
    noise = (
        rng.standard_normal((leads, members, *truth.shape[1:]))
        * (1 + np.arange(leads))[:, None, None, None, None]
    )
    return (truth.values[:, None] + noise + 0.3).astype(np.float32)


def random_truth(make_fields, leads: int = 3, rows: int = 9, seed: int = 1, lat=None) -> xr.DataArray:
    values = np.random.default_rng(seed).standard_normal((leads, 2, rows, 10)).astype(np.float32)
    return make_fields(values, lat=lat)


def labelled(members: np.ndarray, truth: xr.DataArray) -> xr.DataArray:
    coords = {name: truth[name] for name in truth.dims}
    return xr.DataArray(members.astype(np.float64), coords, ("time", "ensemble", "variable", "lat", "lon"))


@pytest.mark.parametrize("lat", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("members", [1, 2, 7])
def test_the_scores_library_agrees(make_fields, score_steps, lat, members):
    truth = random_truth(make_fields, rows=len(lat), lat=lat)
    climatology = 0.1 * truth.mean("time")
    forecast = ensemble_of(truth, members)
    ours = score_steps(truth, forecast, climatology=climatology)

    theirs = labelled(forecast, truth)
    mean = theirs.mean("ensemble")
    weights = xr.DataArray(latitude_weights(lat), dims="lat", coords={"lat": lat}).broadcast_like(truth[0, 0])
    options = {"preserve_dims": ["time", "variable"], "weights": weights}
    y = truth.astype(np.float64)
    still, usual = y.isel(time=0, drop=True).broadcast_like(y), climatology.broadcast_like(y)
    expected = {
        "rmse": np.sqrt(mse(mean, y, **options)),
        "bias": additive_bias(mean, y, **options),
        "persistence_rmse": np.sqrt(mse(still, y, **options)),
        "persistence_mae": mae(still, y, **options),
        "climatology_rmse": np.sqrt(mse(usual, y, **options)),
        "climatology_mae": mae(usual, y, **options),
        "crps": mae(mean, y, **options)
        if members == 1
        else crps_for_ensemble(theirs, y, "ensemble", method="fair", **options),
    }
    for name, values in expected.items():
        wanted = values.transpose("time", "variable").values
        np.testing.assert_allclose(ours[name], wanted, rtol=1e-10, atol=1e-12, err_msg=name)
    shares = rank_histogram(theirs, y, "ensemble", preserve_dims=["time", "variable"]).transpose(..., "rank")
    counts = ours["rank_histogram"]
    np.testing.assert_allclose(counts / counts.sum("rank"), shares.values, atol=1e-12)


@pytest.mark.parametrize("members", [2, 5])
def test_spread_and_its_ratio_to_skill(make_fields, score_steps, members):
    truth = random_truth(make_fields)
    forecast = ensemble_of(truth, members)
    ours = score_steps(truth, forecast)
    w = latitude_weights(truth.lat.values)[:, None]
    x = forecast.astype(np.float64)
    variance = x.var(1, ddof=1)
    error = (x.mean(1) - truth.values) ** 2 - variance / members
    np.testing.assert_allclose(ours["spread"], np.sqrt((w * variance).mean((2, 3))), rtol=1e-10)
    square = (w * variance).mean((2, 3)) / (w * error).mean((2, 3))
    assert (square > 0).any()
    ratio = np.sqrt(np.where(square > 0, square, np.nan))  # the debiased square error can be below zero
    np.testing.assert_allclose(ours["spread_skill"], ratio, rtol=1e-9)


@pytest.mark.parametrize("weights", ["weatherbench2", "fourcastnet"])
def test_two_initial_times_by_each_convention(make_fields, weights):
    """WeatherBench 2: root of the mean of squares; FourCastNet: mean of the roots. ACC is a mean in both."""
    truth = random_truth(make_fields, leads=4)
    climatology = 0.2 * truth.isel(time=0, drop=True)
    leads = np.arange(3) * STEP
    forecast = ensemble_of(truth.isel(time=slice(3)), 4), ensemble_of(truth.isel(time=slice(1, 4)), 4, seed=5)
    scorer = Scorer(truth, init_time=START, lead_times=leads, climatology=climatology, weights=weights)
    for first, members in enumerate(forecast):
        scorer.start(START + first * STEP)
        for step in range(3):
            scorer.update(step, torch.from_numpy(members[step]))
    ours = scorer.result()

    w = latitude_weights(truth.lat.values, weights)[:, None]
    square, correlation = [], []
    for first, members in enumerate(forecast):
        mean = members.astype(np.float64).mean(1)
        y = truth.values[first : first + 3].astype(np.float64)
        square.append((w * (mean - y) ** 2).mean((2, 3)))
        f, t = mean - climatology.values, y - climatology.values
        above = (w * f * t).sum((2, 3))
        correlation.append(above / np.sqrt((w * f**2).sum((2, 3)) * (w * t**2).sum((2, 3))))
    rmse = np.sqrt(np.mean(square, 0)) if weights == "weatherbench2" else np.mean(np.sqrt(square), 0)
    np.testing.assert_allclose(ours["rmse"], rmse, rtol=1e-10)
    np.testing.assert_allclose(ours["acc"], np.mean(correlation, 0), rtol=1e-9)
    assert ours.attrs["area_weights"] == weights
    assert ours.attrs["initial_times"] == "2018-01-01T00:00, 2018-01-01T06:00"
    assert ours["times"].values.tolist() == [2, 2, 2]
    first_word = {"weatherbench2": "square root of the mean over", "fourcastnet": "mean over initial times"}
    assert first_word[weights] in ours["rmse"].attrs["long_name"]


def test_order_of_initial_times_does_not_matter(make_fields):
    truth = random_truth(make_fields, leads=3)
    members = torch.from_numpy(ensemble_of(truth, 3))
    results = []
    for order in ((0, 1), (1, 0)):
        scorer = Scorer(truth, init_time=START, lead_times=[np.timedelta64(0), STEP])
        for first in order:
            scorer.start(START + first * STEP)
            for step in (0, 1):
                scorer.update(step, members[first + step])
        results.append(scorer.result())
    xr.testing.assert_identical(*results)


@settings(max_examples=20, deadline=None)
@given(
    members=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.01, 100),
    offset=st.floats(-1000, 1000),
)
def test_invariances(make_fields, score_steps, members, seed, scale, offset):
    """Any order of members; units scale the scores; an offset of forecast and truth changes nothing."""
    truth = random_truth(make_fields, seed=seed).astype(np.float64)
    forecast = ensemble_of(truth, members, seed).astype(np.float64)
    plain = score_steps(truth, forecast)
    order = np.random.default_rng(seed).permutation(members)
    xr.testing.assert_identical(score_steps(truth, forecast[:, order]), plain)
    changed = score_steps(truth * scale + offset, forecast * scale + offset)
    for name in ("rmse", "bias", "crps", "spread", "persistence_rmse", "persistence_mae"):
        np.testing.assert_allclose(changed[name], plain[name] * scale, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(changed["rank_histogram"], plain["rank_histogram"])
    np.testing.assert_allclose(changed["spread_skill"], plain["spread_skill"], rtol=1e-5)


@pytest.mark.parametrize("members", [1, 2, 5])
def test_perfect_forecast(make_fields, score_steps, members):
    truth = random_truth(make_fields)
    forecast = np.repeat(truth.values[:, None], members, 1)
    perfect = score_steps(truth, forecast, climatology=0.5 * truth[0])
    for name in ("rmse", "bias", "crps"):
        np.testing.assert_array_equal(perfect[name], 0)
    np.testing.assert_allclose(perfect["acc"], 1, rtol=1e-14)
    np.testing.assert_array_equal(perfect["rank_histogram"].sum("rank"), 90)


def test_calibrated_ensemble_is_flat_with_ratio_one_also_when_members_stop(make_fields):
    """Truth and members drawn alike; at four of six initial times two of seven members are not finite."""
    rng = np.random.default_rng(3)
    truth = make_fields(rng.standard_normal((6, 2, 48, 96)).astype(np.float32))
    scorer = Scorer(truth, init_time=START, lead_times=[np.timedelta64(0)])
    for first in range(6):
        members = rng.standard_normal((7, 2, 48, 96)).astype(np.float32)
        if 0 < first < 5:
            members[2], members[5, :, 7, 3] = np.nan, np.inf
        scorer.start(START + first * STEP)
        scorer.update(0, torch.from_numpy(members))
    result = scorer.result().isel(lead_time=0)
    np.testing.assert_allclose(result["spread_skill"], 1, atol=0.02)
    np.testing.assert_allclose(result["crps"], 1 / np.sqrt(np.pi), rtol=0.02)  # of a standard normal
    np.testing.assert_array_equal(result["members"], 5)
    for counts in result["rank_histogram"].values:
        assert counts.sum() == 6 * 48 * 96
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_stopped_member_is_left_out_of_its_variable_only(make_fields, score_steps):
    truth = random_truth(make_fields)
    forecast = ensemble_of(truth, 4)
    forecast[2, 1, 0, 4, 4] = np.nan
    ours = score_steps(truth, forecast)
    whole, without = score_steps(truth, forecast[:, [0, 2, 3]]), score_steps(truth, ensemble_of(truth, 4))
    names = ["rmse", "bias", "crps", "spread", "spread_skill"]
    xr.testing.assert_allclose(
        ours[names].isel(lead_time=2, variable=0), whole[names].isel(lead_time=2, variable=0)
    )
    xr.testing.assert_allclose(ours[names].isel(variable=1), without[names].isel(variable=1))
    assert ours["members"].values.tolist() == [[4, 4], [4, 4], [3, 4]]


def test_no_member_left_scores_nan(make_fields, score_steps):
    truth = random_truth(make_fields)
    forecast = ensemble_of(truth, 2)
    forecast[1] = np.nan
    ours = score_steps(truth, forecast)
    assert ours["rmse"].isnull().any("variable").values.tolist() == [False, True, False]
    assert ours["members"].values.tolist() == [[2, 2], [0, 0], [2, 2]]
    assert np.isfinite(ours["persistence_rmse"]).all()


def test_one_member_has_no_spread(make_fields, score_steps):
    truth = random_truth(make_fields)
    ours = score_steps(truth, ensemble_of(truth, 1))
    assert ours["spread"].isnull().all()
    assert ours["spread_skill"].isnull().all()
    assert "undefined (NaN) for one member" in ours["spread"].attrs["long_name"]


def test_large_offset_costs_no_digits(make_fields, score_steps):
    """Geopotential near 5e5 m2 s-2 in float32: multiples of 1/16 are exact there, so scores must be too."""
    rng = np.random.default_rng(0)
    truth = rng.integers(-800, 800, (3, 2, 9, 10)).astype(np.float32) / 16
    members = truth[:, None] + rng.integers(-16, 16, (3, 6, 2, 9, 10)).astype(np.float32) / 16
    climatology = np.zeros((2, 9, 10), np.float32)
    near, far = (
        score_steps(make_fields(truth + at), members + at, climatology=make_fields(climatology + at))
        for at in (np.float32(0), np.float32(2**19))
    )
    xr.testing.assert_allclose(near, far, rtol=1e-11)


def test_ties_are_broken_at_random_and_the_same_way_again(make_fields, score_steps):
    """Dry everywhere, as precipitation is: all ranks are tied, and a fair draw is flat."""
    truth = make_fields(np.zeros((2, 2, 60, 60), np.float32))
    members = np.zeros((2, 4, 2, 60, 60), np.float32)
    counts = score_steps(truth, members)["rank_histogram"]
    for values in counts.values.reshape(-1, 5):
        assert scipy.stats.chisquare(values).pvalue > 1e-3
    assert len(np.unique(counts.values.reshape(-1, 5), axis=0)) == 4  # other draws for each lead and variable
    xr.testing.assert_identical(score_steps(truth, members)["rank_histogram"], counts)
    one = score_steps(truth, members[:, :, 1:], variables=["t2m"])["rank_histogram"]
    xr.testing.assert_identical(one, counts.sel(variable=["t2m"]))


def test_points_without_truth_are_left_out(make_fields, score_steps):
    """Sea surface temperature has none on land: the scores are those of the points that are left."""
    truth = random_truth(make_fields)
    forecast = ensemble_of(truth, 3)
    sea = np.random.default_rng(2).random(truth.shape[2:]) > 0.4
    ours = score_steps(truth.where(sea), np.where(sea, forecast, np.nan))
    w = latitude_weights(truth.lat.values)[:, None] * sea
    square = (forecast.astype(np.float64).mean(1) - truth.values) ** 2
    np.testing.assert_allclose(ours["rmse"], np.sqrt((w * square).sum((2, 3)) / w.sum()), rtol=1e-10)
    assert (ours["members"] == 3).all()
    assert (ours["rank_histogram"].sum("rank") == sea.sum()).all()


def test_points_without_climatology_are_left_out(make_fields, score_steps):
    truth = random_truth(make_fields)
    forecast = ensemble_of(truth, 3)
    sea = np.random.default_rng(2).random(truth.shape[2:]) > 0.4
    ours = score_steps(truth, forecast, climatology=(0.5 * truth[0]).where(sea))
    masked = score_steps(truth.where(sea), forecast, climatology=0.5 * truth[0])
    assert np.isfinite(ours["acc"]).all()
    xr.testing.assert_identical(ours, masked)


def test_bands_of_rows_change_nothing(make_fields, score_steps, monkeypatch):
    truth = random_truth(make_fields)
    forecast = ensemble_of(truth, 5)
    forecast[1, 3] = np.nan
    whole = score_steps(truth, forecast, climatology=truth[0])
    monkeypatch.setattr(ensemble, "_CPU_BAND", 3 * 8 * 5 * 10)  # three rows, of nine
    xr.testing.assert_allclose(score_steps(truth, forecast, climatology=truth[0]), whole, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float_types(make_fields, dtype):
    truth = random_truth(make_fields)
    members = torch.from_numpy(ensemble_of(truth, 3)[0]).to(dtype)
    results = []
    for fields in (members, members.double()):
        scorer = Scorer(truth, init_time=START, lead_times=[np.timedelta64(0)])
        scorer.update(0, fields)
        results.append(scorer.result())
    xr.testing.assert_allclose(*results, rtol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_gives_the_scores_of_the_cpu(make_fields):
    truth = random_truth(make_fields)
    members = torch.from_numpy(ensemble_of(truth, 5)[0])
    members[1, 0] = torch.nan
    results = []
    for device in ("cpu", "cuda"):
        scorer = Scorer(truth, init_time=START, lead_times=[np.timedelta64(0)], climatology=0.5 * truth[1])
        scorer.update(0, members.to(device))
        results.append(scorer.result())
    xr.testing.assert_allclose(*results, rtol=1e-10)


def test_missing_truth_is_named_and_scored_nan(make_fields, score_steps):
    truth = random_truth(make_fields, leads=4)
    forecast = ensemble_of(truth, 3)
    ours = score_steps(truth.isel(time=[0, 1, 3]), forecast)
    assert ours.attrs["missing_truth"] == "2018-01-01T12:00"
    assert ours["rmse"].isnull().all("variable").values.tolist() == [False, False, True, False]
    assert ours["times"].values.tolist() == [1, 1, 0, 1]
    late = score_steps(truth.isel(time=[1, 2, 3]), forecast)
    assert late["persistence_rmse"].isnull().all()
    assert np.isfinite(late["rmse"].isel(lead_time=slice(1, None))).all()


def test_a_truth_that_cannot_be_read_is_left_unscored(make_fields, score_steps, tmp_path, caplog):
    rng = np.random.default_rng(0)
    names = ("u10m", "v10m")
    truth = make_fields(rng.standard_normal((4, 2, 9, 10)).astype(np.float32), names)
    forecast = ensemble_of(truth, 3)
    chunks = {"fields": {"chunks": (1, 2, 9, 10)}}
    path = tmp_path / "truth.zarr"
    truth.to_dataset(name="fields").to_zarr(path, zarr_format=3, consolidated=False, encoding=chunks)
    (path / "fields/c/2/0/0/0").write_bytes(b"cut")
    ours = score_steps(open_fields(path, names), forecast)
    xr.testing.assert_identical(ours, score_steps(truth.isel(time=[0, 1, 3]), forecast))
    (message,) = caplog.messages
    assert "truth at 2018-01-01T12:00" in message
    assert "cannot read" in message


def test_a_truth_of_other_times_is_refused_at_once(make_fields, caplog):
    truth = random_truth(make_fields)
    late = truth.assign_coords(time=truth.time + np.timedelta64(365, "D"))
    message = "2019-01-01T00:00 to 2019-01-01T12:00.*2018-01-01T00:00 to 2018-01-01T06:00"
    with pytest.raises(UserError, match=message) as caught:
        Scorer(late, init_time=START, lead_times=[np.timedelta64(0), STEP])
    assert "\n" not in str(caught.value)
    scorer = Scorer(truth, init_time=START, lead_times=[np.timedelta64(0), STEP])
    assert not caplog.messages
    scorer.start(START + np.timedelta64(365, "D"))  # one of several: it goes on without
    assert len(caplog.messages) == 1
    scorer.update(0, torch.zeros(1, 2, 9, 10))
    with pytest.raises(UserError, match="nothing was scored: no truth at 2019-01-01T00:00"):
        scorer.result()


def test_truth_on_more_rows_and_other_orders_is_lined_up(make_fields, score_steps):
    """721 rows of truth serve a model of 720; south to north, longitudes from -180 and other channels too."""
    truth = random_truth(make_fields)
    forecast = ensemble_of(truth, 3)
    cut = truth.isel(lat=slice(None, -1))
    expected = score_steps(cut, forecast[..., :-1, :])
    moved = truth.assign_coords(lon=(truth.lon + 180) % 360 - 180).sortby(["lon", "lat"])
    moved = moved.astype(">f4").isel(variable=[1, 0]).transpose("time", "lon", "lat", "variable")
    ours = score_steps(moved, forecast[..., :-1, :], grid=cut, variables=["z500", "t2m"])
    xr.testing.assert_identical(ours, expected)


def test_units_and_names_stand_with_the_numbers(make_fields, score_steps):
    truth = random_truth(make_fields)
    ours = score_steps(truth, ensemble_of(truth, 2))
    assert ours["units"].values.tolist() == ["m2 s-2", "K"]
    assert ours["rmse"].attrs["units"] == "units of the variable"
    assert ours["acc"].attrs["units"] == "1"
    unknown = truth.assign_coords(variable=["z500", "my_tracer"])
    assert score_steps(unknown, ensemble_of(truth, 2))["units"].values.tolist() == ["m2 s-2", ""]


def test_faults_get_one_clear_line(make_fields, score_steps):
    truth = random_truth(make_fields)
    forecast = ensemble_of(truth, 3)
    cases = {
        r"truth: lacks q700; it holds z500, t2m": lambda: score_steps(
            truth, forecast, variables=["z500", "q700"]
        ),
        r"climatology: lacks t2m": lambda: score_steps(truth, forecast, climatology=truth[0, :1]),
        r"truth: no row at latitude .* regrid": lambda: score_steps(
            truth, forecast, grid=truth.assign_coords(lat=truth.lat.values * 0.9)
        ),
        r"truth: no column at longitude .* regrid": lambda: score_steps(
            truth, forecast, grid=truth.assign_coords(lon=truth.lon.values + 1)
        ),
        r"expected shape \(members, 2, 9, 10\), got \(3, 2, 9, 9\)": lambda: score_steps(
            truth, forecast[..., 1:]
        ),
        r"a time occurs twice": lambda: score_steps(truth.isel(time=[0, 0, 1]), forecast),
    }
    for message, call in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_updates_out_of_turn_are_refused(make_fields):
    truth = random_truth(make_fields)
    members = torch.from_numpy(ensemble_of(truth, 3)[0])
    scorer = Scorer(truth, init_time=START, lead_times=[np.timedelta64(0), STEP])
    scorer.update(0, members)
    with pytest.raises(UserError, match="step 0 from 2018-01-01T00:00 has been scored before"):
        scorer.update(0, members)
    with pytest.raises(UserError, match="step 2: the scorer was given 2 lead times"):
        scorer.update(2, members)
    with pytest.raises(UserError, match="2 members after 3"):
        scorer.update(1, members[:2])
