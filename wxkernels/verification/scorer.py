"""Scores of a forecast by lead time, accumulated as the forecast runs, on the device where it lies."""

import logging
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wxkernels.errors import UserError
from wxkernels.io.axes import positions
from wxkernels.io.lexicon import VARIABLES
from wxkernels.verification.ensemble import SCORES, area_scores, rank_counts
from wxkernels.verification.weights import Convention, latitude_weights

_FORECAST, _PERSISTENCE, _CLIMATOLOGY = range(3)
log = logging.getLogger("wxkernels")

_AVERAGE = {
    "weatherbench2": "square root of the mean over initial times of the area-weighted mean square error",
    "fourcastnet": "mean over initial times of the square root of the area-weighted mean square error",
}
_MEANING = {
    "rmse": "error of the ensemble mean",
    "acc": "uncentred anomaly correlation of the ensemble mean about climatology; mean over initial times",
    "bias": "area-weighted mean of ensemble mean minus truth",
    "crps": "fair CRPS: mean|X - y| - mean|X - X'| / 2 over distinct pairs; one member: mean absolute error",
    "spread": "square root of the mean unbiased ensemble variance; undefined (NaN) for one member",
    "spread_skill": "square root of mean variance / mean (square error - variance / M); 1 is calibrated",
    "persistence_rmse": "error of the truth at the initial time, kept as the forecast",
    "persistence_acc": "anomaly correlation of the truth at the initial time, kept as the forecast",
    "persistence_mae": "mean absolute error of persistence, which is its CRPS",
    "climatology_rmse": "error of the climatology as the forecast (its ACC is undefined)",
    "climatology_mae": "mean absolute error of the climatology, which is its CRPS",
    "members": "fewest members scored; a member with values that are not finite is left out",
    "times": "number of initial times scored",
    "rank_histogram": "grid points whose truth has this rank among the members; ties at random; plain counts",
}
_UNITLESS = {"acc", "persistence_acc", "spread_skill", "members", "times", "rank_histogram"}


