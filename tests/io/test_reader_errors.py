"""Each fault of an input file is one line that says what, where and the fix."""

import numpy as np
import pytest
import xarray as xr

from tests.io import samples
from wxkernels.errors import UserError
from wxkernels.io import open_fields


def fails(path, match, variables=samples.NAMES, **options):
    with pytest.raises(UserError, match=match) as error:
        open_fields(path, variables, **options).load()
    line = str(error.value)
    assert "\n" not in line
    assert str(path) in line or "times" in line


def save(data: xr.Dataset, folder):
    path = folder / f"{len(list(folder.iterdir()))}.nc"
    data.to_netcdf(path, engine="h5netcdf")
    return path


WRONG_UNITS = {
    "t2m": (lambda v: v - 273.15, "degc': add 273.15"),
    "msl": (lambda v: v / 100, "hpa': multiply by 100"),
    "z500": (lambda v: v / 9.80665, "gpm': multiply by 9.80665"),
    "r850": (lambda v: v / 200, "'1': multiply by 100"),
    "tp06": (lambda v: v * 1000, "mm': multiply by 0.001"),
    "q850": (lambda v: v * 1000, "g kg-1': multiply by 0.001"),
    "u500": (lambda v: v * 0 + 1e20, "check the variable and its fill value"),
}


@pytest.mark.parametrize("name", WRONG_UNITS)
def test_units_that_are_plainly_wrong(tmp_path, name):
    change, message = WRONG_UNITS[name]
    f = samples.fields((name,))
    path = save(samples.flat(change(f)), tmp_path)
    fails(path, message, [name])


def test_units_of_another_quantity(tmp_path):
    data = samples.flat(samples.fields())
    data["t2m"].attrs["units"] = "Pa"
    fails(save(data, tmp_path), "t2m has units 'Pa', expected 'K'")


def test_nan_count_and_place(tmp_path):
    f = samples.fields()
    f[1, 2, 3, 4:6] = np.nan
    path = save(samples.flat(samples.turned(f, True, -180)), tmp_path)
    lat, lon = f["lat"].values[3], f["lon"].values[4]
    fails(path, rf"z500 has 2 NaN .*2018-01-01T06:00, lat {lat:g}, lon {lon:g}")
    assert open_fields(path, ["z500"]).isel(time=0).notnull().all()  # what is whole is read


def test_nan_passes_where_it_is_asked_for(tmp_path):
    f = samples.fields()
    f[1, 2, 3, 4:6], f[2, 0] = np.nan, np.nan
    path = save(samples.flat(f), tmp_path)
    np.testing.assert_array_equal(open_fields(path, samples.NAMES, nan="keep").values, f.values)
    fails(path, "fill them$")
    f[1, 2, 0, 0] = 1e9  # what is there is checked all the same
    fails(save(samples.flat(f), tmp_path), "z500 runs from .* to 1e.09", nan="keep")


def test_missing_variables(tmp_path):
    path = save(samples.flat(samples.fields()), tmp_path)
    fails(path, "no tcwv, sp; it holds t2m, msl, z500", ["t2m", "tcwv", "sp"])
    fails(save(xr.Dataset({"rainfall": ("x", [1.0])}), tmp_path), "no variable .*knows: rainfall", ["t2m"])


def test_times_out_of_order_or_twice(tmp_path):
    f = samples.fields()
    fails(save(samples.flat(f.isel(time=[0, 2, 1])), tmp_path), "not in order .*sortby")
    fails(save(samples.flat(f.isel(time=[0, 1, 1])), tmp_path), "06:00 occurs twice.*drop_duplicates")
    fails(save(samples.flat(f.isel(time=[1, 0, 1])), tmp_path), "06:00 occurs twice")


def test_times_that_are_missing(tmp_path):
    f = samples.fields()
    path = save(samples.flat(f.rename(time="month").drop_vars("month")), tmp_path)
    fails(path, r"states no times .*month of 3.*expand_dims\(time=.*year in the file name")
    fails(path, "2 times given, it holds 3", times=["2018-01-01", "2018-01-02"])
    fails(path, "write them as 2018-01-01T06:00", times=["Monday", "a", "b"])
    fails(save(samples.flat(f.isel(time=slice(0, 0))), tmp_path), "holds no times")


def test_choices_left_open(tmp_path):
    f = samples.fields()
    members = xr.concat([f, f], "number").assign_coords(number=[0, 1])
    fails(save(samples.flat(members), tmp_path), r"isel\(number=0\)")
    hindcast = samples.hindcasts(f)
    later = hindcast.isel(prediction_timedelta=[1, 1])
    fails(save(later, tmp_path), "several times and leads")


def test_coordinates_that_make_no_grid(tmp_path):
    f = samples.fields()
    lat = f["lat"].values.copy()
    lat[2] = lat[1]
    fails(save(samples.flat(f.assign_coords(lat=lat)), tmp_path), "latitude 67.5 occurs twice")
    lat[2] = np.nan
    fails(save(samples.flat(f.assign_coords(lat=lat)), tmp_path), "latitude holds NaN at entry 2")
    fails(save(samples.flat(f.assign_coords(lat=f["lat"] * 2)), tmp_path), "latitude reaches")
    cells = f.stack(cell=("lat", "lon")).reset_index("cell").drop_vars(["lat", "lon"])
    fails(save(samples.flat(cells), tmp_path), "no latitude and longitude")


def test_files_that_are_broken(tmp_path):
    path = save(samples.flat(samples.fields()), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(path, "cut short or broken")
    path.write_bytes(b"")
    fails(path, "is empty")
    path.write_bytes(b"temperature: warm")
    fails(path, "no HDF5, netCDF, GRIB or zarr")
    fails(tmp_path / "nowhere.nc", "no such file")
    fails(tmp_path, "neither a zarr store nor the tutorial's data")


def test_a_file_cut_while_it_is_open(tmp_path):
    samples.flat(samples.fields()).to_zarr(tmp_path / "f.zarr", zarr_format=3, consolidated=False)
    opened = open_fields(tmp_path / "f.zarr", samples.NAMES)
    chunk = next(p for p in (tmp_path / "f.zarr" / "t2m" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(UserError, match=r"cannot read t2m .*broken"):
        opened.load()


def test_variables_asked_twice_or_unknown(tmp_path):
    path = save(samples.flat(samples.fields()), tmp_path)
    fails(path, "give each once", ["t2m", "2t"])
    with pytest.raises(UserError, match="did you mean"):
        open_fields(path, ["t2n"])


def test_times_of_another_calendar(tmp_path):
    data = samples.flat(samples.fields())
    data["time"] = ("time", [0.0, 0.25, 0.5], {"units": "days since 2018-01-01", "calendar": "360_day"})
    fails(save(data, tmp_path), "calendar")
