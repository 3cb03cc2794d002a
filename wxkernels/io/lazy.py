"""Fields as one lazy array: only what is selected is read, and what is read is checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from wxkernels.errors import UserError
from wxkernels.io.catalogue import Source
from wxkernels.io.grid import Grid, interpolate
from wxkernels.io.lexicon import VARIABLES
from wxkernels.io.units import check_range, to_si

_BLOCK = 2**24  # values read at once, so that a year of one variable is not held twice


class LazyFields(BackendArray):
    """(time, variable, lat, lon) float32 in SI units over the variables of a file.

    `rows`, `columns`: indices in the file of the rows and columns of `there`; `target`: the grid to
    interpolate to; `nan`: "keep" lets NaN and infinite values pass. Reading raises UserError for NaN (how
    many and where), values that cannot be in SI units, a broken file.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        times: np.ndarray,
        there: Grid,
        rows: np.ndarray,
        columns: np.ndarray,
        target: Grid | None,
        where: str,
        nan: Literal["refuse", "keep"],
    ) -> None:
        self.nan = nan
        self.sources, self.times, self.there, self.target = sources, times, there, target
        self.rows, self.columns, self.where = rows, columns, where
        self.scales = [to_si(source.units, source.name, where) for source in sources]
        self.dtype = np.dtype(np.float32)
        self.shape = (len(times), len(sources), *(target or there).shape)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.VectorizedIndexer):
            outer = indexing.IndexingSupport.OUTER
            return indexing.explicit_indexing_adapter(key, self.shape, outer, self._select)
        return self._select(key.tuple)

    def _select(self, key: tuple[Any, ...]) -> np.ndarray:
        indices = [np.arange(n)[k] for n, k in zip(self.shape, key, strict=True)]
        times, variables, rows, columns = (np.atleast_1d(i) for i in indices)
        out = np.empty((times.size, variables.size, rows.size, columns.size), np.float32)
        size = self.rows.size * self.columns.size if self.target else rows.size * columns.size
        step = max(1, _BLOCK // max(1, size))
        for at, variable in enumerate(variables):
            for start in range(0, times.size, step):
                part = slice(start, start + step)
                out[part, at] = self._fields(int(variable), times[part], rows, columns)
        return out.reshape([i.size for i in indices if i.ndim])

    def _fields(self, variable: int, times: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        name = self.sources[variable].name
        if self.target is None:
            return self._read(variable, times, rows, columns)
        whole = self._read(variable, times, np.arange(self.rows.size), np.arange(self.columns.size))
        fields = interpolate(whole, self.there, self.target, vector=VARIABLES[name].is_vector)
        return fields[:, rows][:, :, columns]

    def _read(self, variable: int, times: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(T, H, W) float32 SI of one variable, in the order of `there`."""
        source = self.sources[variable]
        pieces = {source.lat: self.rows[rows], source.lon: self.columns[columns]}
        if source.time:
            pieces[source.time] = times
        try:
            values = _gather(source, pieces)
        except UserError:
            raise
        except Exception as error:  # h5py, netCDF, GRIB and zarr each have their own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{self.where}: cannot read {source.name} ({reason}); the file is broken, copy it again"
            ) from error
        if not source.time:
            values = np.broadcast_to(values, (times.size, *values.shape[1:]))
        scale, offset = self.scales[variable]
        values = (values * scale + offset if (scale, offset) != (1, 0) else values).astype(np.float32)
        self._check(values, source.name, times, rows, columns)
        return values

    def _check(
        self, values: np.ndarray, name: str, times: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            if self.nan == "refuse":
                t, row, column = (int(i[0]) for i in np.nonzero(bad))
                when = np.datetime_as_string(self.times[times[t]], "m")
                raise UserError(
                    f"{self.where}: {name} has {bad.sum()} NaN or infinite of {bad.size} values, at {when}, "
                    f"lat {self.there.lat[rows[row]]:g}, lon {self.there.lon[columns[column]]:g}; fill them"
                )
            values = values[~bad]
        if values.size:
            check_range(values, name, f"{self.where} at {np.datetime_as_string(self.times[times[0]], 'm')}")


def _gather(source: Source, indices: dict[str, np.ndarray]) -> np.ndarray:
    """Values (time, lat, lon) at the indices along each dim, read as a few slices with a stride."""
    array = source.array.variable
    order = ([source.time] if source.time else []) + [source.lat, source.lon]
    parts: dict[str, list[tuple[slice, slice]]] = {dim: list(_runs(indices[dim])) for dim in order}
    picks = {}
    for dim, runs in parts.items():
        if len(runs) > 4:  # scattered: read what spans them, then pick
            low = int(indices[dim].min())
            span = int(indices[dim].max()) - low + 1
            parts[dim], picks[dim] = [(slice(low, low + span), slice(0, span))], indices[dim] - low
    shape = [max((stop.stop for _, stop in parts[dim]), default=0) for dim in order]
    out = np.empty(shape, array.dtype)
    for choice in np.ndindex(*(len(parts[dim]) for dim in order)):
        chosen = [parts[dim][i] for dim, i in zip(order, choice, strict=True)]
        read = array.isel({dim: there for dim, (there, _) in zip(order, chosen, strict=True)})
        flip = tuple(slice(None, None, -1) if here.step == -1 else slice(None) for _, here in chosen)
        here = tuple(slice(here.start, here.stop) for _, here in chosen)
        out[here] = read.transpose(*order).values[flip]
    for axis, dim in enumerate(order):
        if dim in picks:
            out = np.take(out, picks[dim], axis=axis)
    return out if source.time else out[None]


def _runs(indices: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Ascending slices of the file that make up `indices`, each with its place; step -1 there: reversed."""
    start = 0
    while start < indices.size:
        stop = start + 1
        if stop < indices.size:
            step = int(indices[stop] - indices[start])
            differs = np.flatnonzero(np.diff(indices[start:]) != step)
            stop = start + 1 + (int(differs[0]) if differs.size else indices.size - start - 1)
            if step == 0:
                stop, step = start + 1, 1
        else:
            step = 1
        first, last = int(indices[start]), int(indices[stop - 1])
        if step < 0:
            yield slice(last, first + 1, -step), slice(start, stop, -1)
        else:
            yield slice(first, last + 1, step), slice(start, stop, 1)
        start = stop
