"""Latitude-longitude grids, and fields brought from one to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wxkernels.errors import UserError
from wxkernels.io.lexicon import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

SAME = 1e-3  # degrees; coordinates stored as float32 differ by up to 3e-5


@dataclass(frozen=True, eq=False)
class Grid:
    """A latitude-longitude grid: lat (H,) north to south, lon (W,) eastward, degrees, float64.

    lon starts in [0, 360); it passes 360 only where a regional grid crosses Greenwich. Equality is by value
    (1e-3 degrees). ValueError: coordinates that are not so ordered, not finite or out of range.
    """

    lat: np.ndarray
    lon: np.ndarray

    def __post_init__(self) -> None:
        for name in ("lat", "lon"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
                raise ValueError(f"{name}: expected a vector of finite degrees, got shape {values.shape}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        if np.any(np.diff(self.lat) >= 0) or np.abs(self.lat).max() > 90 + SAME:
            raise ValueError(f"lat: expected degrees falling from north to south within 90..-90, got {self}")
        if np.any(np.diff(self.lon) <= 0) or not 0 <= self.lon[0] < 360 or np.ptp(self.lon) >= 360:
            raise ValueError(f"lon: expected degrees rising from [0, 360) by less than 360, got {self}")

    @classmethod
    def regular(cls, n_lat: int, n_lon: int, *, poles: bool = True) -> Grid:
        """The global grid with rows on both poles, or (`poles=False`) at the centres of equal bands."""
        half = 0.0 if poles else 90.0 / n_lat
        return cls(np.linspace(90 - half, half - 90, n_lat), np.arange(n_lon) * (360.0 / n_lon))

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.lat.size, self.lon.size

    @property
    def is_periodic(self) -> bool:
        """Whether the columns go round the globe: the gap across the seam is no wider than the others."""
        if self.lon.size < 2:
            return False
        return bool(self.lon[0] + 360 - self.lon[-1] <= 1.01 * np.diff(self.lon).max() + SAME)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and bool(
            np.allclose(self.lat, other.lat, rtol=0, atol=SAME)
            and np.allclose(self.lon, other.lon, rtol=0, atol=SAME)
        )

    def __hash__(self) -> int:
        return hash(self.shape)  # values within the tolerance must hash alike

    def __str__(self) -> str:
        ends = f"lat {self.lat[0]:g}..{self.lat[-1]:g}, lon {self.lon[0]:g}..{self.lon[-1]:g}"
        return f"{self.lat.size} x {self.lon.size} ({ends})"

    __repr__ = __str__


# 0.25 degrees without the row of the south pole.
FOURCASTNET = Grid(90 - 0.25 * np.arange(720), 0.25 * np.arange(1440))


def grid_of(fields: xr.DataArray | xr.Dataset) -> Grid:
    """The grid of an array with coordinates `lat` and `lon`."""
    return Grid(fields["lat"].values, fields["lon"].values)


def interpolate(values: np.ndarray, source: Grid, target: Grid, *, vector: bool = False) -> np.ndarray:
    """Bilinear interpolation of `values` (..., H, W) from `source` to `target`; same dtype out.

    In float64. Longitude is periodic. Beyond the last row before a pole the meridian goes on at lon + 180,
    where a vector component (`vector`) has the opposite sign; so a pole gets the mean of opposite meridians.
    UserError: `target` reaches outside of a regional `source`.
    """
    import xarray as xr

    if source == target:
        return values
    dims = [*(f"d{i}" for i in range(values.ndim - 2)), "lat", "lon"]
    field = xr.DataArray(values.astype(np.float64), dims=dims)
    field = _extend(field.assign_coords(lat=source.lat, lon=source.lon), source, target, vector)
    first = float(field["lon"][0])
    lon = first + (target.lon - first) % 360
    outside = [
        f"{name} {found.min():g}..{found.max():g} asked, {float(given.min()):g}..{float(given.max()):g} there"
        for name, found, given in (("lat", target.lat, field["lat"]), ("lon", lon, field["lon"]))
        if found.min() < float(given.min()) - SAME or found.max() > float(given.max()) + SAME
    ]
    if outside:
        raise UserError(
            f"cannot regrid {source} to {target}: {'; '.join(outside)}; give data that covers the grid"
        )
    # two passes of one-dimensional interpolation are cheaper than one of two dimensions, and equal
    lat = np.clip(target.lat, float(field["lat"].min()), float(field["lat"].max()))
    lon = np.clip(lon, first, float(field["lon"][-1]))
    return field.interp(lat=lat).interp(lon=lon).values.astype(values.dtype, copy=False)


def _extend(field: xr.DataArray, source: Grid, target: Grid, vector: bool) -> xr.DataArray:
    """`field` with a column on each side of a periodic grid, and a row across each pole as `target` needs."""
    import xarray as xr

    if not source.is_periodic:
        return field
    west, east = field.isel(lon=[-1]), field.isel(lon=[0])
    west, east = west.assign_coords(lon=west["lon"] - 360), east.assign_coords(lon=east["lon"] + 360)
    field = xr.concat([west, field, east], "lon")
    spacing = 1.01 * np.abs(np.diff(source.lat)).max(initial=0.0) + SAME
    for pole, row, needed in (
        (90.0, 0, target.lat[0] > source.lat[0]),
        (-90.0, -1, target.lat[-1] < source.lat[-1]),
    ):
        if not needed or abs(pole - source.lat[row]) > spacing:
            continue
        opposite = field["lon"][0].item() + (field["lon"].values + 180 - field["lon"][0].item()) % 360
        across = field.isel(lat=[row]).interp(lon=opposite).assign_coords(lon=field["lon"])
        across = across.assign_coords(lat=2 * pole - across["lat"]) * (-1 if vector else 1)
        field = xr.concat([across, field] if row == 0 else [field, across], "lat")
    return field


def regrid(fields: xr.DataArray, grid: Grid) -> xr.DataArray:
    """`fields` (..., lat, lon) interpolated to `grid` by `interpolate`; the same object if grids are equal.

    Winds, by the names on `variable`, are treated as vector components. UserError: as `interpolate`.
    """
    source = grid_of(fields)
    if source == grid:
        return fields
    fields = fields.transpose(..., "lat", "lon")
    if "variable" in fields.dims:
        axis = fields.get_axis_num("variable")
        parts = [
            interpolate(fields.isel(variable=[i]).values, source, grid, vector=_is_vector(name))
            for i, name in enumerate(fields["variable"].values)
        ]
        values = np.concatenate(parts, axis=axis)
    else:
        name = fields.coords["variable"].item() if "variable" in fields.coords else fields.name
        values = interpolate(fields.values, source, grid, vector=_is_vector(name))
    coords = {name: c for name, c in fields.coords.items() if not {"lat", "lon"} & set(c.dims)}
    template = {**coords, "lat": grid.lat, "lon": grid.lon}
    return type(fields)(values, dims=fields.dims, coords=template, name=fields.name, attrs=fields.attrs)


def _is_vector(name: object) -> bool:
    return str(name) in VARIABLES and VARIABLES[str(name)].is_vector
