"""A model of a few hundred points whose members never forget a bit, for tests of the runner."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from wxkernels.io.grid import Grid
from wxkernels.models import WeatherModel

GRID = Grid.regular(8, 16, poles=False)
VARIABLES = ("h", "u", "v")
TIME = np.datetime64("2020-01-01T00", "ns")
HOUR = np.timedelta64(1, "h")


class Chaos(nn.Module):
    """Coupled logistic maps: a difference of one bit is everywhere after some tens of steps."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(-1, 1)
        x = 0.5 * x + 0.25 * (x.roll(1, -1) + x.roll(1, -2))
        return 1 - 1.9 * x * x.roll(1, -3)


class Growing(nn.Module):
    """Ten times the state: each member becomes infinite at a step of its own, from `sizes`."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x


def sizes(generator: np.random.Generator, state: xr.DataArray) -> np.ndarray:
    """Noise: one number for all points of a member, up to 1e36; of the variable h alone."""
    noise = np.zeros(state.shape)
    noise[0] = 10 ** generator.uniform(20, 36)
    return noise


class Alike(WeatherModel):
    """A model whose operations are elementwise, so that a batch changes nothing."""

    batch_invariant = True


def model(
    network: nn.Module | None = None, cls: type[WeatherModel] = Alike, grid: Grid = GRID
) -> WeatherModel:
    mean, std = torch.tensor([8000.0, 3.0, -1.0]), torch.tensor([500.0, 12.0, 9.0])
    return cls(network or Chaos(), VARIABLES, grid, mean, std, time_step=HOUR)


def initial(grid: Grid = GRID) -> xr.DataArray:
    values = np.random.default_rng(0).uniform(-0.9, 0.9, (3, *grid.shape))
    values = np.array([8000, 3, -1])[:, None, None] + np.array([500, 12, 9])[:, None, None] * values
    coords = {"variable": list(VARIABLES), "lat": grid.lat, "lon": grid.lon, "time": TIME}
    return xr.DataArray(values.astype(np.float32), coords, ("variable", "lat", "lon"))


def writer(path, *, steps: int, members: int, grid: Grid = GRID, variables=VARIABLES, **options):
    from wxkernels.io import ForecastWriter

    return ForecastWriter(
        path,
        grid=grid,
        variables=variables,
        time=TIME,
        lead_times=np.arange(steps + 1) * HOUR,
        members=members,
        attrs={"seed": 1},
        **options,
    )
