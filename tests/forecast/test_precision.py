"""Runs of a quantised model: any batch, and on after an interruption, in the same precision only."""

import os
import signal

import numpy as np
import pytest
import torch

from tests.forecast import tiny
from wxkernels.errors import UserError
from wxkernels.forecast import Gaussian, Interrupted, run
from wxkernels.models import AFNONet, WeatherModel

pytestmark = pytest.mark.usefixtures("either_way")


def model(precision):
    torch.manual_seed(0)
    network = AFNONet((8, 16), (2, 2), 3, 3, embed_dim=16, depth=2, num_blocks=4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mean, std = torch.zeros(3), torch.ones(3)
    found = WeatherModel(network, tiny.VARIABLES, tiny.GRID, mean, std, time_step=tiny.HOUR)
    if precision != "fp32":
        found.quantize(torch.randn(2, 3, 8, 16), precision, budget=1.0)
    return found


def forecast(model, **options):
    options = {"steps": 6, "members": 4, "perturbation": Gaussian(0.01), "progress": False} | options
    return run(model, tiny.initial(), **options)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_batch_size_changes_no_bit(precision):
    alone = forecast(model(precision), batch_size=1).final.values
    assert np.isfinite(alone).all()
    for batch_size in (2, 3, "auto"):
        assert np.array_equal(forecast(model(precision), batch_size=batch_size).final.values, alone)


def test_an_interrupted_run_goes_on_in_its_precision_only(tmp_path):
    path, calls = tmp_path / "a.zarr", []

    def options(**more):
        return {"writer": tiny.writer(path, steps=6, members=4, **more), "batch_size": 2}

    made = model("int8")

    def interrupt(module, args):
        calls.append(module)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)

    handle = made.network.register_forward_pre_hook(interrupt)
    with pytest.raises(Interrupted):
        forecast(made, **options())
    handle.remove()
    for other in ("fp32", "bf16"):
        with pytest.raises(UserError, match=f"precision is int8 .scheme .*, now {other}"):
            forecast(model(other), **options(resume=True), resume=True)
    again = forecast(made, **options(resume=True), resume=True)
    assert 0 < again.member_steps < 24
    assert 0 < again.model_seconds <= again.seconds
    assert np.array_equal(again.final.values, forecast(model("int8")).final.values)
