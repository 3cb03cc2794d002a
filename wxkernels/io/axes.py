"""A file's own latitudes and longitudes, put into the order of `Grid`."""

from __future__ import annotations

import numpy as np

from wxkernels.errors import UserError
from wxkernels.io.grid import SAME, Grid


def arrange(lat: np.ndarray, lon: np.ndarray, where: str) -> tuple[Grid, np.ndarray, np.ndarray]:
    """The grid of a file, and for each of its rows and columns the index in the file.

    Any order of latitude, any origin of longitude; a last column that repeats the first is dropped; a
    regional grid is cut at its widest gap, so that it stays in one piece across Greenwich. UserError:
    coordinates that make no grid.
    """
    lat, lon = np.asarray(lat, dtype=np.float64), np.asarray(lon, dtype=np.float64)
    for name, values in (("latitude", lat), ("longitude", lon)):
        if values.ndim != 1 or not values.size:
            raise UserError(
                f"{where}: {name} has shape {values.shape}, expected a vector; interpolate to a lat-lon grid"
            )
        if not np.isfinite(values).all():
            raise UserError(
                f"{where}: {name} holds NaN at entry {int(np.argmin(np.isfinite(values)))}; correct it"
            )
    if np.abs(lat).max() > 90 + SAME:
        raise UserError(
            f"{where}: latitude reaches {lat[np.abs(lat).argmax()]:g} degrees; correct it to -90..90"
        )
    rows = np.argsort(-lat, kind="stable")
    _no_repeats(lat[rows], "latitude", where)

    columns = np.arange(lon.size)
    if abs(abs(lon[-1] - lon[0]) - 360) < SAME:  # the same meridian at both ends
        columns = columns[:-1]
    lon = np.round(lon, 6) % 360  # float32 noise must not turn 0 into 360
    columns = columns[np.argsort(lon[columns], kind="stable")]
    gaps = np.diff(np.append(lon[columns], lon[columns[0]] + 360))
    widest = int(gaps.argmax())
    if gaps[widest] > gaps[-1] + SAME:  # regional, across Greenwich
        columns = np.roll(columns, -(widest + 1))
    east = lon[columns[0]] + (lon[columns] - lon[columns[0]]) % 360
    _no_repeats(east, "longitude", where)
    return Grid(np.clip(lat[rows], -90, 90), east), rows, columns


def _no_repeats(values: np.ndarray, name: str, where: str) -> None:
    repeated = np.flatnonzero(np.abs(np.diff(values)) < SAME)
    if repeated.size:
        raise UserError(
            f"{where}: {name} {values[repeated[0]]:g} occurs twice; drop it with ds.drop_duplicates('{name}')"
        )


def positions(there: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Index among the degrees `there` of each one `asked`, on the circle; -1 where it is missing."""
    distance = np.abs((there[None, :] - asked[:, None] + 180) % 360 - 180)  # (asked, there)
    return np.where(distance.min(1) <= SAME, distance.argmin(1), -1)


def subset(there: Grid, asked: Grid) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns of `there` that are the points of `asked`, None where one is missing."""
    rows, columns = positions(there.lat, asked.lat), positions(there.lon, asked.lon)
    return None if min(rows.min(), columns.min()) < 0 else (rows, columns)
