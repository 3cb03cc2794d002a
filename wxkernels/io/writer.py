"""The forecast writer: fields go to the store in the background while the next step is computed."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wxkernels.errors import UserError
from wxkernels.io import store
from wxkernels.io.files import named_errors
from wxkernels.io.grid import Grid

_MAY_DIFFER = (
    "command",
    "created",
    "complete",
    "run",
    "scheme",  # its errors, in the last digits; the restart file knows its choices
    "Conventions",
    "coordinates",
)  # between a run and its resumption
_QUEUE = 4  # blocks that wait at most: 83 MB each for a member of FourCastNet


@dataclass(frozen=True)
class Output:
    """What is kept of a forecast; None keeps all.

    `lead_times`: timedelta64, step 0 is the initial state. `region`: degrees (north, west, south, east); it
    crosses the date line where west > east. `statistics_only`: mean and standard deviation in the place of
    the members.
    """

    variables: Sequence[str] | None = None
    lead_times: Sequence[np.timedelta64] | None = None
    region: tuple[float, float, float, float] | None = None
    statistics_only: bool = False


class ForecastWriter:
    """Writes one run to a zarr store by a background thread with a bounded queue.

    Dims (ensemble | statistic, time, lead_time, variable, lat, lon), float32; NaN where nothing is written
    yet. `time`: initial time; `lead_times` (steps + 1,) timedelta64 from 0; `members`: count; `attrs`:
    provenance, JSON values. `resume` goes on with a store of the same run, or begins one; where that store is
    complete, `finished` holds its attributes. `overwrite` replaces a store of any other run. UserError: the
    store exists, is of another run, or cannot be written; an unknown or repeated variable or lead time;
    an empty region.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        grid: Grid,
        variables: Sequence[str],
        time: np.datetime64,
        lead_times: Sequence[np.timedelta64] | np.ndarray,
        members: int,
        attrs: Mapping[str, Any],
        output: Output | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        output = output or Output()
        self.path = Path(path)
        self.finished: dict[str, Any] | None = None
        self._error: BaseException | None = None
        self.statistics_only = output.statistics_only
        self._shape = (len(variables), *grid.shape)
        lead_times = np.asarray(lead_times).astype("timedelta64[ns]")

        names = list(variables if output.variables is None else output.variables)
        self._variables = _positions(names, list(variables), "variable", str)
        asked = lead_times if output.lead_times is None else output.lead_times
        leads = np.asarray(asked).astype("timedelta64[ns]")
        steps = _positions(leads.tolist(), lead_times.tolist(), "lead time", lambda ns: f"{ns / 3.6e12:g} h")
        self._positions = {step: position for position, step in enumerate(steps)}
        self._rows, self._columns, kept = _region(grid, output.region)

        rows: list[Any] = ["mean", "std"] if output.statistics_only else list(range(members))
        coords = store.coordinates(rows, time, leads, names, kept)
        self._count = len(rows)
        provenance: dict[str, Any] = json.loads(json.dumps(dict(attrs), default=_plain))
        with named_errors("write", self.path):
            resumed = self._take_existing(coords, provenance, resume, overwrite)
            store.sweep(self.path)
            if not resumed:
                store.create(self.path, coords, provenance)
            self._array = store.array(self.path)
        self._queue: queue.Queue[tuple[int, np.ndarray, np.ndarray] | None] = queue.Queue(maxsize=_QUEUE)
        self._thread = threading.Thread(target=self._work, name="wxkernels-writer", daemon=True)
        self._thread.start()

    def _take_existing(
        self, coords: Mapping[str, Any], attrs: dict[str, Any], resume: bool, overwrite: bool
    ) -> bool:
        """Whether the store at the path is the one to go on with; UserError where it is in the way."""
        if not self.path.exists():
            return False
        there = store.attributes(self.path)
        if there is None:
            raise UserError(f"{self.path} exists and is not a forecast store; choose another path")
        if resume:
            difference = _difference(self.path, coords, there, attrs)
            if difference:
                raise UserError(
                    f"{self.path} is of another run ({difference}); give its own arguments to --resume it"
                )
            self.finished = there if there["complete"] else None
            return True
        if overwrite:
            return False
        if there["complete"]:
            raise UserError(
                f"{self.path} holds a forecast; choose another path, or replace it with --overwrite"
            )
        raise UserError(f"{self.path} holds an unfinished forecast; go on with --resume, or use --overwrite")

    def put(self, step: int, members: slice | Sequence[int], fields: np.ndarray) -> None:
        """Queue `fields` (m, C, H, W), physical, of `members` at `step`; copies, so the buffer stays yours.

        UserError: an earlier write failed.
        """
        if self.statistics_only:
            raise ValueError("this writer keeps statistics only: call statistics(step, mean, std)")
        self._enqueue(step, np.arange(self._count)[members], fields)

    def statistics(self, step: int, mean: np.ndarray, std: np.ndarray) -> None:
        """Queue the ensemble's `mean` and `std` (C, H, W), physical, at `step`. UserError: as `put`."""
        if not self.statistics_only:
            raise ValueError("this writer keeps members: call put(step, members, fields)")
        self._enqueue(step, np.arange(2), np.stack([np.asarray(mean), np.asarray(std)]))

    def _enqueue(self, step: int, rows: np.ndarray, fields: np.ndarray) -> None:
        self._raise()
        fields = np.asarray(fields)
        if fields.shape != (len(rows), *self._shape):
            raise ValueError(f"fields: expected shape {(len(rows), *self._shape)}, got {fields.shape}")
        position = self._positions.get(step)
        if position is None:
            return
        for row, field in zip(
            rows, fields, strict=True
        ):  # one chunk an item: the queue bounds memory for any batch
            block = field[:, self._rows, self._columns][
                self._variables
            ]  # (C', H', W'), a copy by the last index
            self._queue.put((position, row, block.astype(np.float32, copy=False)))

    def flush(self) -> None:
        """Wait until everything queued is in the store. UserError: a write failed."""
        self._queue.join()
        self._raise()

    def close(self, complete: bool, notes: Mapping[str, Any] | None = None) -> None:
        """Write what is queued, end the thread; `complete` marks the store as whole and adds `notes`.

        notes: attributes, JSON values. UserError: as `put`.
        """
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._raise()
        if complete:
            with named_errors("write", self.path):
                store.finish(self.path, notes or {})

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:  # after a failure: drain, so that no one waits for ever
                    with named_errors("write", self.path):
                        position, row, block = item
                        self._array[row, 0, position] = block
            except Exception as error:
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.number) else str(value)


