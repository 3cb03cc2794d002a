"""Resuming a run that was complete: nothing is run again."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.forecast import tiny
from tests.forecast.test_run import After, Collector, forecast
from wxkernels.errors import UserError
from wxkernels.forecast import Gaussian
from wxkernels.io import Output, open_forecast
from wxkernels.models import WeatherModel


class Never(nn.Module):
    def forward(self, x):
        raise AssertionError("a complete run was run again")


def finished(path, network=None, **options):
    """The result of a run into `path`."""
    return forecast(
        tiny.model(network), batch_size=8, writer=tiny.writer(path, steps=30, members=5, **options)
    )


def again(path, output=None, **options):
    """The result of resuming it with a network that must not be called."""
    model, store = tiny.model(Never()), tiny.writer(path, steps=30, members=5, resume=True, output=output)
    return forecast(**{"model": model, "writer": store, "resume": True} | options)


def files(path):
    return {p: p.read_bytes() for p in sorted(path.parent.rglob("*")) if p.is_file()}


def test_it_is_scored_from_the_store(tmp_path, caplog):
    path, seen, whole = tmp_path / "f.zarr", Collector(), Collector()
    first = finished(path)
    (tmp_path / "f.zarr.restart").write_bytes(b"a kill came between the store's mark and its removal")
    result = again(path, scorer=seen)
    assert caplog.messages == [f"{path} is complete: nothing is run again"]
    forecast(scorer=whole)
    assert seen.steps.keys() == whole.steps.keys()
    assert all(torch.equal(seen.steps[step], whole.steps[step]) for step in whole.steps)
    assert np.array_equal(result.final.values, first.final.values)
    assert result.member_steps == 0
    assert result.path == path
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]


def test_it_stays_byte_for_byte(tmp_path):
    finished(tmp_path / "f.zarr")
    before = files(tmp_path / "f.zarr")
    again(tmp_path / "f.zarr", resume=False)
    assert files(tmp_path / "f.zarr") == before
    assert open_forecast(tmp_path / "f.zarr").attrs["run"]["members"] == "0 to 4"


def test_its_stopped_members_are_known(tmp_path):
    def break_second(x):
        x[1, 2] = torch.inf
        return x

    first = finished(tmp_path / "f.zarr", After(3, break_second))
    result = again(tmp_path / "f.zarr")
    assert [str(s) for s in result.stopped] == ["member 1 stopped at step 3: v not finite"]
    assert result.live.tolist() == [True, False, True, True, True]
    assert np.array_equal(result.final.values, first.final.values, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, "is the forecast of another run: its seed is 0, now 3"),
        ({"perturbation": Gaussian(0.02)}, "its perturbation is Gaussian"),
        ({"control": True}, "member 0 unperturbed"),
        ({"members": 3}, "its members is 0 to 4, now 0 to 2"),
        ({"model": tiny.model(nn.Conv2d(3, 3, 1), WeatherModel)}, "its model is"),
    ],
)
def test_another_run_is_refused(tmp_path, change, message):
    path = tmp_path / "f.zarr"
    finished(path)
    before = files(path)
    with pytest.raises(UserError, match=message):
        again(path, **change)
    assert files(path) == before


@pytest.mark.parametrize(
    "output",
    [
        Output(statistics_only=True),
        Output(variables=["h"]),
        Output(lead_times=[30 * tiny.HOUR]),
        Output(region=(90, -180, -90, 180)),  # every point, but not in the order of the grid
    ],
)
def test_a_part_is_not_taken_for_the_whole(tmp_path, caplog, output):
    path, seen = tmp_path / "f.zarr", Collector()
    finished(path, output=output)
    result = again(path, output, scorer=seen)
    assert "no scores before step 31: the store does not hold all of every step" in caplog.messages
    assert seen.steps == {}
    assert result.member_steps == 0
    assert np.isnan(result.final.values).all()


def test_variables_in_another_order_are_put_in_place(tmp_path):
    path, output, seen = tmp_path / "f.zarr", Output(variables=["v", "h", "u"]), Collector()
    first = finished(path, output=output)
    result = again(path, output, scorer=seen)
    assert np.array_equal(result.final.values, first.final.values)
    assert len(seen.steps) == 31
