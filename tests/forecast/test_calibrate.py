"""A model calibrated on states in physical units: as on normalised ones, and what it says of them."""

import numpy as np
import pytest
import torch
import xarray as xr

from tests.forecast import tiny
from tests.forecast.test_precision import model
from wxkernels.errors import UserError
from wxkernels.forecast.calibrate import calibrate


def states(count=2):
    times = tiny.TIME + np.arange(count) * tiny.HOUR
    values = [tiny.initial().drop_vars("time") * (1 + 0.1 * i) for i in range(count)]
    return xr.concat(values, xr.DataArray(times, dims="time", name="time"))


def physical():
    made = model("fp32")
    made.mean, made.std = torch.tensor([8000.0, 3.0, -1.0]), torch.tensor([500.0, 12.0, 9.0])
    return made


def test_it_normalises_and_says_what_it_saw():
    made, same = physical(), physical()
    scheme = calibrate(made, states(), "int8", name="a year", budget=1.0)
    normal = torch.stack([same.normalise(torch.from_numpy(s.values)[None])[0] for s in states()]).float()
    assert same.quantize(normal, "int8", budget=1.0).layers == scheme.layers
    assert scheme.calibration["data"] == "a year"
    assert scheme.calibration["times"] == ["2020-01-01T00:00", "2020-01-01T01:00"]
    other = calibrate(physical(), states() + 1, "int8", name="a year", budget=1.0)
    assert other.calibration["sha256"] != scheme.calibration["sha256"]


def test_what_cannot_be_done_gets_one_line():
    with pytest.raises(UserError, match=r"^.* cannot be quantised: ") as caught:
        calibrate(tiny.model(), states(), "int8", name="a year")
    assert "\n" not in str(caught.value)
