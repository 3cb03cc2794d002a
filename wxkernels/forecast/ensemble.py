"""The states of all members in buffers that stay where they are from the first step to the last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wxkernels.errors import UserError
from wxkernels.forecast.batching import MARGIN, free_memory
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
    at (M,) int64: the step of each member. live (M,) bool: false, and the state NaN, from the step on where
    it was not finite. UserError: the two buffers do not fit into memory.
    """

    def __init__(self, model: WeatherModel, numbers: Sequence[int]) -> None:
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
        self.stopped: list[Stopped] = []
        self._mean, self._std = (s.float().view(-1, 1, 1) for s in (model.mean, model.std))

    def begin(self, state: xr.DataArray, perturbation: Perturbation | None, control: bool, seed: int) -> None:
        """Set all members to `state` (variable, lat, lon), normalised, plus noise; `control`: but for 0."""
        values = torch.from_numpy(state.values)
        for row, member in enumerate(self.numbers):
            self.states[row] = values
            if perturbation is not None and not (control and member == 0):
                noise = member_noise(perturbation, seed, member, state)
                self.states[row] += torch.from_numpy(noise).to(self.states.device)

    def advance(self, part: slice, step: int) -> int:
        """Take the live members of `part` that are not there yet to `step`; returns how many were taken."""
        due = self.live[part] & (self.at[part] < step)
        rows: Any = part if due.all() else part.start + due.nonzero()[:, 0]
        made = int(due.sum())
        if made:
            self.states[rows] = self.model.step(self.states[rows])
            self.at[rows] = step
            self._stop_broken(part, step)
        return made

    def _stop_broken(self, part: slice, step: int) -> None:
        # The extremes keep NaN. At (1, 20, 720, 1440) on two cores 22 ms; aminmax takes 70, isfinite 185.
        extremes = self.states[part].amax((2, 3)), self.states[part].amin((2, 3))  # (m, C) each
        broken = ~(extremes[0].isfinite() & extremes[1].isfinite()).cpu()
        for index in broken.any(1).nonzero()[:, 0].tolist():
            row = part.start + index
            if self.live[row]:
                names = tuple(self.model.variables[c] for c in broken[index].nonzero()[:, 0].tolist())
                self.stopped.append(Stopped(self.numbers[row], step, names))
                log.warning("%s", self.stopped[-1])
                self.live[row] = False
                self.states[row] = torch.nan

    def produce(self, part: slice) -> Tensor:
        """output = state * std + mean, and what the state tells more, for the members of `part`.

        A view (m, C', H, W) of the buffer; NaN for members that are stopped.
        """
        output, states, live = self.output[part], self.states[part], self.live[part]
        C = states.shape[1]
        # Two rounded operations: whether a fused one is used could depend on the number of members.
        torch.mul(states, self._std, out=output[:, :C]).add_(self._mean)
        if self.model.diagnostics:
            output[:, C:] = torch.nan
            if live.any():
                rows: Any = slice(None) if live.all() else live
                for channel, values in enumerate(self.model.diagnose(states[rows]).values(), C):
                    output[rows, channel] = values.float()
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
        return mean.cpu().numpy(), square.sqrt_().cpu().numpy()


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
