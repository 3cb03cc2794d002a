"""A small AFNO that learns the 2 m temperature over the British Isles, and its skill in each precision.

python training/british_isles.py ../shared/data/era5-2mt-2019-03-uk.grib: trains a step of 6 hours on days 1
to 24 of March 2019 (ERA5, hourly) in ten seconds of one core, forecasts days 25 to 31 in each precision.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from wxkernels.forecast import Gaussian
from wxkernels.forecast.calibrate import calibrate
from wxkernels.forecast.compare import compare
from wxkernels.io import open_fields
from wxkernels.io.grid import Grid
from wxkernels.models import WeatherModel
from wxkernels.models.afno import AFNONet
from wxkernels.verification import plot_comparison, print_comparison

# The time of day goes through the network as two constant fields, which it learns to turn.
VARIABLES = ("t2m", "clock_sine", "clock_cosine")
SHAPE, PATCH = (32, 48), (4, 4)  # of 33 x 49 points
STEP, TRAINING, BETWEEN = 6, 24 * 24, 12  # hours: of a step, to learn from, from forecast to forecast
STEPS, MEMBERS, LEVEL = 6, 8, 0.2


def fields(path: Path) -> xr.DataArray:
    """(time, variable, lat, lon): t2m in K, hourly, and the clock."""
    t2m = open_fields(path, ["t2m"])[:, :, : SHAPE[0], : SHAPE[1]].load()
    angle = 2 * np.pi * (t2m["time"].dt.hour / 24)
    clock = [f(angle).astype(np.float32).broadcast_like(t2m[:, 0]) for f in (np.sin, np.cos)]
    values = np.stack([t2m.values[:, 0], *(c.transpose("time", "lat", "lon").values for c in clock)], 1)
    coords = {name: t2m[name].values for name in ("time", "lat", "lon")} | {"variable": list(VARIABLES)}
    return xr.DataArray(values, coords, t2m.dims, attrs=t2m.attrs)


def train(states: xr.DataArray, updates: int = 250, seed: int = 0) -> WeatherModel:
    """The model after `updates` of eight random pairs of the hourly `states`."""
    past = torch.from_numpy(states.values[:TRAINING])
    mean, std = past.mean((0, 2, 3)), past.std((0, 2, 3))
    x = (past - mean[:, None, None]) / std[:, None, None]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = AFNONet(SHAPE, PATCH, 3, 3, embed_dim=64, depth=2, num_blocks=4)
        optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=updates)
        for _ in range(updates):
            t = torch.randint(0, len(x) - STEP, (8,))
            loss: Tensor = (network(x[t]) - x[t + STEP]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    grid = Grid(states["lat"].values, states["lon"].values)
    return WeatherModel(network.eval(), VARIABLES, grid, mean, std, time_step=np.timedelta64(STEP, "h"))


def skill(
    model: WeatherModel, states: xr.DataArray, precisions: tuple[str, ...] = ("fp32", "bf16", "int8")
) -> xr.Dataset:
    """Scores of t2m on days 25 to 31 in each precision; calibrated on four of the states of training."""
    models = {name: copy.deepcopy(model) for name in precisions}
    calibration = states[np.linspace(0, TRAINING - 1, 4).round().astype(int)]
    for name, converted in models.items():
        if name != "fp32":
            calibrate(converted, calibration, name, name="days 1 to 24")
    t2m = states.sel(variable=["t2m"])
    return compare(
        models,
        states[TRAINING : len(states) - STEPS * STEP : BETWEEN],
        steps=STEPS,
        members=MEMBERS,
        perturbation=Gaussian({"t2m": LEVEL, "clock_sine": 0.0, "clock_cosine": 0.0}),
        truth=t2m,
        climatology=t2m[:TRAINING].mean("time"),
        progress=False,
    ).sel(variable=["t2m"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grib", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    states = fields(args.grib)
    dataset = skill(train(states), states)
    print_comparison(dataset)
    if args.plot:
        plot_comparison(dataset, args.plot)


if __name__ == "__main__":
    main()
