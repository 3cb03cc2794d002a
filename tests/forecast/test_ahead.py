"""The runner where the host is ahead of the device: what happens when, and which steps are replayed.

That the results are the same is for the tests marked `either_way`.
"""

import pytest
import torch
import xarray as xr
from torch import nn

from tests.forecast import tiny
from tests.forecast.test_run import forecast
from wxkernels.errors import UserError
from wxkernels.forecast import Gaussian, beside
from wxkernels.forecast.compare import compare


class Log(tiny.Chaos):
    def __init__(self, events):
        super().__init__()
        self.events = events

    def forward(self, x):
        self.events.append("step")
        return super().forward(x)

    def update(self, step, forecast):
        self.events.append(f"scores of {step}")


def test_a_step_is_scored_while_the_next_one_runs(ahead):
    log = Log([])
    forecast(tiny.model(log), scorer=log, steps=3, members=2, batch_size=2, capture=False)
    assert log.events == ["step", "scores of 0", "step", "scores of 1", "step", "scores of 2", "scores of 3"]


def test_each_number_of_members_is_captured_once_also_when_some_have_stopped(ahead):
    options = {"steps": 12, "members": 7, "perturbation": tiny.sizes, "batch_size": 3}
    assert forecast(tiny.model(tiny.Growing()), **options).stopped
    assert [len(tape.inputs[0]) for tape in ahead] == [3, 1]


def test_without_capture_steps_are_called(ahead):
    forecast(capture=False)
    assert not ahead


def test_an_error_of_the_scores_is_no_reason_for_smaller_batches(ahead):
    class Large:
        def update(self, step, forecast):
            raise torch.OutOfMemoryError

    with pytest.raises(UserError, match=r"step 0: no memory for its scores.*smaller batch"):
        forecast(scorer=Large(), batch_size=2)


def test_a_comparison_is_the_same(ahead, monkeypatch):
    class Other(nn.Module):
        def forward(self, x):
            return (0.99 * x).clamp(-1, 1)

    first = tiny.initial()
    starts = xr.concat([first, 0.9 * first.assign_coords(time=tiny.TIME + tiny.HOUR)], "time")

    def found():
        models = {"one": tiny.model(), "other": tiny.model(Other())}
        return compare(models, starts, steps=3, members=3, perturbation=Gaussian(0.01))

    lagging = found()
    assert ahead
    monkeypatch.undo()
    assert not beside.runs_ahead(torch.device("cpu"))
    xr.testing.assert_identical(lagging, found())
