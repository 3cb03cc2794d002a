"""A model in a lower precision, calibrated on states in physical units."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from wxkernels.errors import UserError
from wxkernels.forecast.ensemble import normalised

if TYPE_CHECKING:
    from wxkernels.models import WeatherModel
    from wxkernels.quantization import Scheme


def calibrate(
    model: WeatherModel, states: xr.DataArray, precision: str, *, name: str, **options: Any
) -> Scheme:
    """Quantise `model` in place on states (time, variable, lat, lon) of the data `name`, physical units.

    options: overrides and budget of WeatherModel.quantize. UserError: it cannot be done.
    """
    values = np.stack([normalised(model, states.isel(time=[i])).values for i in range(states.sizes["time"])])
    provenance = {
        "data": name,
        "sha256": hashlib.sha256(np.ascontiguousarray(values).data).hexdigest(),  # of the normalised states
        "times": [np.datetime_as_string(t, "m") for t in states["time"].values],
        "states": len(values),
        "checkpoint": model.source,
        "checkpoint_sha256": model.sha256,
    }
    try:
        return model.quantize(torch.from_numpy(values), precision, provenance=provenance, **options)
    except ValueError as error:
        raise UserError(f"{model.source}: cannot be quantised: {error}") from None