class Scorer:
    """Scores of an ensemble forecast by lead time and variable, with persistence and climatology beside them.

    truth: DataArray (time, variable, lat, lon), physical units, read one time at a time, so it may be lazy.
    init_time: the first initial time; `start` moves on to another. lead_times (L,) timedelta64: step i of
    `update` is lead_times[i]. variables: names in channel order; grid: anything with .lat and .lon in
    degrees, whose rows and columns the truth must contain; both default to the truth's own. channels: names
    in channel order where the forecast has more than `variables`. climatology: DataArray (variable, lat,
    lon), for ACC; a variable that is NaN everywhere has none. weights: "weatherbench2" or "fourcastnet": the
    area weights, and how RMSE is averaged over initial times.

    Errors are formed in float64 before any product: a large offset (geopotential) costs no digits. Memory
    is that of one lead time. Points where truth or climatology are not finite are left out; a valid time
    that the truth lacks, or that cannot be read (a warning says why), is scored NaN and listed in `missing`.
    Raises UserError on variables, rows or columns that are not there, on a truth without any of the times,
    and on a forecast of another shape. Sources: WeatherBench 2 (Rasp et al. 2024); Ferro 2014 (fair CRPS).
    """

    def __init__(
        self,
        truth: xr.DataArray,
        *,
        init_time: np.datetime64,
        lead_times: Sequence[np.timedelta64] | np.ndarray,
        variables: Sequence[str] | None = None,
        grid: Any = None,
        channels: Sequence[str] | None = None,
        climatology: xr.DataArray | None = None,
        weights: Convention = "weatherbench2",
    ) -> None:
        grid = truth if grid is None else grid
        names = truth["variable"].values if variables is None else variables
        self.variables = tuple(str(name) for name in names)
        self.lead_times = np.asarray(lead_times, dtype="timedelta64[ns]")
        self.weights = weights
        self.missing: set[np.datetime64] = set()
        self._channels = list(self.variables if channels is None else channels)
        self._lat = np.asarray(grid.lat, dtype=np.float64)
        self._lon = np.asarray(grid.lon, dtype=np.float64)
        self._row_weights = torch.from_numpy(latitude_weights(self._lat, weights))  # (H,)
        self._truth = aligned(truth, self.variables, self._lat, self._lon, "truth")
        self._index = self._truth.indexes["time"]
        if not self._index.is_unique:
            raise UserError("truth: a time occurs twice; drop the duplicates")
        if problem := self._uncovered(init_time):
            raise UserError(f"{problem}; give a truth of these times")
        self._climatology: list[Tensor | None] = [None] * len(self.variables)
        if climatology is not None:
            mean = aligned(climatology, self.variables, self._lat, self._lon, "climatology")
            self._climatology = [field if field.isfinite().any() else None for field in _tensor(mean)]
        #: Initial time and step of each `update`.
        self.scored: set[tuple[np.datetime64, int]] = set()
        self._sums: Tensor | None = None
        self.start(init_time)

    def start(self, init_time: np.datetime64) -> None:
        """Take the updates that follow as steps from this initial time; warns where the truth has none."""
        if problem := self._uncovered(init_time):
            log.warning("%s; it is not scored", problem)
        self.init_time = np.datetime64(init_time).astype("datetime64[ns]")
        self._initial = self._truth_at(self.init_time)

    def update(self, step: int, forecast: Tensor) -> None:
        """Score all members at one lead time: forecast (M, C, H, W) in physical units, on any device."""
        self._check(step, forecast)
        self.scored.add((self.init_time, step))
        truth = self._truth_at(self.init_time + self.lead_times[step])
        if truth is None:
            return
        device = forecast.device
        if self._sums is None:
            self._begin(len(forecast), device)
        self._times[step] += 1
        if forecast.dtype is not torch.float64:
            forecast = forecast.float()
        truth = truth.to(device)
        self._initial = None if self._initial is None else self._initial.to(device)
        self._climatology = [None if field is None else field.to(device) for field in self._climatology]
        for channel, name in enumerate(self.variables):
            self._score(step, channel, forecast[:, self._channels.index(name)], truth[channel])

    def result(self) -> xr.Dataset:
        """Scores so far: Dataset (lead_time, variable, rank), float64, NaN where nothing was scored.

        Attributes hold the conventions; coordinate `units` holds the units of each variable. Raises
        UserError when the truth covered no update.
        """
        missing = _times_text(self.missing)
        if self._sums is None:
            raise UserError(f"nothing was scored: no truth at {span(missing) or 'any time'}")
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self._sums.cpu().numpy() / self._times[:, None]  # (source, score, lead, variable)
            mse, rmse, bias, acc, crps, variance, debiased = means.swapaxes(0, 1)
            if self.weights == "weatherbench2":
                rmse = np.sqrt(mse)
            skill = np.where(debiased[_FORECAST] > 0, debiased[_FORECAST], np.nan)
            values = {
                "rmse": rmse[_FORECAST],
                "acc": acc[_FORECAST],
                "bias": bias[_FORECAST],
                "crps": crps[_FORECAST],
                "spread": np.sqrt(variance[_FORECAST]),
                "spread_skill": np.sqrt(variance[_FORECAST] / skill),
                "persistence_rmse": rmse[_PERSISTENCE],
                "persistence_acc": acc[_PERSISTENCE],
                "persistence_mae": crps[_PERSISTENCE],
                "climatology_rmse": rmse[_CLIMATOLOGY],
                "climatology_mae": crps[_CLIMATOLOGY],
                "members": np.where(self._times[:, None] > 0, self._members, 0),
                "times": self._times,
                "rank_histogram": self._ranks.cpu().numpy(),
            }
        dims = ("lead_time", "variable", "rank")
        names = [describe(name) for name in self.variables]
        coords = {
            "lead_time": self.lead_times,
            "variable": list(self.variables),
            "rank": np.arange(self._ranks.shape[-1]),
            "long_name": ("variable", [long_name for long_name, _ in names]),
            "units": ("variable", [units for _, units in names]),
        }
        attrs = {
            "area_weights": self.weights,
            "initial_times": _times_text(time for time, _ in self.scored),
            "ensemble_members": self._ranks.shape[-1] - 1,
            "missing_truth": missing,
        }
        data = {key: (dims[: value.ndim], value, self._attrs(key)) for key, value in values.items()}
        return xr.Dataset(data, coords, attrs)

    def _begin(self, members: int, device: torch.device) -> None:
        leads, variables = len(self.lead_times), len(self.variables)
        # (source, score, lead, variable)
        self._sums = torch.zeros(3, len(SCORES), leads, variables, dtype=torch.float64, device=device)
        # (lead, variable, rank)
        self._ranks = torch.zeros(leads, variables, members + 1, dtype=torch.int64, device=device)
        self._members = np.full((leads, variables), members)
        self._times = np.zeros(leads, dtype=np.int64)

    def _check(self, step: int, forecast: Tensor) -> None:
        shape = (len(self._channels), len(self._lat), len(self._lon))
        if not 0 <= step < len(self.lead_times):
            raise UserError(f"step {step}: the scorer was given {len(self.lead_times)} lead times")
        if forecast.ndim != 4 or tuple(forecast.shape[1:]) != shape or len(forecast) == 0:
            wanted = ", ".join(map(str, shape))
            raise UserError(f"forecast: expected shape (members, {wanted}), got {tuple(forecast.shape)}")
        if self._sums is not None and len(forecast) != self._ranks.shape[-1] - 1:
            before = self._ranks.shape[-1] - 1
            raise UserError(f"forecast: {len(forecast)} members after {before}; use another Scorer for them")
        if (self.init_time, step) in self.scored:
            raise UserError(f"step {step} from {_times_text([self.init_time])} has been scored before")

    def _score(self, step: int, channel: int, members: Tensor, truth: Tensor) -> None:
        assert self._sums is not None
        initial = None if self._initial is None else self._initial[channel]
        references = [initial, self._climatology[channel]]  # (H, W)
        points = truth.isfinite()
        for reference in references:
            points = points if reference is None else points & reference.isfinite()
        if not points.all():
            members, truth = members.where(points, 0), truth.where(points, 0)
            references = [None if r is None else r.where(points, 0) for r in references]
        live = members.isfinite().flatten(1).all(1)
        if not live.all():
            members = members[live]
        weights = self._row_weights.to(truth.device)[:, None] * points  # (H, W)
        weights /= weights.sum()
        climatology = references[1]
        anomaly = None if climatology is None else truth.double() - climatology.double()
        for source, field in enumerate((members, *references)):
            if field is None:
                self._sums[source, :, step, channel] = torch.nan
            else:
                field = field.reshape(-1, *truth.shape)  # one field is an ensemble of one
                self._sums[source, :, step, channel] += area_scores(field, truth, weights, anomaly)
        self._ranks[step, channel] += rank_counts(
            members, truth, points, self._ranks.shape[-1] - 1, lambda: self._draws(step, channel, truth)
        )
        self._members[step, channel] = min(self._members[step, channel], len(members))

    def _draws(self, step: int, channel: int, like: Tensor) -> Tensor:
        # Counter-based: the same for every device, order of updates and choice of variables.
        key = np.array([self.init_time, self.init_time + self.lead_times[step]]).astype(np.uint64)
        counter = [0, 0, 0, zlib.crc32(self.variables[channel].encode())]
        generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
        return torch.from_numpy(generator.random(tuple(like.shape))).to(like.device)

    def _uncovered(self, init_time: np.datetime64) -> str | None:
        """What is wrong where the truth has none of the valid times."""
        valid = np.datetime64(init_time).astype("datetime64[ns]") + self.lead_times
        if np.isin(valid, self._index.values).any():
            return None
        held, asked = span(_times_text(self._index.values)), span(_times_text(valid))
        return f"truth: it holds {held or 'no time'}, none of the forecast's {asked}"

    def _truth_at(self, time: np.datetime64) -> Tensor | None:
        if time in self.missing:
            return None
        position = int(self._index.get_indexer([time])[0])
        try:
            if position >= 0:
                return _tensor(self._truth.isel(time=position))  # (C, H, W)
        except (UserError, OSError) as error:
            log.warning("no scores by the truth at %s: %s", _times_text([time]), error)
        self.missing.add(time)
        return None

    def _attrs(self, name: str) -> dict[str, str]:
        meaning = _MEANING[name] + (f"; {_AVERAGE[self.weights]}" if name.endswith("rmse") else "")
        return {"long_name": meaning, "units": "1" if name in _UNITLESS else "units of the variable"}


