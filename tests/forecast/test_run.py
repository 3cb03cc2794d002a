"""The runner: members, batches, stops and errors."""

import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.forecast import tiny
from wxkernels.errors import UserError
from wxkernels.forecast import Gaussian, Interrupted, Spherical, run
from wxkernels.forecast.perturbations import member_noise
from wxkernels.io import Output, open_forecast
from wxkernels.models import WeatherModel

pytestmark = pytest.mark.usefixtures("either_way")


class Collector:
    """A scorer that keeps what it is given."""

    def __init__(self):
        self.steps = {}

    def update(self, step, forecast):
        assert step not in self.steps
        self.steps[step] = forecast.clone()


class After(nn.Module):
    """Chaos, with something done to the state once it has been called a number of times."""

    def __init__(self, calls, action):
        super().__init__()
        self.calls, self.action, self.chaos = calls, action, tiny.Chaos()

    def forward(self, x):
        self.calls -= 1
        x = self.chaos(x)
        if self.calls == 0:
            x = self.action(x)
        return x


def forecast(model=None, **options):
    options = {"steps": 30, "members": 5, "perturbation": Gaussian(0.01), "progress": False} | options
    return run(model or tiny.model(), tiny.initial(), **options)


def test_steps_are_the_models(tmp_path):
    model, seen = tiny.model(), Collector()
    result = forecast(
        model,
        members=1,
        perturbation=None,
        scorer=seen,
        writer=tiny.writer(tmp_path / "f.zarr", steps=30, members=1),
    )
    x = model.normalise(torch.from_numpy(tiny.initial().values)[None])
    stored = open_forecast(tmp_path / "f.zarr")
    for step in range(31):
        expected = model.denormalise(x)
        assert torch.equal(seen.steps[step], expected)
        assert np.array_equal(stored.values[:, 0, step], expected.numpy())
        x = model.step(x)
    assert np.array_equal(result.final.values, expected.numpy())
    assert result.final.dims == ("ensemble", "variable", "lat", "lon")
    assert result.member_steps == 30
    assert result.path == tmp_path / "f.zarr"


@pytest.mark.parametrize("batch_size", [2, 3, 8, "auto"])
def test_batch_size_changes_no_bit(batch_size):
    alone = forecast(batch_size=1).final.values
    assert np.array_equal(forecast(batch_size=batch_size).final.values, alone)
    assert np.unique(alone[:, 0, 0, 0]).size == 5


def test_a_range_makes_those_members():
    whole = forecast().final
    part = forecast(members=range(2, 4)).final
    assert part["ensemble"].values.tolist() == [2, 3]
    assert np.array_equal(part.values, whole.sel(ensemble=[2, 3]).values)


def test_seed_and_control():
    unperturbed = forecast(members=1, perturbation=None).final.values[0]
    control = forecast(control=True).final.values
    assert np.array_equal(control[0], unperturbed)
    assert np.array_equal(control[1:], forecast().final.values[1:])
    assert not np.array_equal(forecast().final.values[0], unperturbed)
    assert not np.array_equal(forecast(seed=1).final.values, forecast(seed=0).final.values)


def test_a_network_that_depends_on_its_batch_takes_one_member_at_a_time(caplog):
    class Mixing(nn.Module):
        def forward(self, x):
            return 0.5 * x + 0.1 * x.mean(0)

    with caplog.at_level(logging.WARNING):
        result = forecast(tiny.model(Mixing(), WeatherModel), batch_size=4)
    assert "one at a time" in caplog.text
    assert np.array_equal(
        result.final.values, forecast(tiny.model(Mixing(), WeatherModel), batch_size=1).final.values
    )


def test_a_broken_member_is_stopped_and_the_others_go_on(tmp_path, caplog):
    def break_second(x):
        x[1, 2, 3, 4] = torch.inf
        return x

    # With 5 members in batches of 2 a step takes 3 calls: call 8 is members 2 and 3 in step 3.
    store = tiny.writer(tmp_path / "f.zarr", steps=30, members=5)
    with caplog.at_level(logging.WARNING):
        result = forecast(tiny.model(After(8, break_second)), batch_size=2, writer=store)
    assert [str(s) for s in result.stopped] == ["member 3 stopped at step 3: v not finite"]
    told = [message for message in caplog.messages if not message.startswith("no CUDA graph")]
    assert told == ["member 3 stopped at step 3: v not finite"]
    assert result.live.tolist() == [True, True, True, False, True]
    stored, whole = open_forecast(tmp_path / "f.zarr").isel(time=0).values, forecast().final.values
    assert np.isfinite(stored[3, :3]).all()
    assert np.isnan(stored[3, 3:]).all()
    others = [0, 1, 2, 4]
    assert np.array_equal(stored[others, 30], whole[others])


