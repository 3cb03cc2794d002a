"""Whatever the layout, orientation and naming, the same fields come out."""

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.io import samples
from wxkernels.errors import UserError
from wxkernels.io import open_fields
from wxkernels.io.grid import Grid, regrid
from wxkernels.io.lexicon import FOURCASTNET_20

LAYOUTS = [
    samples.stacked,
    samples.flat,
    samples.ecmwf,
    samples.weatherbench,
    samples.forecast_like,
    samples.hindcasts,
]


def same(opened: xr.DataArray, expected: xr.DataArray) -> None:
    assert opened.dims == ("time", "variable", "lat", "lon")
    assert opened.dtype == np.float32
    for name in opened.dims:
        np.testing.assert_array_equal(opened[name].values, expected[name].values)
    np.testing.assert_array_equal(opened.values, expected.values)


@pytest.mark.parametrize("south_first", [False, True])
@pytest.mark.parametrize("west", [0, -180])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_layouts_and_orientations(tmp_path, layout, west, south_first):
    f = samples.fields()
    path = tmp_path / "f.nc"
    layout(samples.turned(f, south_first, west)).to_netcdf(path, engine="h5netcdf")
    same(open_fields(path, ["2t", "msl", "z_500", ("u", 500), "r850"]), f)


@pytest.mark.parametrize("engine", ["scipy", "zarr2", "zarr3", "packed"])
def test_containers(tmp_path, engine):
    f, path = samples.fields(), tmp_path / "f"
    if engine == "scipy":
        samples.flat(f).to_netcdf(path, engine="scipy")
    elif engine == "packed":
        packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 250.0, "_FillValue": -32768}
        samples.flat(f[:, :1]).to_netcdf(path, engine="h5netcdf", encoding={"t2m": packing})
        np.testing.assert_allclose(open_fields(path, ["t2m"]).values, f[:, :1].values, atol=0.006)
        return
    else:
        samples.flat(f).to_zarr(path, zarr_format=int(engine[-1]), consolidated=False)
    same(open_fields(path, samples.NAMES), f)


def test_a_single_time_without_a_dim(tmp_path):
    f = samples.fields()
    samples.flat(f.isel(time=1)).to_netcdf(tmp_path / "f.nc")
    same(open_fields(tmp_path / "f.nc", samples.NAMES), f.isel(time=[1]))


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    f = samples.fields(times=7)
    path = tmp_path_factory.mktemp("f") / "f.nc"
    samples.flat(samples.turned(f, True, -180)).to_netcdf(path)
    return path, f


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_selections_equal_those_of_the_loaded_array(on_disk, data):
    """Slices of any stride and direction, single entries and lists, in every dim."""
    path, f = on_disk
    key = {}
    for dim, size in f.sizes.items():
        index = st.integers(-size, size - 1)
        key[dim] = data.draw(st.one_of(st.slices(size), index, st.lists(index, max_size=5)))
    opened = open_fields(path, samples.NAMES)
    np.testing.assert_array_equal(opened.isel(key).values, f.isel(key).values)


def test_only_what_is_selected_is_read(tmp_path, monkeypatch):
    from xarray.backends.scipy_ import ScipyArrayWrapper

    f = samples.fields(times=8)
    samples.flat(samples.turned(f, True, -180)).to_netcdf(tmp_path / "f.nc", engine="scipy")
    opened = open_fields(tmp_path / "f.nc", samples.NAMES)
    read, inner = [], ScipyArrayWrapper.__getitem__

    def counting(self, key):
        out = inner(self, key)
        read.append(np.size(out))
        return out

    monkeypatch.setattr(ScipyArrayWrapper, "__getitem__", counting)
    part = opened.isel(time=slice(None, None, -3), variable=[3, 1], lat=slice(0, 4), lon=[0, 1])
    assert not read
    part.load()
    assert sum(read) == part.size


def test_longitude_0_and_360_are_one(tmp_path):
    f = samples.fields()
    twice = xr.concat([f, f.isel(lon=[0]).assign_coords(lon=[360.0])], "lon")
    samples.flat(twice).to_netcdf(tmp_path / "f.nc")
    same(open_fields(tmp_path / "f.nc", samples.NAMES), f)


def test_a_region_across_greenwich_stays_in_one_piece(tmp_path):
    grid = Grid(np.linspace(58, 50, 9), np.linspace(350, 362, 13))
    f = samples.fields(grid=grid)
    samples.flat(f.assign_coords(lon=np.linspace(-10, 2, 13))).to_netcdf(tmp_path / "a.nc")
    samples.flat(f.assign_coords(lon=grid.lon % 360).sortby("lon")).to_netcdf(tmp_path / "b.nc")
    for name in "ab":
        same(open_fields(tmp_path / f"{name}.nc", samples.NAMES), f)


