"""Means and standard deviations by variable, and the climatology: from FourCastNet's files or from data."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from wxkernels.errors import UserError
from wxkernels.io import tutorial
from wxkernels.io.axes import subset
from wxkernels.io.files import named_errors, whole_file
from wxkernels.io.grid import Grid
from wxkernels.io.grid import regrid as regrid_fields
from wxkernels.io.lexicon import canonical
from wxkernels.io.readers import CHANNELS, fourcastnet_grid, open_fields

_NAMES = "variables.json"  # beside .npy files of ours, which hold no names


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (C,) float32 of each variable, SI units, over all times and grid points.

    Every point counts the same, as in FourCastNet's own statistics: no area weights.
    """

    variables: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def select(self, variables: Sequence[str], where: str = "statistics") -> Statistics:
        """Those of `variables` (any convention), in that order. UserError: one is missing."""
        names = tuple(canonical(name) for name in variables)
        missing = [name for name in names if name not in self.variables]
        if missing:
            raise UserError(f"{where}: no {', '.join(missing)}; it holds {', '.join(self.variables)}")
        at = [self.variables.index(name) for name in names]
        return Statistics(names, self.mean[at], self.std[at])

    def save(self, path: str | Path) -> None:
        """Write a netCDF file (`path` ends with .nc) or a folder with FourCastNet's .npy pair and the names.

        UserError: it cannot be written.
        """
        path = Path(path)
        with named_errors("write", path):
            if path.suffix == ".nc":
                data = {"mean": ("variable", self.mean), "std": ("variable", self.std)}
                with whole_file(path) as partial:
                    xr.Dataset(data, {"variable": list(self.variables)}).to_netcdf(partial, engine="h5netcdf")
                return
            path.mkdir(parents=True, exist_ok=True)
            for name, values in (("global_means.npy", self.mean), ("global_stds.npy", self.std)):
                with whole_file(path / name) as partial, partial.open("wb") as file:
                    np.save(file, values.reshape(1, -1, 1, 1))  # (1, C, 1, 1)
            with whole_file(path / _NAMES) as partial:
                partial.write_text(json.dumps(self.variables))


def compute(fields: xr.DataArray) -> Statistics:
    """Statistics of `fields` (time, variable, lat, lon), one time in memory, float64 inside.

    Merges each time's mean m and sum of squares s: d = m - mean, mean += d n/N, S += s + d^2 n (N - n)/N;
    std = sqrt(S/N). UserError: NaN (with its place), or a variable that does not vary.
    """
    names = tuple(str(name) for name in fields["variable"].values)
    total, mean, squares = 0, np.zeros(len(names)), np.zeros(len(names))
    for values in _each_time(fields):
        here = values.mean(axis=(1, 2))  # (C,)
        n = values[0].size
        total += n
        delta = here - mean
        mean += delta * n / total
        squares += ((values - here[:, None, None]) ** 2).sum(axis=(1, 2)) + delta**2 * n * (total - n) / total
    return _checked(names, mean, np.sqrt(squares / total), "data")


def time_mean(fields: xr.DataArray) -> xr.DataArray:
    """The mean over time of `fields` (time, variable, lat, lon): (variable, lat, lon) float32.

    UserError: NaN (with its place).
    """
    total = sum(_each_time(fields), start=np.zeros(()))
    mean = fields.isel(time=0, drop=True)
    return mean.copy(data=(total / fields.sizes["time"]).astype(np.float32))


def _each_time(fields: xr.DataArray) -> Iterator[np.ndarray]:
    fields = fields.transpose("time", "variable", "lat", "lon")
    if not fields.sizes["time"]:
        raise UserError("data: holds no times; give at least one")
    for at in range(fields.sizes["time"]):
        values = fields.isel(time=at).values.astype(np.float64)
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values).all(axis=(1, 2))
            name, time = fields["variable"].values[bad][0], fields["time"].values[at]
            raise UserError(f"data: {name} is NaN or infinite at {time}; fill it, or leave the variable out")
        yield values


def load(path: str | Path, variables: Sequence[str]) -> Statistics:
    """The statistics of `variables` at `path`: a folder with the .npy pair, a file of it, or a netCDF file.

    Without names beside them, 20, 21 and 26 channels are in FourCastNet's order; any other count must be
    that of `variables` and is taken in their order. UserError: missing or broken files, missing variables,
    a std of 0.
    """
    path = Path(path)
    if path.suffix == ".nc":
        try:
            with xr.open_dataset(path, engine="h5netcdf") as data:
                names = tuple(str(name) for name in data["variable"].values)
                pair = data["mean"].values, data["std"].values
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as statistics ({_line(error)}); make it anew") from None
        return _checked(names, *pair, str(path)).select(variables, str(path))
    if path.suffix == ".npy":
        path = path.parent
    found = tutorial.find(path)
    means = path / "global_means.npy" if (path / "global_means.npy").exists() else found.means
    stds = path / "global_stds.npy" if (path / "global_stds.npy").exists() else found.stds
    if means is None or stds is None:
        lacks = "global_means.npy" if means is None else "global_stds.npy"
        raise UserError(
            f"{path}: no {lacks}; give the folder of the statistics, or make it with wxkernels statistics"
        )
    pair = _read_npy(means).reshape(-1), _read_npy(stds).reshape(-1)
    if pair[0].size != pair[1].size:
        raise UserError(f"{means}: {pair[0].size} means and {pair[1].size} standard deviations; give a pair")
    names = _channel_names(means.parent / _NAMES, pair[0].size, variables, str(means))
    return _checked(names, *pair, str(means.parent)).select(variables, str(means.parent))


