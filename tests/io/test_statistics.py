import json

import numpy as np
import pytest
import xarray as xr

from tests.io import samples
from wxkernels.errors import UserError
from wxkernels.io import Statistics, load_climatology, open_fields, statistics
from wxkernels.io.grid import Grid
from wxkernels.io.lexicon import FOURCASTNET_20


def test_computed_statistics_are_those_of_all_values():
    f = samples.fields(times=7)
    s = statistics.compute(f)
    flat = f.values.astype(np.float64).transpose(1, 0, 2, 3).reshape(len(samples.NAMES), -1)
    assert s.variables == samples.NAMES
    np.testing.assert_allclose(s.mean, flat.mean(1), rtol=1e-7)
    np.testing.assert_allclose(s.std, flat.std(1), rtol=1e-6)


def test_a_small_spread_on_a_large_mean_is_not_lost():
    f = samples.fields(("z500",), times=50)
    f.values[:] = 5e4 + 0.25 * np.random.default_rng(1).standard_normal(f.shape)
    expected = f.values.astype(np.float64).std()
    assert statistics.compute(f).std[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["stats", "stats.nc"])
def test_saved_statistics_load_again_in_any_order(tmp_path, name):
    s = statistics.compute(samples.fields())
    s.save(tmp_path / name)
    s.save(tmp_path / name)  # replaces what is there
    again = statistics.load(tmp_path / name, ["r850", "2t"])
    at = [samples.NAMES.index("r850"), 0]
    assert again.variables == ("r850", "t2m")
    np.testing.assert_array_equal(again.mean, s.mean[at])
    np.testing.assert_array_equal(again.std, s.std[at])
    assert not list(tmp_path.rglob("*.partial"))


def pair(folder, means, stds):
    np.save(folder / "global_means.npy", np.reshape(means, (1, -1, 1, 1)).astype(np.float32))
    np.save(folder / "global_stds.npy", np.reshape(stds, (1, -1, 1, 1)).astype(np.float32))


@pytest.mark.parametrize("channels", [20, 21])
def test_fourcastnet_pair_in_its_channel_order(tmp_path, channels):
    pair(tmp_path, np.arange(channels), np.arange(channels) + 1)
    for path in (tmp_path, tmp_path / "global_means.npy"):
        s = statistics.load(path, ["tcwv", "u10"])
        assert s.mean.tolist() == [19, 0]
        assert s.std.tolist() == [20, 1]
    assert statistics.load(tmp_path, FOURCASTNET_20).mean.tolist() == list(range(20))


def test_another_count_is_taken_in_the_order_of_the_variables(tmp_path):
    pair(tmp_path, [1, 2], [3, 4])
    assert statistics.load(tmp_path, ["h", "u"]).std.tolist() == [3, 4]
    with pytest.raises(UserError, match="2 channels for 3 variables"):
        statistics.load(tmp_path, ["h", "u", "v"])


