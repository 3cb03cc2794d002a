"""Area weights of latitude rows, by the name of the convention they follow."""

from typing import Literal

import numpy as np

from wxkernels.errors import UserError

Convention = Literal["weatherbench2", "fourcastnet"]


def latitude_weights(lat: np.ndarray, convention: Convention = "weatherbench2") -> np.ndarray:
    """Weight of each latitude row, mean 1.

    weatherbench2: w = sin(upper) - sin(lower), the area of the cell, bounded at the midpoints between rows.
    The first and last cell end at the pole where the pole is at most one row spacing away (every global
    grid), else half a spacing beyond the row (a regional grid). fourcastnet: w = cos(90 - 180 j / (n - 1))
    for row j of n, whatever the true latitudes are.

    lat (H,) degrees, rising or falling; returns (H,) float64. Raises UserError on an unknown convention,
    latitudes that do not rise or fall strictly within +-90, or a regional grid under the fourcastnet
    convention. Sources: google-research/weatherbench2 metrics.py; NVlabs/FourCastNet
    utils/weighted_acc_rmse.py.
    """
    lat = np.asarray(lat, dtype=np.float64)
    steps = np.diff(lat)
    if lat.ndim != 1 or lat.size == 0 or not np.all(np.abs(lat) <= 90 + 1e-6):
        raise UserError(f"lat: expected a list of degrees between -90 and 90, got shape {lat.shape}")
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise UserError("lat: rows must rise or fall strictly; sort the grid by latitude")
    if convention == "weatherbench2":
        weights = _cell_area(lat, steps)
    elif convention == "fourcastnet":
        rows = lat.size
        if rows < 2 or abs(lat[-1] - lat[0]) + 2 * abs(steps).max() < 180:
            raise UserError(
                "weights 'fourcastnet' are for whole globes; use 'weatherbench2' for a regional grid"
            )
        weights = np.cos(np.deg2rad(90 - 180 * np.arange(rows) / (rows - 1)))
    else:
        raise UserError(f"weights: expected 'weatherbench2' or 'fourcastnet', got {convention!r}")
    return weights / weights.mean()


def _cell_area(lat: np.ndarray, steps: np.ndarray) -> np.ndarray:
    if lat.size == 1:
        return np.ones(1)
    bounds = np.empty(lat.size + 1)
    bounds[1:-1] = (lat[:-1] + lat[1:]) / 2
    bounds[0] = _outer_bound(lat[0], -steps[0])
    bounds[-1] = _outer_bound(lat[-1], steps[-1])
    return np.abs(np.diff(np.sin(np.deg2rad(bounds))))


def _outer_bound(edge: float, outward: float) -> float:
    pole = np.copysign(90.0, outward)
    # 1e-3: latitudes stored as float32 leave a spacing that is off by some 1e-6 of itself
    return pole if abs(pole - edge) <= abs(outward) * (1 + 1e-3) else edge + outward / 2
