"""What a file holds: each variable of the lexicon over time, latitude and longitude, not read yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from wxkernels.errors import UserError
from wxkernels.io import lexicon

_LAT = ("lat", "latitude")
_LON = ("lon", "longitude")
_LEVEL = ("level", "isobaricInhPa", "isobaricInPa", "pressure_level", "plev", "lev", "pressure")
_VARIABLE = ("variable", "channel", "feature")
_MEMBER = ("ensemble", "number", "member", "realization", "sample", "statistic")
_LEAD = ("lead_time", "prediction_timedelta", "step")


@dataclass(frozen=True)
class Source:
    """One variable in a file: `array` has dims `time` (None: one time), `lat` and `lon`, in any order."""

    name: str
    array: xr.DataArray
    time: str | None
    lat: str
    lon: str
    times: np.ndarray | None  # datetime64[ns], one for each entry of `time`; None where the file has none
    units: str

    @property
    def entries(self) -> int:
        """How many times it holds."""
        return self.array.sizes[self.time] if self.time else 1


def catalogue(
    datasets: Sequence[xr.Dataset], wanted: Sequence[str], where: str, optional: Collection[str] = ()
) -> list[Source]:
    """The `wanted` variables (canonical names) in the order asked, without the `optional` ones not there.

    UserError: variables that are missing, no latitude and longitude, dims that leave a choice open.
    """
    found: dict[str, xr.DataArray] = {}
    for dataset in datasets:
        for array in dataset.data_vars.values():
            for name, part in _named(array):
                found.setdefault(name, part)
    there = [name for name in wanted if name in found]
    missing = [name for name in wanted if name not in found and (not there or name not in optional)]
    if missing:
        held = ", ".join(found) or "no variable that the lexicon knows: " + ", ".join(
            str(name) for dataset in datasets for name in dataset.data_vars
        )
        raise UserError(f"{where}: no {', '.join(missing)}; it holds {held}; give a file with every variable")
    return [_source(name, found[name], where) for name in there]


def _named(array: xr.DataArray) -> Iterator[tuple[str, xr.DataArray]]:
    """Each part of an array that is one variable on one level, with its canonical name."""
    for dim in _VARIABLE:
        if dim in array.dims and dim in array.coords:
            for index, value in enumerate(array[dim].values):
                part = array.isel({dim: index})
                name = lexicon.find(str(value))
                if name:
                    yield name, part.assign_attrs(units=_units_of(part))
            return
    level = next((name for name in _LEVEL if name in array.coords), None)
    levels: list[float | None] = [None]
    if level:
        values = np.atleast_1d(array[level].values).astype(np.float64)
        in_pascal = level == "isobaricInPa" or array[level].attrs.get("units", "").strip().lower() == "pa"
        levels = list(values / 100 if in_pascal else values)
    for index, value in enumerate(levels):
        name = _name(array, value)
        if name:
            yield name, array.isel({level: index}) if level in array.dims else array


def _units_of(part: xr.DataArray) -> str:
    """Units of one entry along `variable`: a coordinate that lies along it, else the array's."""
    if "units" in part.coords and part.coords["units"].ndim == 0:
        return str(part.coords["units"].item())
    return str(part.attrs.get("units", ""))


def _name(array: xr.DataArray, level: float | None) -> str | None:
    attrs = {key: str(array.attrs.get(key, "")) for key in ("GRIB_shortName", "long_name", "standard_name")}
    names = [attrs["GRIB_shortName"], str(array.name), attrs["long_name"], attrs["standard_name"]]
    if "metre" in attrs["long_name"]:  # `u100` is the wind at 100 m in ECMWF netCDF, at 100 hPa elsewhere
        names.insert(0, attrs["long_name"])
    return next((found for name in names if name and (found := lexicon.find(name, level))), None)


def _source(name: str, array: xr.DataArray, where: str) -> Source:
    lat, lon = (
        _axis(array, names, standard) for names, standard in ((_LAT, "latitude"), (_LON, "longitude"))
    )
    if lat is None or lon is None:
        dims = ", ".join(map(str, array.dims))
        raise UserError(
            f"{where}: {name} has dims {dims}, no latitude and longitude; interpolate to a lat-lon grid"
        )
    lead = next((dim for dim in _LEAD if dim in array.dims), None)
    others = [str(dim) for dim in array.dims if dim not in (lat, lon) and array.sizes[dim] != 1]
    if (
        len(others) == 2 and lead in others
    ):  # forecasts from several times: their initial states are what is known
        leads = array[lead].values if lead in array.coords else np.array([])
        start = np.flatnonzero(leads == np.timedelta64(0))
        if start.size != 1:
            raise UserError(f"{where}: {name} has several times and leads; choose one: ds.isel({lead}=0)")
        array, others = array.isel({lead: int(start[0])}), [dim for dim in others if dim != lead]
    members = [dim for dim in others if dim in _MEMBER]
    if len(others) > 1 or members:
        first = next((dim for dim in [*members, *others] if "time" not in dim), others[0])
        raise UserError(f"{where}: {name} has dims {', '.join(others)}; select one entry: ds.isel({first}=0)")
    keep = {lat, lon, *others}
    time = others[0] if others else next((str(d) for d in array.dims if "time" in str(d)), None)
    array = array.isel({dim: 0 for dim in array.dims if dim not in keep and dim != time})
    return Source(name, array, time, lat, lon, _times(array, time, where), str(array.attrs.get("units", "")))


def _axis(array: xr.DataArray, names: Sequence[str], standard_name: str) -> str | None:
    for dim in map(str, array.dims):
        if dim in names or (dim in array.coords and array[dim].attrs.get("standard_name") == standard_name):
            return dim if dim in array.coords else None
    return None


def _times(array: xr.DataArray, time: str | None, where: str) -> np.ndarray | None:
    """Valid times of the entries: `valid_time`, or the time (and the lead) along the dim, or beside it."""
    dims = () if time is None else (time,)
    coords: dict[str, Any] = {str(k): c for k, c in array.coords.items() if c.dims in (dims, ())}
    along = [c for c in coords.values() if c.dims == dims and c.dtype.kind in "MO"]
    found = coords.get("valid_time", next(iter(along), coords.get("time")))
    if found is None or found.dtype.kind not in "MO":
        return None
    try:
        values = found.values.astype("datetime64[ns]")
    except (TypeError, ValueError):
        calendar = getattr(np.atleast_1d(found.values)[0], "calendar", "unknown")
        raise UserError(
            f"{where}: times are in the calendar {calendar}; convert them: ds.convert_calendar('standard')"
        ) from None
    if found.name != "valid_time":
        lead = next((coords[n] for n in _LEAD if n in coords and coords[n].dtype.kind == "m"), None)
        values = values if lead is None else values + lead.values.astype("timedelta64[ns]")
    return np.atleast_1d(values) if time is None else np.broadcast_to(values, (array.sizes[time],))