def test_members_stop_each_at_its_own_step(tmp_path):
    noise = {m: member_noise(tiny.sizes, 0, m, tiny.initial())[0, 0, 0] for m in range(7)}
    # 1e38 is finite, 3.5e38 is not: how often ten times is finite.
    expected = {m: int(np.log10(3.4028e38 / size)) + 1 for m, size in noise.items()}
    seen, steps = Collector(), 12
    result = forecast(
        tiny.model(tiny.Growing()),
        steps=steps,
        members=7,
        perturbation=tiny.sizes,
        batch_size=3,
        scorer=seen,
        writer=tiny.writer(tmp_path / "f.zarr", steps=steps, members=7),
    )
    stops = {m: step for m, step in expected.items() if step <= steps}
    assert 1 < len(set(stops.values())) < len(noise)
    assert {s.member: s.step for s in result.stopped} == stops
    assert [s.step for s in result.stopped] == sorted(stops.values())
    assert {s.variables for s in result.stopped} == {("h",)}
    assert result.live.tolist() == [m not in stops for m in range(7)]
    assert result.member_steps == sum(min(step, steps) for step in expected.values())
    stored = open_forecast(tmp_path / "f.zarr").values[:, 0]
    for step, forecast_ in seen.steps.items():
        dead = [m for m, stop in stops.items() if stop <= step]
        assert np.array_equal(stored[:, step], forecast_.numpy(), equal_nan=True)
        assert np.isnan(stored[dead, step]).all()
        assert np.isfinite(np.delete(stored[:, step], dead, 0)[:, 1:]).all()  # h is 500 times as large


def test_when_all_have_stopped_the_run_ends_with_the_store_as_it_stands(tmp_path):
    network = After(3, lambda x: x * torch.nan)
    store = tiny.writer(tmp_path / "f.zarr", steps=30, members=5)
    with pytest.raises(UserError, match=r"all members have stopped.*member 4 stopped at step 3: h, u, v"):
        forecast(tiny.model(network), batch_size=8, writer=store)
    with pytest.raises(UserError, match="unfinished"):
        open_forecast(tmp_path / "f.zarr")
    stored = open_forecast(tmp_path / "f.zarr", allow_partial=True)
    assert np.isfinite(stored.values[:, 0, :3]).all()
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]


def test_out_of_memory_makes_the_batch_smaller(caplog):
    class Greedy(tiny.Chaos):
        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError
            return super().forward(x)

    with caplog.at_level(logging.WARNING):
        result = forecast(tiny.model(Greedy()), batch_size=5)
    assert "going on with 2" in caplog.text
    assert np.array_equal(result.final.values, forecast().final.values)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_batch_and_it_resumes(tmp_path, number):
    def interrupt(x):
        os.kill(os.getpid(), number)
        return x

    handler, path = signal.getsignal(number), tmp_path / "f.zarr"
    with pytest.raises(Interrupted, match=r"in step 5 of 30: .*--resume") as caught:
        # Call 14 is the second of three batches in step 5.
        forecast(
            tiny.model(After(14, interrupt)), batch_size=2, writer=tiny.writer(path, steps=30, members=5)
        )
    assert signal.getsignal(number) is handler
    assert caught.value.restart == tmp_path / "f.zarr.restart"
    assert caught.value.restart.exists()

    seen, calls = Collector(), After(10**9, None)
    result = forecast(
        tiny.model(calls),
        batch_size=2,
        scorer=seen,
        resume=True,
        writer=tiny.writer(path, steps=30, members=5, resume=True),
    )
    assert 10**9 - calls.calls == 30 * 3 - 14
    assert result.member_steps == 30 * 5 - (4 * 5 + 4)
    whole = Collector()
    assert np.array_equal(result.final.values, forecast(scorer=whole).final.values)
    assert seen.steps.keys() == whole.steps.keys()
    assert all(torch.equal(seen.steps[step], whole.steps[step]) for step in range(31))
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]


def interrupted(path: Path, **options) -> Path:
    def interrupt(x):
        os.kill(os.getpid(), signal.SIGINT)
        return x

    with pytest.raises(Interrupted):
        forecast(tiny.model(After(3, interrupt)), batch_size=8, restart=path, **options)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, "its seed is 0, now 3"),
        ({"members": 6}, "its members is 0 to 4, now 0 to 5"),
        ({"steps": 29}, "its steps is 30, now 29"),
        ({"perturbation": Gaussian(0.02)}, "its perturbation is Gaussian"),
        ({"control": True}, "member 0 unperturbed"),
        ({"model": tiny.model(nn.Conv2d(3, 3, 1), WeatherModel)}, "its model is"),
    ],
)
def test_a_restart_file_of_another_run_is_refused(tmp_path, change, message):
    path = interrupted(tmp_path / "restart")
    with pytest.raises(UserError, match=message):
        forecast(**{"restart": path, "resume": True} | change)
    assert path.exists()


