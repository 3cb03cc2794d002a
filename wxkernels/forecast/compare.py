"""One forecast in several precisions, side by side: the same states, members and noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import xarray as xr

from wxkernels.errors import UserError
from wxkernels.forecast.case import Case
from wxkernels.forecast.ensemble import Ensemble, normalised
from wxkernels.forecast.perturbations import Perturbation
from wxkernels.forecast.progress import progress_bar, stop_requests
from wxkernels.forecast.run import Run
from wxkernels.models import WeatherModel
from wxkernels.verification import Scorer
from wxkernels.verification.comparison import SCORES, Twins, compared
from wxkernels.verification.weights import Convention


def initial_times(case: Case, count: int, steps: int) -> np.ndarray:
    """`count` initial times, spread evenly over those from the case's own on that have truth at every lead.

    One is the case's own, whatever the truth. UserError: there are fewer.
    """
    assert case.states is not None
    if count == 1:
        return np.array([case.initial_time])
    times = case.states["time"].values
    times = times[times >= case.initial_time]
    if case.truth is not None:
        leads = np.arange(1, steps + 1) * case.model.time_step.astype("timedelta64[ns]")
        times = times[np.isin(times[:, None] + leads, case.truth["time"].values).all(1)]
    if len(times) < count:
        begin = np.datetime_as_string(case.initial_time, "m")
        raise UserError(
            f"--starts: {count} initial times, but {len(times)} from {begin} on have"
            f" truth for {steps} steps; give fewer, or fewer --steps"
        )
    return evenly(times, count)


def calibration_times(case: Case, starts: np.ndarray, steps: int, count: int) -> np.ndarray:
    """At most `count` times of the case's file, spread evenly over those that no forecast begins at or is
    scored at; where every time is scored, of the initial ones."""
    assert case.states is not None
    times = case.states["time"].values
    ends = starts + steps * case.model.time_step.astype("timedelta64[ns]")
    scored = ((times[:, None] >= starts) & (times[:, None] <= ends)).any(1)
    free = times[~scored] if not scored.all() else starts
    return evenly(free, count)


def evenly(times: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `times`, spread evenly, from the first on."""
    return times[np.linspace(0, len(times) - 1, min(count, len(times))).round().astype(int)]


def compare(
    models: Mapping[str, WeatherModel],
    initial: xr.DataArray,
    *,
    steps: int,
    members: int = 1,
    perturbation: Perturbation | None = None,
    control: bool = False,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    truth: xr.DataArray | None = None,
    climatology: xr.DataArray | None = None,
    weights: Convention = "weatherbench2",
    progress: bool = True,
) -> xr.Dataset:
    """Forecast with each model from the same members, and compare with the first (`verification.compared`).

    models: the same model in several precisions, by name, all in memory at once with their members. initial:
    (time, variable, lat, lon), physical: the initial times, one after the other. truth (time, variable, lat,
    lon), of some or all variables: without it there are no scores. Members, noise and the other arguments are
    those of `run`; UserError too.
    """
    model = next(iter(models.values()))
    leads = (np.arange(steps + 1) * model.time_step).astype("timedelta64[ns]")
    names = model.output_variables
    times = initial["time"].values
    scorers = {}
    if truth is not None:
        scorers = {
            name: Scorer(
                truth,
                init_time=times[0],
                lead_times=leads,
                variables=[str(v) for v in truth["variable"].values if v in names],
                channels=names,
                grid=model.grid,
                climatology=climatology,
                weights=weights,
            )
            for name in models
        }
    twins = {name: Twins(leads, names, model.grid.lat, weights) for name in models}
    total = steps * members * len(models) * len(times)
    done = 0
    with torch.inference_mode(), stop_requests() as stop, progress_bar(0, total, shown=progress) as bar:
        for start, time in enumerate(times):
            begun = [Ensemble(model, range(members)) for model in models.values()]
            reference = begun[0]
            reference.begin(normalised(model, initial.isel(time=start)), perturbation, control, seed)
            for ensemble in begun[1:]:
                ensemble.states.copy_(reference.states)
            for scorer in scorers.values():
                scorer.start(time)
            runs = {
                name: Run(ensemble, steps, batch_size, None, scorers.get(name), None, stop.is_set)
                for name, ensemble in zip(models, begun, strict=True)
            }
            for step in range(steps + 1):
                for name, work in runs.items():
                    before = done - int(work.ensemble.at.sum())
                    with _errors_of(name):
                        work.step(step, lambda made, _, before=before: bar(before + made, total))  # type: ignore[misc]
                    done = before + int(work.ensemble.at.sum())
                    twins[name].update(step, work.ensemble.output, reference.output)
            for name, work in runs.items():
                with _errors_of(name):
                    work.finish()
    found = {name: twin.result() for name, twin in twins.items()}
    for name, scorer in scorers.items():
        found[name] = found[name].merge(
            scorer.result()[list(SCORES)].reindex(variable=found[name]["variable"])
        )
    dataset = compared(found)
    dataset.attrs = {
        "area_weights": weights,
        "initial_times": ", ".join(np.datetime_as_string(times, "m")),
        "ensemble_members": members,
    }
    return dataset


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Errors of a run begin with the name of its model."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
