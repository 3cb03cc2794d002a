"""Fields from any file that holds them: FourCastNet HDF5, netCDF, zarr, GRIB, the tutorial folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from xarray.core import indexing

from wxkernels.errors import UserError
from wxkernels.io import tutorial
from wxkernels.io.axes import arrange, subset
from wxkernels.io.catalogue import Source, catalogue
from wxkernels.io.grid import SAME, Grid
from wxkernels.io.lazy import LazyFields
from wxkernels.io.lexicon import FOURCASTNET_20, FOURCASTNET_26, canonical

# channel orders of `fields` by count; the files of FourCastNet end with a sea surface temperature, unused
CHANNELS = {20: FOURCASTNET_20, 21: (*FOURCASTNET_20, "sst"), 26: FOURCASTNET_26}


def open_fields(
    path: str | Path,
    variables: Sequence[str],
    *,
    grid: Grid | None = None,
    regrid: bool = False,
    times: Sequence[Any] | np.ndarray | None = None,
    untimed: bool = False,
    optional: Collection[str] = (),
    nan: Literal["refuse", "keep"] = "refuse",
) -> xr.DataArray:
    """The fields of a file, lazy: (time, variable, lat, lon) float32, SI units, north to south, from 0 east.

    `variables`: names of any convention; the canonical ones in `optional` may be absent. `grid`: what the
    fields must lie on; points that the file has are selected, others need `regrid`. `times`: the file's times
    where it states none, else in their place; `untimed` numbers them in seconds from 1970 instead, for means.
    FourCastNet's HDF5 gives 720 of its 721 rows unless `grid` asks for all, and takes its times from the year
    in its name, 6 hours apart. Units that the file states are converted. UserError: a file that is missing,
    empty, broken or of no known format, missing variables, another grid, times that are missing or out of
    order; on reading: implausible values, and NaN unless `nan` is "keep".
    """
    path = Path(path)
    names = [canonical(name) for name in variables]
    if not names or len(set(names)) != len(names):
        raise UserError(f"{path}: variables {', '.join(names) or '(none)'}: give each once, and at least one")
    datasets, is_fourcastnet = _open(path)
    sources = catalogue(datasets, names, str(path), optional)
    first = sources[0]
    there, rows, columns = arrange(first.array[first.lat].values, first.array[first.lon].values, str(path))
    if untimed and times is None and first.times is None:
        times = np.arange(first.entries).astype("datetime64[s]")
    valid = _times(first, path, times)
    for other in sources[1:]:
        _same_axes(first, other, path)
    if is_fourcastnet and grid is None and there.lat.size % 2:
        grid = Grid(there.lat[:-1], there.lon)  # the network's patches leave out the south pole
    target = None
    if grid is not None and grid != there:
        points = subset(there, grid)
        if points is not None:
            rows, columns, there = rows[points[0]], columns[points[1]], grid
        elif regrid:
            target = grid
        else:
            raise UserError(f"{path}: its grid is {there}, expected {grid}; interpolate with --regrid")
    lazy = LazyFields(sources, valid, there, rows, columns, target, str(path), nan)
    held = np.array([source.name for source in sources])
    coords = {"time": valid, "variable": held, "lat": (target or there).lat}
    return xr.DataArray(
        xr.Variable(("time", "variable", "lat", "lon"), indexing.LazilyIndexedArray(lazy)),
        coords={**coords, "lon": (grid if grid is not None else there).lon},
        name="fields",
        attrs={"source": str(path)},
    )


def _times(source: Source, path: Path, given: Sequence[Any] | np.ndarray | None) -> np.ndarray:
    if source.entries == 0:
        raise UserError(f"{path}: holds no times; give a file with at least one")
    if given is None:
        valid = source.times
        if valid is None:
            dim = f"dim {source.time} of {source.entries}" if source.time else "a single entry"
            raise UserError(
                f"{path}: states no times ({dim}); give times, one for each entry: add a time coordinate "
                "(xarray: ds.expand_dims(time=[...])), or for FourCastNet HDF5 put the year in the file name"
            )
    else:
        try:
            valid = np.atleast_1d(np.asarray(given, dtype="datetime64[ns]"))
        except ValueError as error:
            raise UserError(f"times: {error}; write them as 2018-01-01T06:00") from None
        if valid.size != source.entries:
            raise UserError(f"{path}: {valid.size} times given, it holds {source.entries}; give one for each")
    if np.isnat(valid).any():
        raise UserError(f"{path}: time {int(np.isnat(valid).argmax())} is missing (NaT); give times")
    steps = np.diff(valid)
    if (steps <= np.timedelta64(0)).any():
        at = int((steps <= np.timedelta64(0)).argmax())
        before, after = (np.datetime_as_string(valid[i], "m") for i in (at, at + 1))
        dim = source.time or "time"
        values, counts = np.unique(valid, return_counts=True)
        if counts.max() > 1:
            twice = np.datetime_as_string(values[counts.argmax()], "m")
            raise UserError(f"{path}: time {twice} occurs twice; drop it with ds.drop_duplicates('{dim}')")
        raise UserError(f"{path}: times are not in order ({before} before {after}); use ds.sortby('{dim}')")
    return np.ascontiguousarray(valid)


def _same_axes(first: Source, other: Source, path: Path) -> None:
    for kind in ("lat", "lon"):
        a, b = (s.array[getattr(s, kind)].values for s in (first, other))
        if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=SAME):
            raise UserError(f"{path}: {first.name} and {other.name} lie on different grids; give them on one")
    a, b = (s.times if s.times is not None else np.arange(s.entries) for s in (first, other))
    if not np.array_equal(a, b):
        raise UserError(
            f"{path}: {first.name} and {other.name} have different times; give a file with the same"
        )


def _open(path: Path) -> tuple[list[xr.Dataset], bool]:
    """The datasets in a file, and whether it is FourCastNet's HDF5."""
    kind = _kind(path)
    if kind == "directory":
        data = tutorial.find(path).data
        if data is None:
            raise UserError(f"{path}: holds neither a zarr store nor the tutorial's data; give a file")
        return _open(data)
    options: dict[str, Any] = {"cache": False, "decode_timedelta": True}
    if kind == "grib":
        try:
            import cfgrib
        except Exception as error:  # eccodes may be missing too, which is no ImportError
            raise UserError(f"{path}: GRIB needs cfgrib ({error}); pip install 'wxkernels[grib]'") from None
    try:
        with warnings.catch_warnings():  # attributes of others' files, which we only read
            warnings.simplefilter("ignore")
            if kind == "grib":
                return cfgrib.open_datasets(
                    str(path), backend_kwargs={"indexpath": "", "errors": "raise"}
                ), False
            if kind == "hdf5":
                options |= {"engine": "h5netcdf", "phony_dims": "sort"}
            else:
                options |= {"engine": kind} | ({"consolidated": False} if kind == "zarr" else {})
            dataset = xr.open_dataset(path, **options)
    except Exception as error:  # each library has its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "decode time" in reason:
            raise UserError(f"{path}: {reason}; convert its times to the standard calendar") from None
        raise UserError(
            f"{path}: cannot be read ({reason}); the file is cut short or broken, copy it again"
        ) from None
    if "fields" in dataset and not set(dataset["fields"].dims) & set(dataset.coords):
        return [_fourcastnet(dataset["fields"], path)], True
    return [dataset], False