def test_more_steps_may_be_asked_on_resuming(tmp_path):
    path = interrupted(tmp_path / "restart")
    result = forecast(steps=40, restart=path, resume=True)
    assert np.array_equal(result.final.values, forecast(steps=40).final.values)
    assert not path.exists()


def test_a_stop_is_remembered_over_an_interruption(tmp_path):
    def stop_first(x):
        x[0] = torch.nan
        return x

    path, network = tmp_path / "restart", After(2, stop_first)

    class Both(After):
        def forward(self, x):
            return super().forward(network(x))

    def interrupt(x):
        os.kill(os.getpid(), signal.SIGINT)
        return x

    with pytest.raises(Interrupted):
        forecast(tiny.model(Both(4, interrupt)), batch_size=8, restart=path)
    result = forecast(restart=path, resume=True)
    assert [(s.member, s.step, s.variables) for s in result.stopped] == [(0, 2, ("h", "u", "v"))]
    assert np.isnan(result.final.values[0]).all()


def test_unreadable_restart_file(tmp_path):
    path = tmp_path / "restart"
    path.write_bytes(b"\x10" * 100)
    with pytest.raises(UserError, match=r"cannot read .*run without resuming"):
        forecast(restart=path, resume=True)
    with pytest.raises(UserError, match="keeps no restart file"):
        forecast(resume=True)
    with pytest.raises(UserError, match=r"cannot write .*restart"):
        interrupted(tmp_path / "missing" / "restart")


def test_resume_without_a_file_begins(tmp_path, caplog):
    result = forecast(restart=tmp_path / "restart", resume=True)
    assert "beginning at step 0" in caplog.text
    assert np.array_equal(result.final.values, forecast().final.values)


def test_statistics_only(tmp_path):
    seen = Collector()
    store = tiny.writer(tmp_path / "f.zarr", steps=30, members=5, output=Output(statistics_only=True))
    forecast(writer=store, scorer=seen, batch_size=2)
    stored = open_forecast(tmp_path / "f.zarr").isel(time=0).values
    for step, members in seen.steps.items():
        np.testing.assert_allclose(stored[0, step], members.mean(0), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(stored[1, step], members.std(0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.isel(variable=[0, 1]), "the model needs v too"),
        (lambda x: x.isel(lat=slice(1, None)), "its grid is 7 x 16 .* the model's is 8 x 16"),
        (lambda x: x.isel(lat=slice(None, None, -1)), "north to south"),
        (lambda x: x.where(x["lon"] != 45), "24 values are not finite, first h at lat 78.75, lon 45"),
        (lambda x: x.drop_vars("time").expand_dims(time=2), "got 2 along time"),
        (lambda x: x.drop_vars("lat"), "coordinates variable, lat, lon"),
    ],
)
def test_initial_state_is_checked(change, message):
    with pytest.raises(UserError, match=message):
        run(tiny.model(), change(tiny.initial()), steps=1, progress=False)


def test_initial_variables_are_found_by_name():
    shuffled = tiny.initial().isel(variable=[2, 0, 1]).transpose("lat", "variable", "lon").expand_dims("time")
    result = run(tiny.model(), shuffled, steps=3, progress=False)
    assert np.array_equal(result.final.values, forecast(steps=3, members=1, perturbation=None).final.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected 1 or more"),
        ({"members": 0}, "members: expected 1 or more"),
        ({"seed": -1}, "seed: expected 0"),
        ({"batch_size": 0}, "batch_size: expected"),
        ({"members": 10**10}, "GB are free on cpu; give fewer members"),
        ({"perturbation": Gaussian(-1)}, "level: expected numbers from 0 up"),
        ({"perturbation": Gaussian({"w": 1})}, "level: the model has no variable w"),
        ({"perturbation": Spherical(0.1, 5)}, "too short"),
        ({"perturbation": lambda g, x: np.zeros(3)}, r"expected noise of shape \(3, 8, 16\), got \(3,\)"),
        ({"perturbation": lambda g, x: x.values * np.nan}, "noise of member 0 is not finite"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        forecast(**options)


def test_a_users_perturbation():
    def heights(generator, state):
        return 0.1 * generator.standard_normal(state.shape) * (state["variable"] == "h").values[:, None, None]

    seen = Collector()
    forecast(perturbation=heights, scorer=seen)
    start = seen.steps[0]
    assert (start[0, 0] != start[1, 0]).all()
    assert torch.equal(start[0, 1:], start[1, 1:])
