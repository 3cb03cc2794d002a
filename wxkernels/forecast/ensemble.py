"""The states of all members in buffers that stay where they are from the first step to the last."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wxkernels.capture import Captured
from wxkernels.errors import UserError
from wxkernels.forecast.batching import MARGIN, free_memory
from wxkernels.forecast.beside import runs_ahead, to_device, to_host
from wxkernels.forecast.perturbations import Perturbation, member_noise
from wxkernels.io.grid import Grid

if TYPE_CHECKING:
    from wxkernels.models import WeatherModel

log = logging.getLogger("wxkernels")


@dataclass(frozen=True)
class Stopped:
    """A member whose `variables` were NaN or infinite at `step`; its output is NaN from there on."""

    member: int
    step: int
    variables: tuple[str, ...]

    def __str__(self) -> str:
        return f"member {self.member} stopped at step {self.step}: {', '.join(self.variables)} not finite"


class Ensemble:
    """The members of one forecast on the model's device.

    states (M, C, H, W), normalised, and output (M, C', H, W), physical, C' with the diagnosed variables, both
    float32, stay where they are made.
    at (M,) int64: the step of each member. alive (M,) bool, on the device: false from the step on where the
    state was not finite, and with it the output NaN; live (M,) bool is what the host knows of it, by `look`.
    capture: on a GPU the model is replayed from CUDA graphs. UserError: the buffers do not fit into memory.
    """

    def __init__(self, model: WeatherModel, numbers: Sequence[int], capture: bool = True) -> None:
        self.model, self.numbers = model, numbers
        device = model.device
        M, C, C_out = len(numbers), len(model.variables), len(model.output_variables)
        size, free = 4 * M * (C + C_out) * int(np.prod(model.grid.shape)), free_memory(device)
        if free is not None and size > MARGIN * free:
            raise UserError(
                f"members: {M} need {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on {device}; "
                "give fewer members"
            )
        self.states = torch.empty((M, C, *model.grid.shape), device=device)
        self.output = torch.empty((M, C_out, *model.grid.shape), device=device)
        self.at = torch.zeros(len(numbers), dtype=torch.int64)
        self.live = torch.ones(len(numbers), dtype=torch.bool)
        self.alive = self.live.to(device, copy=True)
        self.stopped: list[Stopped] = []
        self._news: deque[tuple[int, slice, Tensor]] = deque()  # step, part, (m, C): what is not finite
        self._mean, self._std = (s.float().view(-1, 1, 1) for s in (model.mean, model.std))
        calls: tuple[Callable[[Tensor], Tensor], ...] = model.step, partial(_diagnosed, model)
        if capture:
            calls = tuple(Captured(call, model.parts).lend for call in calls)
        self._step, self._diagnose = calls

    def begin(self, state: xr.DataArray, perturbation: Perturbation | None, control: bool, seed: int) -> None:
        """Set all members to `state` (variable, lat, lon), normalised, plus noise; `control`: but for 0."""
        device = self.states.device
        self.states.copy_(to_device(state.values, device))
        for row, member in enumerate(self.numbers):
            if perturbation is not None and not (control and member == 0):
                self.states[row] += to_device(member_noise(perturbation, seed, member, state), device)

    def advance(self, part: slice, step: int) -> int:
        """Take the live members of `part` that are not there yet to `step`; returns how many were taken."""
        behind = self.at[part] < step
        due = behind & self.live[part]
        made = int(due.sum())
        if made:
            # Where the host lags, members that are not alive go along: a graph is of one number of members.
            whole = (behind if runs_ahead(self.states.device) else due).all()
            rows: Any = part if whole else part.start + due.nonzero()[:, 0]
            self.states[rows] = self._step(self.states[rows])
            self.at[part] = self.at[part].where(~due, step)
            self._watch(part, step)
        return made

    def _watch(self, part: slice, step: int) -> None:
        # The extremes keep NaN. At (1, 20, 720, 1440) on two cores 22 ms; aminmax takes 70, isfinite 185.
        extremes = self.states[part].amax((2, 3)), self.states[part].amin((2, 3))  # (m, C) each
        broken = ~(extremes[0].isfinite() & extremes[1].isfinite())
        self.alive[part] &= ~broken.any(1)
        self._news.append((step, part, broken))

    def look(self, step: int, stop: int) -> None:
        """Take note of the members before row `stop` that were not finite up to `step`, and say so."""
        while self._news and (self._news[0][0], self._news[0][1].stop) <= (step, stop):
            at, part, found = self._news.popleft()
            broken = next(to_host([found]))
            for index in broken.any(1).nonzero()[:, 0].tolist():
                row = part.start + index
                if self.live[row]:
                    names = tuple(self.model.variables[c] for c in broken[index].nonzero()[:, 0].tolist())
                    self.stopped.append(Stopped(self.numbers[row], at, names))
                    log.warning("%s", self.stopped[-1])
                    self.live[row] = False
                    self.at[row] = at

    def produce(self, part: slice) -> Tensor:
        """output = state * std + mean, and what the state tells more, for the members of `part`.

        A view (m, C', H, W) of the buffer; NaN for members that are not alive.
        """
        output, states, live = self.output[part], self.states[part], self.live[part]
        alive = self.alive[part, None, None, None]
        C = states.shape[1]
        # Two rounded operations: whether a fused one is used could depend on the number of members.
        torch.mul(states, self._std, out=output[:, :C]).add_(self._mean.where(alive, torch.nan))
        if self.model.diagnostics:
            rows: Any = slice(None) if runs_ahead(states.device) or live.all() else live
            output[:, C:] = torch.nan
            if live.any():
                output[rows, C:] = self._diagnose(states[rows]).where(alive[rows], torch.nan)
        return output

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (n - 1; 0 for n = 1) of the output over live members, (C, H, W)."""
        rows = self.live.nonzero()[:, 0].tolist()
        mean, square = torch.zeros_like(self.output[0]), torch.zeros_like(self.output[0])
        for row in rows:
            mean += self.output[row]
        mean /= len(rows)
        for row in rows:
            square += (self.output[row] - mean).square_()
        square /= max(len(rows) - 1, 1)
        found = to_host([mean, square.sqrt_()])
        return next(found).numpy(), next(found).numpy()


def _diagnosed(model: WeatherModel, x: Tensor) -> Tensor:
    """What the model diagnoses of the states x (m, C, H, W), (m, D, H, W) float32."""
    return torch.stack([values.float() for values in model.diagnose(x).values()], dim=1)


def normalised(model: WeatherModel, initial: xr.DataArray) -> xr.DataArray:
    """The initial state, checked and normalised: (variable, lat, lon) float32 in the order of the model.

    UserError: several times, missing variables, another grid, values that are not finite.
    """
    for dim in ("variable", "lat", "lon"):
        if dim not in initial.dims or dim not in initial.coords:
            raise UserError(
                f"initial: expected coordinates variable, lat, lon; got {', '.join(map(str, initial.dims))}"
            )
    for extra in set(initial.dims) - {"variable", "lat", "lon"}:
        if initial.sizes[extra] != 1:
            raise UserError(
                f"initial: expected one state, got {initial.sizes[extra]} along {extra}; "
                f"take one with .isel({extra}=0)"
            )
        initial = initial.isel({extra: 0})
    names = [str(name) for name in initial["variable"].values]
    missing = [name for name in model.variables if name not in names]
    if missing:
        raise UserError(
            f"initial: the model needs {', '.join(missing)} too; the data has {', '.join(names)}: "
            "add what is missing"
        )
    try:
        grid = Grid(initial["lat"].values, initial["lon"].values)
    except ValueError as error:
        raise UserError(f"initial: {error}") from None
    if grid != model.grid:
        raise UserError(f"initial: its grid is {grid}, the model's is {model.grid}; regrid it (--regrid)")
    state = initial.sel(variable=list(model.variables)).transpose("variable", "lat", "lon")
    state = state.astype(np.float32).compute()
    broken = ~np.isfinite(state.values)
    if broken.any():
        channel, row, column = np.argwhere(broken)[0]
        raise UserError(
            f"initial: {broken.sum()} values are not finite, first {model.variables[channel]} at "
            f"lat {grid.lat[row]:g}, lon {grid.lon[column]:g}; fill them before the forecast"
        )
    device = model.device
    values = model.normalise(torch.from_numpy(np.ascontiguousarray(state.values)).to(device)[None])[0]
    return state.copy(data=values.float().cpu().numpy())