def describe(variable: str) -> tuple[str, str]:
    """Long name and units of a variable; a name that the lexicon lacks stands for itself, without units."""
    known = VARIABLES.get(variable)
    return (variable, "") if known is None else (known.long_name, known.units)


def span(times: str) -> str:
    """A list of times as one phrase: the time, or how many, the first and the last."""
    each = times.split(", ")
    return times if len(each) == 1 else f"{len(each)} times, {each[0]} to {each[-1]}"


def aligned(
    fields: xr.DataArray, variables: Sequence[str], lat: np.ndarray, lon: np.ndarray, what: str
) -> xr.DataArray:
    """The fields (..., variable, lat, lon) of these variables, rows and columns, in this order; still lazy.

    Longitudes are compared on the circle. Raises UserError, beginning with what, for one that is not there.
    """
    have = [str(name) for name in fields["variable"].values]
    absent = [name for name in variables if name not in have]
    if absent:
        raise UserError(f"{what}: lacks {', '.join(absent)}; it holds {', '.join(have)}")
    found = []
    for name, asked, problem in (("lat", lat, "row at latitude"), ("lon", lon, "column at longitude")):
        at = positions(fields[name].values, asked)
        if (at < 0).any():
            raise UserError(
                f"{what}: no {problem} {asked[at < 0][0]:g}; regrid it to the grid of the forecast"
            )
        found.append(_indexer(at))
    channels = _indexer(np.array([have.index(name) for name in variables]))
    fields = fields.transpose(..., "variable", "lat", "lon")
    return fields.isel(variable=channels, lat=found[0], lon=found[1])


def _indexer(at: np.ndarray) -> Any:
    # A slice keeps a lazy or memory-mapped array a view.
    first, last = int(at[0]), int(at[-1]) + 1
    return slice(first, last) if np.array_equal(at, np.arange(first, last)) else at


def _tensor(fields: xr.DataArray) -> Tensor:
    dtype = np.float64 if fields.dtype == np.float64 else np.float32
    return torch.from_numpy(np.array(fields.values, dtype=dtype))


def _times_text(times: Iterable[np.datetime64]) -> str:
    return ", ".join(str(time.astype("datetime64[m]")) for time in sorted(set(times)))
