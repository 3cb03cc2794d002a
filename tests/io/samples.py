"""Small fields with plausible values, and the layouts in which people store them."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from wxkernels.io.grid import Grid
from wxkernels.io.lexicon import VARIABLES

DATA = Path(__file__).parents[3] / "shared" / "data"
NAMES = ("t2m", "msl", "z500", "u500", "r850")
GRID = Grid.regular(9, 16)


def real_file(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the project (../shared/data)")
    return path


def fields(names=NAMES, grid: Grid = GRID, times: int = 3, seed: int = 0) -> xr.DataArray:
    """Canonical fields (time, variable, lat, lon): noise in the middle third of each variable's range."""
    rng = np.random.default_rng(seed)
    lowest, highest = (np.array([getattr(VARIABLES[n], k) for n in names]) for k in ("lowest", "highest"))
    noise = rng.uniform(1 / 3, 2 / 3, (times, len(names), *grid.shape))
    values = lowest[:, None, None] + noise * (highest - lowest)[:, None, None]
    time = np.datetime64("2018-01-01", "ns") + np.arange(times) * np.timedelta64(6, "h")
    coords = {"time": time, "variable": list(names), "lat": grid.lat, "lon": grid.lon}
    return xr.DataArray(values.astype(np.float32), coords, ("time", "variable", "lat", "lon"), name="fields")


def turned(f: xr.DataArray, south_first: bool, west: float) -> xr.DataArray:
    """The same fields with latitude from the south, and longitude that starts at `west`."""
    lon = (f["lon"] - west) % 360 + west
    f = f.assign_coords(lon=lon).sortby("lon")
    return f.isel(lat=slice(None, None, -1)) if south_first else f


def stacked(f: xr.DataArray) -> xr.Dataset:
    """earth2studio: one array with a dim `variable`."""
    return f.to_dataset(name="fields")


def flat(f: xr.DataArray) -> xr.Dataset:
    """An array a variable, FourCastNet's names."""
    short = {"u10m": "u10", "v10m": "v10"}
    return f.to_dataset("variable").rename({n: short[n] for n in f["variable"].values if n in short})


def ecmwf(f: xr.DataArray) -> xr.Dataset:
    """ECMWF netCDF: short names, dims valid_time, pressure_level, latitude, longitude."""
    return _by_level(f, {"t2m": "2t", "msl": "msl"}, {"z": "z", "u": "u", "r": "r"}, "pressure_level").rename(
        lat="latitude", lon="longitude", time="valid_time"
    )


def weatherbench(f: xr.DataArray) -> xr.Dataset:
    """WeatherBench 2: long names, dims time, level, longitude, latitude."""
    long = {"z": "geopotential", "u": "u_component_of_wind", "r": "relative_humidity"}
    surface = {"t2m": "2m_temperature", "msl": "mean_sea_level_pressure"}
    renamed = _by_level(f, surface, long, "level").rename(lat="latitude", lon="longitude")
    return renamed.transpose(..., "longitude", "latitude")


def forecast_like(f: xr.DataArray) -> xr.Dataset:
    """A forecast of one initial time, valid at the times of `f`, earth2studio's dims."""
    lead = f["time"].values - f["time"].values[0]
    out = f.rename(time="lead_time").assign_coords(lead_time=lead)
    return out.expand_dims(time=f["time"].values[:1]).expand_dims(ensemble=[0]).to_dataset(name="forecast")


def hindcasts(f: xr.DataArray) -> xr.Dataset:
    """Forecasts from several times: at lead 0 they hold `f`, later something else."""
    leads = np.array([0, 6], dtype="timedelta64[h]").astype("timedelta64[ns]")
    both = xr.concat([f, f + 1], "prediction_timedelta").assign_coords(prediction_timedelta=leads)
    return flat(both)


def _by_level(f: xr.DataArray, surface: dict, families: dict, level: str) -> xr.Dataset:
    arrays = {}
    for name in f["variable"].values:
        one = f.sel(variable=name, drop=True)
        if name in surface:
            arrays[surface[name]] = one
        else:
            arrays.setdefault(families[name[0]], []).append(one.expand_dims({level: [int(name[1:])]}))
    parts = [
        (xr.concat(a, level) if isinstance(a, list) else a).to_dataset(name=n) for n, a in arrays.items()
    ]
    return xr.merge(parts, join="outer")