def test_faults_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no global_means.npy"):
        statistics.load(tmp_path, ["h"])
    pair(tmp_path, [1, 2], [3, 0])
    with pytest.raises(UserError, match="u has mean 2 and standard deviation 0"):
        statistics.load(tmp_path, ["h", "u"])
    np.save(tmp_path / "global_stds.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"global_stds.npy: cannot be read \(.*pickle"):
        statistics.load(tmp_path, ["h", "u"])
    (tmp_path / "global_stds.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(UserError, match="copy it again"):
        statistics.load(tmp_path, ["h", "u"])
    (tmp_path / "s.nc").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as statistics"):
        statistics.load(tmp_path / "s.nc", ["h", "u"])
    f = samples.fields()
    f[1, 2, 0, 0] = np.inf
    with pytest.raises(UserError, match="z500 is NaN or infinite at 2018-01-01T06"):
        statistics.compute(f)
    with pytest.raises(UserError, match="no tcwv; it holds t2m"):
        statistics.compute(samples.fields()).select(["tcwv"])
    with pytest.raises(UserError, match="cannot write"):
        Statistics(("h",), np.ones(1), np.ones(1)).save(tmp_path / "s.nc" / "below")


@pytest.mark.parametrize("rows", [9, 8])
def test_climatology_from_time_means(tmp_path, rows):
    maps = np.random.default_rng(0).standard_normal((1, 21, rows, 16)).astype(np.float32)
    np.save(tmp_path / "time_means.npy", maps)
    grid = Grid(90 - 22.5 * np.arange(8), Grid.regular(9, 16).lon)
    for path in (tmp_path, tmp_path / "time_means.npy"):
        c = load_climatology(path, ["t2m", "u10"], grid)
        assert c.dims == ("variable", "lat", "lon")
        assert c["variable"].values.tolist() == ["t2m", "u10m"]
        np.testing.assert_array_equal(c.values, maps[0, [2, 0], :8])
    coarse = Grid.regular(5, 7)
    with pytest.raises(UserError, match="--regrid"):
        load_climatology(tmp_path, ["t2m"], coarse)
    assert load_climatology(tmp_path, ["t2m"], coarse, regrid=True).shape == (1, 5, 7)


def test_climatology_from_data_and_back(tmp_path):
    f = samples.fields(times=4)
    samples.ecmwf(f).to_netcdf(tmp_path / "f.nc")
    c = load_climatology(tmp_path / "f.nc", samples.NAMES, samples.GRID)
    np.testing.assert_allclose(c.values, f.values.astype(np.float64).mean(0), rtol=1e-6)
    statistics.save_climatology(c, tmp_path / "time_means.nc")
    with pytest.raises(UserError, match=r"cannot write .*means.zarr: .*end its name with .nc"):
        statistics.save_climatology(c, tmp_path / "means.zarr")
    again = load_climatology(tmp_path, samples.NAMES, samples.GRID)
    xr.testing.assert_equal(again, c)


def test_the_names_beside_a_pair_are_read(tmp_path):
    pair(tmp_path, [1, 2], [3, 4])
    (tmp_path / "variables.json").write_text(json.dumps(["v", "u"]))
    assert statistics.load(tmp_path, ["u"]).mean.tolist() == [2]
    (tmp_path / "variables.json").write_text("[")
    with pytest.raises(UserError, match=r"variables.json: cannot be read"):
        statistics.load(tmp_path, ["u"])


def test_statistics_of_a_file_stream_one_time_at_once(tmp_path):
    f = samples.fields(times=5)
    samples.stacked(f).to_netcdf(tmp_path / "f.nc")
    lazy = statistics.compute(open_fields(tmp_path / "f.nc", samples.NAMES))
    np.testing.assert_array_equal(lazy.std, statistics.compute(f).std)


@pytest.mark.parametrize("channels", [20, 21])
def test_an_optional_mean_is_nan_where_the_file_lacks_it(tmp_path, channels):
    names, grid = (*FOURCASTNET_20, "tp06"), samples.GRID  # as many as the 21 channels, the last an sst
    maps = np.random.default_rng(0).standard_normal((1, channels, *grid.shape)).astype(np.float32)
    np.save(tmp_path / "time_means.npy", maps)
    c = load_climatology(tmp_path, names, grid, optional=["tp06"])
    assert c["variable"].values.tolist() == list(names)
    np.testing.assert_array_equal(c.values[:20], maps[0, :20])
    assert c.sel(variable="tp06").isnull().all()
    f = samples.fields(("t2m",))
    samples.flat(f).to_netcdf(tmp_path / "f.nc")
    c = load_climatology(tmp_path / "f.nc", ["tp06", "t2m"], grid, optional=["tp06"])
    assert c.sel(variable="tp06").isnull().all()
    np.testing.assert_allclose(c.sel(variable="t2m"), f.sel(variable="t2m").mean("time"), rtol=1e-6)