def _kind(path: Path) -> str:
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
            return "zarr"
        return "directory"
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if not start:
        raise UserError(f"{path}: is empty; copy it again")
    for magic, kind in ((b"\x89HDF\r\n\x1a\n", "hdf5"), (b"CDF", "scipy"), (b"GRIB", "grib")):
        if start.startswith(magic):
            return kind
    raise UserError(f"{path}: is no HDF5, netCDF, GRIB or zarr; convert it to one of them")


def fourcastnet_grid(n_lat: int, n_lon: int) -> Grid:
    """The grid of FourCastNet's arrays: both poles where n_lat is odd (721), else no south pole (720)."""
    if n_lat % 2:
        return Grid.regular(n_lat, n_lon)
    return Grid(90 - 180 / n_lat * np.arange(n_lat), np.arange(n_lon) * (360 / n_lon))


def _fourcastnet(fields: xr.DataArray, path: Path) -> xr.Dataset:
    """FourCastNet's `fields` (T, C, H, W) with the coordinates that its file leaves out."""
    if fields.ndim != 4:
        raise UserError(f"{path}: fields has shape {fields.shape}, expected (time, channel, lat, lon)")
    count, channels, n_lat, n_lon = fields.shape
    if channels not in CHANNELS:
        known = ", ".join(map(str, CHANNELS))
        raise UserError(
            f"{path}: fields has {channels} channels, the order is known of {known}; name them in netCDF"
        )
    grid = fourcastnet_grid(n_lat, n_lon)
    coords: dict[str, Any] = {"variable": list(CHANNELS[channels]), "lat": grid.lat, "lon": grid.lon}
    year = re.search(r"(?<!\d)(19|20)\d\d(?!\d)", path.stem)
    if year and count <= 4 * 366:
        coords["time"] = np.datetime64(year[0], "ns") + np.arange(count) * np.timedelta64(6, "h")
    renamed = dict(zip(fields.dims, ("time", "variable", "lat", "lon"), strict=True))
    return fields.rename(renamed).assign_coords(coords).to_dataset(name="fields")
