"""Real reanalysis through the reader; skipped where ../shared/data is absent."""

import numpy as np
import pytest
import xarray as xr

from tests.io.samples import real_file
from wxkernels.errors import UserError
from wxkernels.io import open_fields, statistics
from wxkernels.io.grid import FOURCASTNET, Grid

MONTHS = ["1979-01-01", "1979-07-01"]  # the file names months, not times


@pytest.mark.filterwarnings("ignore::xarray.SerializationWarning")
def test_era_interim_as_the_file_has_it():
    path = real_file("eraint_uvz.nc")
    with pytest.raises(UserError, match=r"states no times .dim month of 2"):
        open_fields(path, ["z500"])
    f = open_fields(path, ["z500", "u200", "v_850"], times=MONTHS)
    assert Grid(f["lat"].values, f["lon"].values) == Grid.regular(241, 480)
    with xr.open_dataset(path) as raw:
        for lon in (0.0, 120.75, 359.25):
            there = raw["z"].sel(level=500, month=7, longitude=(lon + 180) % 360 - 180).values
            np.testing.assert_allclose(f.sel(variable="z500", lon=lon)[1], there, rtol=1e-6)
        south = raw["u"].sel(level=200, month=1, latitude=-45, longitude=slice(0, None)).values
    np.testing.assert_allclose(f.sel(variable="u200", lat=-45)[0, :240], south, rtol=1e-5, atol=1e-5)
    s = statistics.compute(f)
    assert 53e3 < s.mean[0] < 57e3  # z500, m2 s-2
    assert 5 < s.mean[1] < 25  # the jets, m s-1


def test_era_interim_on_the_grid_of_fourcastnet():
    path = real_file("eraint_uvz.nc")
    names = ["z500", "u500"]
    original = open_fields(path, names, times=MONTHS)[0]
    fine = open_fields(path, names, times=MONTHS, grid=FOURCASTNET, regrid=True)[0].load()
    assert fine.shape == (2, 720, 1440)
    shared = fine.sel(lat=original["lat"][:-1], lon=original["lon"])  # 0.75 is a multiple of 0.25
    np.testing.assert_allclose(shared, original[:, :-1], rtol=1e-6, atol=1e-4)
    assert float(fine[0].min()) >= float(original[0].min())  # linear: no new extremes
    assert float(fine[0].max()) <= float(original[0].max())


def test_era5_grib_over_the_british_isles():
    path = real_file("era5-2mt-2019-03-uk.grib")
    pytest.importorskip(
        "cfgrib", reason="GRIB needs the extra: pip install wxkernels[grib]", exc_type=Exception
    )
    f = open_fields(path, ["2m_temperature"])
    assert f.sizes == {"time": 744, "variable": 1, "lat": 33, "lon": 49}
    assert (f["time"].values[[0, -1]] == np.array(["2019-03-01T00", "2019-03-31T23"], "M8[ns]")).all()
    assert (f["lon"].values[0], f["lon"].values[-1]) == (350, 362)  # one piece across Greenwich
    values = f.load()
    assert 265 < float(values.min()) < float(values.max()) < 300
    london = f.sel(lat=51.5, lon=360, variable="t2m").groupby("time.hour").mean()
    assert int(np.argmax(london.values)) in (13, 14, 15)  # warmest in the afternoon


def test_a_grib_file_cut_short(tmp_path):
    path = real_file("era5-2mt-2019-03-uk.grib")
    pytest.importorskip(
        "cfgrib", reason="GRIB needs the extra: pip install wxkernels[grib]", exc_type=Exception
    )
    (tmp_path / "cut.grib").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="cut short or broken"):
        open_fields(tmp_path / "cut.grib", ["t2m"])