def test_points_of_a_finer_grid_are_selected_and_others_need_regrid(tmp_path):
    f = samples.fields(grid=Grid.regular(17, 32))
    path = tmp_path / "f.nc"
    samples.flat(f).to_netcdf(path)
    coarse = Grid.regular(9, 16)
    same(open_fields(path, samples.NAMES, grid=coarse), f.isel(lat=slice(0, None, 2), lon=slice(0, None, 2)))
    other = Grid.regular(7, 16, poles=False)
    with pytest.raises(UserError, match="--regrid"):
        open_fields(path, samples.NAMES, grid=other)
    opened = open_fields(path, samples.NAMES, grid=other, regrid=True)
    np.testing.assert_array_equal(opened.isel(time=1, lat=[2, 5]), regrid(f, other).isel(time=1, lat=[2, 5]))
    assert Grid(opened["lat"].values, opened["lon"].values) == other


def test_units_that_the_file_states_are_converted(tmp_path):
    f = samples.fields()
    data = samples.flat(f)
    data["t2m"] = (data["t2m"] - 273.15).assign_attrs(units="degC")
    data["msl"] = (data["msl"] / 100).assign_attrs(units="hPa")
    data["z500"] = (data["z500"] / 9.80665).assign_attrs(units="gpm")
    data["r850"] = (data["r850"] / 100).assign_attrs(units="1")
    data["u500"] = data["u500"].assign_attrs(units="m s**-1")
    data.to_netcdf(tmp_path / "f.nc")
    np.testing.assert_allclose(open_fields(tmp_path / "f.nc", samples.NAMES), f, rtol=1e-5)


def test_wind_at_100_m_is_not_the_wind_at_100_hpa(tmp_path):
    f = samples.fields(("u100m",))
    data = samples.flat(f).rename(u100m="u100")
    data["u100"].attrs["long_name"] = "100 metre U wind component"
    data.to_netcdf(tmp_path / "f.nc")
    same(open_fields(tmp_path / "f.nc", ["100u"]), f)


@pytest.fixture
def fourcastnet(tmp_path):
    """FourCastNet's file of a small grid, 21 channels, and the fields in it."""
    f = samples.fields((*FOURCASTNET_20, "sst"), Grid.regular(9, 16))
    with h5py.File(tmp_path / "2018.h5", "w") as file:
        file["fields"] = f.values
    return tmp_path / "2018.h5", f


def test_fourcastnet_channels_rows_and_times(fourcastnet):
    path, f = fourcastnet
    same(open_fields(path, FOURCASTNET_20), f.isel(variable=slice(0, 20), lat=slice(0, 8)))
    same(open_fields(path, ["sst", "u10"], grid=Grid.regular(9, 16)), f.isel(variable=[20, 0]))


def test_fourcastnet_without_a_year_needs_times(fourcastnet):
    path, f = fourcastnet
    path = path.rename(path.with_name("sample.h5"))
    with pytest.raises(UserError, match="give times"):
        open_fields(path, ["t2m"])
    opened = open_fields(path, ["t2m"], times=["2001-01-01", "2001-01-02", "2001-01-03T12:00"])
    assert opened["time"].values[2] == np.datetime64("2001-01-03T12")
    np.testing.assert_array_equal(opened[:, 0], f.sel(variable="t2m").isel(lat=slice(0, 8)))


def test_fourcastnet_with_unknown_channels(tmp_path):
    with h5py.File(tmp_path / "2018.h5", "w") as file:
        file["fields"] = np.zeros((1, 7, 9, 16), np.float32)
    with pytest.raises(UserError, match="7 channels"):
        open_fields(tmp_path / "2018.h5", ["t2m"])


def test_optional_variables_may_be_absent(tmp_path):
    f = samples.fields(("t2m", "tp06"))
    samples.flat(f).to_netcdf(tmp_path / "both.nc")
    samples.flat(f.sel(variable=["t2m"])).to_netcdf(tmp_path / "one.nc")
    same(open_fields(tmp_path / "both.nc", ["t2m", "tp06"], optional=["tp06"]), f)
    same(open_fields(tmp_path / "one.nc", ["tp06", "t2m"], optional=["tp06"]), f.sel(variable=["t2m"]))
    for names, optional, missing in (
        (["t2m", "tp06"], [], "tp06"),
        (["t2m", "msl"], ["tp06"], "msl"),
        (["tp06"], ["tp06"], "tp06"),
    ):
        with pytest.raises(UserError, match=f": no {missing}; it holds t2m;"):
            open_fields(tmp_path / "one.nc", names, optional=optional)