def load_climatology(
    path: str | Path,
    variables: Sequence[str],
    grid: Grid,
    *,
    regrid: bool = False,
    optional: Collection[str] = (),
) -> xr.DataArray:
    """The time mean (variable, lat, lon) float32, SI units, on `grid`.

    `path`: FourCastNet's time_means.npy (1, C, H, W), a folder that holds it, or any file of `open_fields`,
    whose mean over time is taken. `optional`: canonical names that it may lack: NaN. UserError: as `load` and
    `open_fields`; another grid without `regrid`.
    """
    path, names = Path(path), [canonical(name) for name in variables]
    if path.is_dir():
        inside = [p for p in (path / "time_means.npy", path / "time_means.nc") if p.exists()]
        path = inside[0] if inside else tutorial.find(path).time_means or path
    if path.suffix != ".npy":
        fields = open_fields(path, names, grid=grid, regrid=regrid, untimed=True, optional=optional)
        return time_mean(fields).reindex(variable=names)
    maps = _read_npy(path, mmap=True)
    if maps.ndim != 4 or maps.shape[0] != 1:
        raise UserError(
            f"{path}: has shape {maps.shape}, expected (1, channel, lat, lon); give time_means.npy"
        )
    needed = [name for name in names if name not in optional]
    channels = _channel_names(path.parent / _NAMES, maps.shape[1], needed, str(path))
    missing = [name for name in needed if name not in channels]
    if missing:
        raise UserError(f"{path}: no {', '.join(missing)}; it holds {', '.join(channels)}")
    there = fourcastnet_grid(*maps.shape[2:])
    points = subset(there, grid)
    if points is None and not regrid:
        raise UserError(f"{path}: its grid is {there}, expected {grid}; interpolate with --regrid")
    rows, columns = points if points is not None else (slice(None), slice(None))
    held = [name for name in names if name in channels]
    values = np.stack([maps[0, channels.index(name)][rows][:, columns] for name in held]).astype(np.float32)
    if not np.isfinite(values).all():
        bad = held[int(np.argmin(np.isfinite(values).all(axis=(1, 2))))]
        raise UserError(f"{path}: {bad} holds NaN; fill it, or leave the variable out")
    on = grid if points is not None else there
    climatology = xr.DataArray(
        values, {"variable": held, "lat": on.lat, "lon": on.lon}, ("variable", "lat", "lon")
    )
    climatology = climatology if points is not None else regrid_fields(climatology, grid)
    return climatology.reindex(variable=names)


def save_climatology(climatology: xr.DataArray, path: str | Path) -> None:
    """Write `climatology` (variable, lat, lon) as netCDF for `load_climatology`.

    UserError: `path` does not end with .nc, or cannot be written.
    """
    if Path(path).suffix != ".nc":
        raise UserError(f"cannot write {path}: a climatology is netCDF; end its name with .nc")
    with whole_file(path) as partial:
        climatology.astype(np.float32).to_dataset(name="climatology").to_netcdf(partial, engine="h5netcdf")


def _channel_names(beside: Path, count: int, variables: Sequence[str], where: str) -> tuple[str, ...]:
    names = tuple(canonical(name) for name in variables)
    if beside.exists():
        try:
            names = tuple(canonical(str(name)) for name in json.loads(beside.read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"{beside}: cannot be read ({_line(error)}); make the statistics anew") from None
    elif count in CHANNELS and set(names) <= set(CHANNELS[count]):
        names = CHANNELS[count]
    if len(names) != count:
        raise UserError(
            f"{where}: holds {count} channels for {len(names)} variables; give statistics of the same"
        )
    return names


def _read_npy(path: Path, mmap: bool = False) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({_line(error)}); copy it again") from None


def _checked(names: tuple[str, ...], mean: np.ndarray, std: np.ndarray, where: str) -> Statistics:
    good = np.isfinite(mean) & np.isfinite(std) & (std > 0)
    if not good.all():
        at = int(np.argmin(good))
        raise UserError(
            f"{where}: {names[at]} has mean {mean[at]:g} and standard deviation {std[at]:g}, not above 0; "
            "leave the variable out or give more data"
        )
    return Statistics(names, mean.astype(np.float32), std.astype(np.float32))


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
