"""The runner: one analysis becomes an ensemble forecast, step by step."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wxkernels.errors import UserError
from wxkernels.forecast.batching import fitting, free_memory, peak_memory
from wxkernels.forecast.beside import Beside, Stopwatch, to_host
from wxkernels.forecast.ensemble import Ensemble, Stopped, log, normalised
from wxkernels.forecast.perturbations import Perturbation, named
from wxkernels.forecast.progress import progress_bar, stop_requests
from wxkernels.forecast.restart import RestartFile, refuse_other
from wxkernels.io import open_forecast

if TYPE_CHECKING:
    from wxkernels.io import ForecastWriter
    from wxkernels.models import WeatherModel


class Scores(Protocol):
    """Takes each lead: forecast (M, C, H, W), physical, NaN where stopped, valid during the call.

    C counts `WeatherModel.output_variables`.
    """

    def update(self, step: int, forecast: Tensor) -> None: ...


class Interrupted(KeyboardInterrupt):
    """The run was ended by Ctrl-C or a termination signal, after its batch; the message says how to go on.

    step: the one in progress. restart: the file to resume from, None where the run keeps none.
    """

    def __init__(self, step: int, steps: int, restart: Path | None) -> None:
        hint = (
            "nothing was kept to resume from" if restart is None else f"resume from {restart} with --resume"
        )
        super().__init__(f"interrupted in step {step} of {steps}: {hint}")
        self.step, self.restart = step, restart


@dataclass(frozen=True)
class Result:
    """A finished run.

    final: the last lead, (ensemble, variable, lat, lon) float32, physical, diagnosed variables too; NaN where
    the store was complete before and does not hold it whole. live (M,) bool; `stopped` says why not. path:
    the store, if any. member_steps: made by this call, in `seconds`, of which `model_seconds` in the model.
    """

    final: xr.DataArray
    live: np.ndarray
    stopped: list[Stopped]
    path: Path | None
    member_steps: int
    seconds: float
    model_seconds: float

    @property
    def speed(self) -> float:
        """Member-steps a second."""
        return self.member_steps / self.seconds


def run(
    model: WeatherModel,
    initial: xr.DataArray,
    *,
    steps: int,
    members: int | range = 1,
    perturbation: Perturbation | None = None,
    control: bool = False,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device | None = None,
    writer: ForecastWriter | None = None,
    scorer: Scores | None = None,
    restart: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    capture: bool = True,
) -> Result:
    """Forecast `steps` steps from `initial`, all members of a step before the next step.

    x_0 = normalise(initial) + noise(seed, member), x_k = model.step(x_(k-1)); output x_k std + mean.
    A member's bits depend neither on batch_size nor on the other members nor on interruptions. A member whose
    state becomes NaN or infinite is stopped and reported, its later output is NaN, the others go on.

    initial: (variable, lat, lon), physical, at one time. members: a count, or a range of member numbers.
    perturbation: Gaussian, Spherical or f(generator, state) -> noise; `control` leaves member 0 unperturbed
    (not the default: fair scores and rank histograms want members that are alike). batch_size: members at
    once, "auto" by memory; always 1 for a network whose results depend on the batch.
    writer: takes every step, and is closed here. restart: the restart file, by default beside the writer's
    store; it takes up to 5 % of the time and is removed at the end. resume: go on from it, or begin where
    there is none. Where the store that the writer resumes is complete, nothing is run: the scorer gets it.
    capture: on a GPU the model's step is replayed from CUDA graphs (`wxkernels.capture`). There writer and
    scorer get a batch while the next one runs, and a stop is told then.
    UserError: bad arguments or initial state, no memory, restart file or complete store of another run, all
    members stopped.
    Interrupted: on a signal, once the batch, the store and the restart file are written.
    """
    began = time.monotonic()
    complete = False
    identity: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    try:
        numbers = range(members) if isinstance(members, int) else members
        _check(steps, numbers, seed, batch_size)
        if device is not None:
            model = model.to(device)
        state = normalised(model, initial)
        ensemble = Ensemble(model, numbers, capture)
        file = _restart_file(restart, writer)
        if file is not None:
            networks = (model.network, *model.diagnostics.values())
            identity = {
                "precision": _precision(model),
                "model": model.sha256 or _digest(*(t for n in networks for t in n.state_dict().values())),
                "initial state": _digest(torch.from_numpy(state.values)),
                "seed": seed,
                "members": f"{numbers.start} to {numbers.stop - 1}",
                "perturbation": named(perturbation, control),
                "steps": steps,
            }
            file.identity |= identity
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
            stop_requests() as stop,
        ):
            work = Run(ensemble, steps, batch_size, writer, scorer, file, stop.is_set)
            if writer is not None and writer.finished is not None:
                first: int | None = work.recall(writer.finished.get("run", {}), identity)
            else:
                first = work.restore() if resume else None
            if first is None:
                if file is not None:
                    file.remove()
                ensemble.begin(state, perturbation, control, seed)
            made_before = int(ensemble.at.sum())
            with progress_bar(made_before, steps * len(numbers), shown=progress) as bar:
                for step in range(first or 0, steps + 1):
                    work.step(step, bar)
                work.finish()
        notes = {"run": {**identity, "stopped": [asdict(s) for s in ensemble.stopped]}}
        complete = True
    finally:
        if writer is not None:
            writer.close(complete, notes)
    if file is not None:  # only now: a kill before this line leaves what it takes to go on
        file.remove()
    coords = {name: state.coords[name].values for name in ("lat", "lon")}
    coords |= {"ensemble": list(numbers), "variable": list(model.output_variables)}
    return Result(
        final=xr.DataArray(ensemble.output.cpu().numpy(), coords, ("ensemble", *state.dims), "forecast"),
        live=ensemble.live.numpy(),
        stopped=ensemble.stopped,
        path=None if writer is None else writer.path,
        member_steps=int(ensemble.at.sum()) - made_before,
        seconds=time.monotonic() - began,
        model_seconds=work.clock.seconds,
    )


class Run:
    """One run: the ensemble, where it goes to, and how many members are taken at once."""

    def __init__(
        self,
        ensemble: Ensemble,
        steps: int,
        batch_size: int | Literal["auto"],
        writer: ForecastWriter | None,
        scorer: Scores | None,
        file: RestartFile | None,
        stop: Callable[[], bool],
    ) -> None:
        self.ensemble, self.steps, self.writer, self.scorer = ensemble, steps, writer, scorer
        self.file, self.stop = file, stop
        device = ensemble.states.device
        self.beside, self.clock = Beside(device), Stopwatch(device)
        self.batch = 1 if batch_size == "auto" else batch_size
        self.sized = batch_size != "auto"
        if not ensemble.model.batch_invariant:
            if self.batch > 1:
                log.warning(
                    "batch_size: members run one at a time, results of this network depend on the batch"
                )
            self.batch, self.sized = 1, True

    def step(self, step: int, bar: Callable[[int, int], None]) -> None:
        """Bring every member to `step` and hand the step over: on a GPU the last batch at the next step."""
        ensemble, start = self.ensemble, 0
        while start < len(ensemble.numbers):
            part = slice(start, min(start + self.batch, len(ensemble.numbers)))
            if not self.advance(part, step):
                continue
            self.beside.put(partial(self.hand_over, part, step))
            start = part.stop
            bar(int(ensemble.at.sum()), int(ensemble.at.where(~ensemble.live, self.steps).sum()))
            self.keep(step)

    def finish(self) -> None:
        """Hand over what is left."""
        self.beside.run()

    def hand_over(self, part: slice, step: int) -> None:
        """Give `part` at `step` to the writer, and after the last part the step to writer and scorer."""
        ensemble, writer = self.ensemble, self.writer
        ensemble.look(step, part.stop)
        if writer is not None and not writer.statistics_only:
            rows = to_host(ensemble.output[part].split(1))
            for member, fields in zip(ensemble.numbers[part], rows, strict=True):
                writer.put(step, slice(member, member + 1), fields.numpy())
        if part.stop < len(ensemble.numbers):
            return
        if not ensemble.live.any():
            if self.file is not None:
                self.file.remove()
            raise UserError(
                f"all members have stopped, the last: {ensemble.stopped[-1]}; check the initial state"
            )
        try:
            if writer is not None and writer.statistics_only:
                writer.statistics(step, *ensemble.statistics())
            if self.scorer is not None:
                self.scorer.update(step, ensemble.output)
        except torch.OutOfMemoryError:
            raise UserError(
                f"step {step}: no memory for its scores or statistics on {ensemble.states.device}; "
                "give a smaller batch size"
            ) from None

    def advance(self, part: slice, step: int) -> bool:
        """Bring `part` and its output to `step`; False where memory ran out: the batch was made smaller."""
        device = self.ensemble.states.device
        if not self.sized:
            self.beside.run()  # what is measured is the model alone
        try:
            if self.sized:
                self._make(part, step)
                return True
            with peak_memory(device) as peak:
                made = self._make(part, step)
            if made:
                self.batch = fitting(peak.value, free_memory(device), len(self.ensemble.numbers), device)
                self.sized = True
            return True
        except torch.OutOfMemoryError:
            if self.batch == 1:
                raise UserError(f"one member does not fit into the memory of {device}") from None
            self.batch //= 2
            log.warning("batch_size: out of memory on %s, going on with %d", device, self.batch)
            return False

    def _make(self, part: slice, step: int) -> int:
        """States and output of `part` at `step`; returns how many members were taken there."""
        with self.clock.running():
            made = self.ensemble.advance(part, step)
        self.beside.run()  # reads the output of the part before
        self.ensemble.produce(part)
        return made

    def keep(self, step: int) -> None:
        """Write the restart file where it is time to, and end the run where that was asked for."""
        ensemble, asked = self.ensemble, self.stop()
        due = self.file is not None and step > 0 and self.file.due(4 * ensemble.states.numel())
        if asked or due:
            self.beside.run()
        if self.file is not None and (asked or due):
            tensors = {"states": ensemble.states, "at": ensemble.at, "live": ensemble.live}
            notes = {"step": step, "stopped": [asdict(s) for s in ensemble.stopped]}
            self.file.save(tensors, notes, (lambda: None) if self.writer is None else self.writer.flush)
        if asked:
            raise Interrupted(step, self.steps, None if self.file is None else self.file.path)

    def restore(self) -> int | None:
        """The step in which the restart file goes on; None where there is none."""
        if self.file is None:
            raise UserError("resume: this run keeps no restart file; give a writer, or the path `restart`")
        found = self.file.load()
        if found is None:
            log.warning("no restart file %s: beginning at step 0", self.file.path)
            return None
        tensors, notes = found
        for name in ("states", "at", "live"):
            getattr(self.ensemble, name).copy_(tensors[name])
        self.ensemble.alive.copy_(self.ensemble.live)
        self.ensemble.stopped += _stopped(notes)
        if self.scorer is not None:
            self.replay(notes["step"])
        return notes["step"]

    def recall(self, notes: dict[str, Any], identity: dict[str, Any]) -> int:
        """Take a finished run from its store instead of making it; returns the step after its last."""
        assert self.writer is not None
        refuse_other(f"{self.writer.path} is the forecast", notes, identity)
        log.warning("%s is complete: nothing is run again", self.writer.path)
        ensemble = self.ensemble
        ensemble.at.fill_(self.steps)
        ensemble.stopped += _stopped(notes)
        for stop in ensemble.stopped:
            ensemble.live[ensemble.numbers.index(stop.member)] = False
        ensemble.output.fill_(torch.nan)
        self.replay(self.steps + 1)
        return self.steps + 1

    def replay(self, steps: int) -> None:
        """Give the scorer the first `steps` steps, which an earlier run left in the store."""
        ensemble = self.ensemble
        leads = np.arange(steps) * ensemble.model.time_step.astype("timedelta64[ns]")
        stored = self.stored(leads)
        if stored is None:
            if self.scorer is not None:
                log.warning("no scores before step %d: the store does not hold all of every step", steps)
            return
        for step, lead in enumerate(leads):
            if self.scorer is not None or step == self.steps:
                ensemble.output.copy_(torch.from_numpy(stored.sel(lead_time=lead).values))
            if self.scorer is not None:
                self.scorer.update(step, ensemble.output)

    def stored(self, leads: np.ndarray) -> xr.DataArray | None:
        """(lead_time, ensemble, variable, lat, lon) of the store; None where it lacks a part of `leads`."""
        if self.writer is None:
            return None
        stored, model = open_forecast(self.writer.path, allow_partial=True), self.ensemble.model
        names, held = list(model.output_variables), stored["variable"].values
        if (
            "ensemble" not in stored.dims
            or not np.isin(names, held).all()
            or not np.isin(leads, stored["lead_time"]).all()
            or not np.array_equal(stored["lat"], model.grid.lat)
            or not np.array_equal(stored["lon"], model.grid.lon)
        ):
            return None
        stored = stored.isel(time=0, ensemble=list(self.ensemble.numbers)).sel(variable=names)
        return stored.transpose("lead_time", ...)


def _stopped(notes: dict[str, Any]) -> list[Stopped]:
    return [Stopped(s["member"], s["step"], tuple(s["variables"])) for s in notes["stopped"]]


def _check(steps: int, numbers: range, seed: int, batch_size: int | str) -> None:
    if steps < 1:
        raise UserError(f"steps: expected 1 or more, got {steps}")
    if len(numbers) < 1 or numbers.step != 1 or numbers.start < 0:
        raise UserError(f"members: expected 1 or more in a row, got {numbers}")
    if not 0 <= seed < 2**64:
        raise UserError(f"seed: expected 0 to 2^64 - 1, got {seed}")
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise UserError(f"batch_size: expected 'auto', or 1 or more, got {batch_size!r}")


def _restart_file(path: str | Path | None, writer: ForecastWriter | None) -> RestartFile | None:
    if writer is None:
        return None if path is None else RestartFile(Path(path), {})
    path = writer.path.with_name(writer.path.name + ".restart") if path is None else Path(path)
    # A store made anew is another folder, without the steps that came before this restart file.
    return RestartFile(path, {"store (inode)": writer.path.stat().st_ino})


def _precision(model: WeatherModel) -> str:
    scheme = model.scheme
    return model.precision if scheme is None else f"{model.precision} (scheme {scheme.digest()})"


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()
