"""Simulates the shallow-water atmosphere: training, validation and the held-out cases that the package ships.

    python make_data.py --out build/shallow_water            # the shipped data
    python make_data.py --out build/shallow_water --quick    # seconds, to try the path

Writes train.npy and validation.npy (simulation, time, variable, lat, lon; float32; 6 h apart), climatology.nc
(the time mean of train.npy) and cases.nc (windows of one further simulation, packed to int16).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from atmosphere import VARIABLES, Atmosphere, regular_latitude

SPIN_UP = 40  # days; the energy of the waves levels off after 20
SEEDS = {"train": 1, "validation": 2, "cases": 3}
CASES = 4  # windows of the held-out simulation, 31 days apart
CASE_STATES = 29  # 7 days
PACKING = {
    "h": (0.5, 5000.0),
    "u": (0.02, 0.0),
    "v": (0.02, 0.0),
}  # scale, offset: rounding far below any score
ATTRS = {
    "h": {"long_name": "layer depth", "units": "m"},
    "u": {"long_name": "eastward wind", "standard_name": "eastward_wind", "units": "m s-1"},
    "v": {"long_name": "northward wind", "standard_name": "northward_wind", "units": "m s-1"},
}


def simulate(atmosphere: Atmosphere, batch: int, days: float, seed: int, spin_up: float) -> np.ndarray:
    """6-hourly fields after the spin-up: (batch, time, 3, lat, lon) float32."""
    skip = round(spin_up * 4)
    states = atmosphere.run(atmosphere.start(batch, seed), spin_up + days)
    fields = [atmosphere.fields(state).float() for step, state in enumerate(states) if step >= skip]
    return torch.stack(fields, 1).numpy()


def dataset(fields: np.ndarray, times: np.ndarray | None, title: str) -> xr.Dataset:
    """CF dataset of fields ([time,] 3, lat, lon)."""
    n_lat, n_lon = fields.shape[-2:]
    coords = {
        "lat": (
            "lat",
            regular_latitude(n_lat).numpy(),
            {"units": "degrees_north", "standard_name": "latitude"},
        ),
        "lon": (
            "lon",
            np.arange(n_lon) * 360.0 / n_lon,
            {"units": "degrees_east", "standard_name": "longitude"},
        ),
    }
    dims: tuple[str, ...] = ("lat", "lon")
    if times is not None:
        coords["time"] = ("time", times, {"standard_name": "time"})
        dims = ("time", *dims)
    data = {name: (dims, fields[..., c, :, :], ATTRS[name]) for c, name in enumerate(VARIABLES)}
    return xr.Dataset(data, coords, {"Conventions": "CF-1.8", "title": title})


def cases(simulation: np.ndarray, windows: int, states: int) -> xr.Dataset:
    """Equal windows of one simulation (time, 3, lat, lon), starting on 2001-01-01; there are no seasons."""
    starts = np.arange(windows) * ((len(simulation) - states) // (windows - 1))
    steps = np.concatenate([np.arange(start, start + states) for start in starts])
    times = np.datetime64("2001-01-01T00", "ns") + steps * np.timedelta64(6, "h")
    title = "held-out simulation of a rotating shallow-water atmosphere (wxkernels, training/shallow_water)"
    return dataset(simulation[steps], times, title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/shallow_water"))
    parser.add_argument("--simulations", type=int, default=24)
    parser.add_argument("--days", type=float, default=150)
    parser.add_argument("--quick", action="store_true", help="a few days of two simulations")
    args = parser.parse_args()
    spin_up, days, batch, case_days = SPIN_UP, args.days, args.simulations, 31 * (CASES - 1) + CASE_STATES / 4
    windows, states = CASES, CASE_STATES
    if args.quick:
        spin_up, days, batch, case_days, windows, states = 3, 2, 2, 2, 2, 4
    args.out.mkdir(parents=True, exist_ok=True)
    atmosphere = Atmosphere()
    with torch.inference_mode():
        for name, n, length in (("train", batch, days), ("validation", 4, days / 3), ("cases", 1, case_days)):
            began = time.perf_counter()
            fields = simulate(atmosphere, n, length, SEEDS[name], spin_up)
            print(f"{name}: {fields.shape} in {time.perf_counter() - began:.0f} s", flush=True)
            if name == "cases":
                packed = {
                    "dtype": "int16",
                    "_FillValue": -32768,
                    "zlib": True,
                    "complevel": 9,
                    "shuffle": True,
                }
                packing = {v: packed | {"scale_factor": a, "add_offset": b} for v, (a, b) in PACKING.items()}
                cases(fields[0], windows, states).to_netcdf(
                    args.out / "cases.nc", engine="h5netcdf", encoding=packing
                )
                continue
            np.save(args.out / f"{name}.npy", fields)
            if name == "train":
                mean = fields.mean((0, 1), dtype=np.float64).astype(np.float32)
                dataset(mean, None, f"time mean of {n} simulations of {length:g} days").to_netcdf(
                    args.out / "climatology.nc", engine="h5netcdf"
                )


if __name__ == "__main__":
    main()