def _positions(asked: Sequence[Any], there: Sequence[Any], kind: str, text: Any) -> np.ndarray:
    missing = [value for value in asked if value not in there]
    if missing:
        known = ", ".join(text(value) for value in there[:8]) + (", ..." if len(there) > 8 else "")
        raise UserError(f"output: the forecast has no {kind} {text(missing[0])}; it has {known}")
    twice = [value for at, value in enumerate(asked) if value in asked[:at]]
    if twice:
        raise UserError(f"output: {kind} {text(twice[0])} is given twice; give each once")
    return np.array([there.index(value) for value in asked], dtype=np.intp)


def _region(
    grid: Grid, region: tuple[float, float, float, float] | None
) -> tuple[slice, slice | np.ndarray, Grid]:
    """Rows, columns and grid of a box; columns in the order from west to east."""
    if region is None:
        return slice(None), slice(None), grid
    north, west, south, east = region
    rows = np.flatnonzero((grid.lat <= north + 1e-6) & (grid.lat >= south - 1e-6))
    width = 360.0 if abs(east - west) >= 360 else (east - west) % 360
    offset = (grid.lon - west + 1e-6) % 360
    columns = np.flatnonzero(offset <= width + 2e-6)
    columns = columns[np.argsort(offset[columns])]
    if not rows.size or not columns.size:
        raise UserError(
            f"region {north:g}/{west:g}/{south:g}/{east:g} (north/west/south/east) holds no point of {grid}"
        )
    lon = grid.lon[columns] % 360
    lon = lon[0] + (lon - lon[0]) % 360  # goes on past 360 where the box crosses Greenwich
    return slice(rows[0], rows[-1] + 1), columns, Grid(grid.lat[rows], lon)


def _difference(
    path: Path, coords: Mapping[str, Any], there: dict[str, Any], attrs: dict[str, Any]
) -> str | None:
    """What tells the store's run from the one asked for, None where they are the same."""
    stored = store.open_forecast(path, allow_partial=True)
    if list(stored.dims) != list(coords)[:6]:
        return f"dims {', '.join(map(str, stored.dims))} there"
    for name in stored.dims:
        values = np.asarray(coords[str(name)][1])
        if stored[name].shape != values.shape or not np.array_equal(stored[name].values, values):
            return f"its {name} differs"
    for key in sorted({*there, *attrs} - {*_MAY_DIFFER}):
        if there.get(key) != attrs.get(key):
            return f"{key} is {there.get(key)!r} there and {attrs.get(key)!r} here"
    return None
