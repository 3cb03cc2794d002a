"""What a model diagnoses beside its state, through the runner and the store."""

import os
import signal

import numpy as np
import pytest
import torch

from tests.forecast import tiny
from tests.forecast.test_run import After, Collector
from tests.models.networks import randomise
from wxkernels.errors import UserError
from wxkernels.forecast import Gaussian, Interrupted, run
from wxkernels.io import Output, open_forecast
from wxkernels.models import AFNONet, PrecipNet

pytestmark = pytest.mark.usefixtures("either_way")

STEPS, MEMBERS = 6, 5
NAMES = (*tiny.VARIABLES, "tp06")


def model(network=None):
    torch.manual_seed(0)
    made = tiny.model(network)
    backbone = AFNONet(tiny.GRID.shape, (2, 2), in_chans=2, out_chans=1, embed_dim=8, depth=1, num_blocks=2)
    made.diagnostics["tp06"] = randomise(PrecipNet(backbone))
    return made


def writer(path, **options):
    return tiny.writer(path, steps=STEPS, members=MEMBERS, variables=NAMES, **options)


def forecast(made=None, **options):
    options = {
        "steps": STEPS,
        "members": MEMBERS,
        "perturbation": Gaussian(0.01),
        "progress": False,
    } | options
    return run(made or model(), tiny.initial(), **options)


def test_precipitation_lies_beside_the_state_at_every_lead(tmp_path):
    made, seen = model(), Collector()
    result = forecast(made, members=1, perturbation=None, scorer=seen, writer=writer(tmp_path / "f.zarr"))
    stored = open_forecast(tmp_path / "f.zarr")
    assert stored["variable"].values.tolist() == list(NAMES)
    assert stored["units"].sel(variable="tp06").item() == "m"
    assert stored["standard_name"].sel(variable="tp06").item() == "lwe_thickness_of_precipitation_amount"
    x = made.normalise(torch.from_numpy(tiny.initial().values)[None])
    for step in range(STEPS + 1):
        rain = made.diagnose(x)["tp06"]
        assert (rain > 0).any()
        expected = torch.cat([made.denormalise(x), rain[:, None]], 1)
        assert np.array_equal(stored.values[:1, 0, step], expected.numpy())
        assert torch.equal(seen.steps[step], expected)
        x = made.step(x)
    assert result.final["variable"].values.tolist() == list(NAMES)
    assert np.array_equal(result.final.values, expected.numpy())


@pytest.mark.parametrize("batch_size", [2, 5, "auto"])
def test_batch_size_changes_no_bit(batch_size):
    alone = forecast(batch_size=1).final.values
    assert np.array_equal(forecast(batch_size=batch_size).final.values, alone)
    assert np.unique(alone[:, 3].max((1, 2))).size == MEMBERS


def test_a_stopped_member_has_none_and_the_others_keep_theirs(tmp_path):
    def break_second(x):
        x[1] = torch.nan
        return x

    result = forecast(model(After(2, break_second)), batch_size=5, writer=writer(tmp_path / "f.zarr"))
    assert result.live.tolist() == [True, False, True, True, True]
    stored, whole = open_forecast(tmp_path / "f.zarr").values[:, 0], forecast().final.values
    assert np.isfinite(stored[1, :2]).all()
    assert np.isnan(stored[1, 2:]).all()
    assert np.array_equal(stored[[0, 2, 3, 4], STEPS], whole[[0, 2, 3, 4]])


def test_statistics_only_has_its_mean_and_spread(tmp_path):
    seen = Collector()
    forecast(scorer=seen, writer=writer(tmp_path / "f.zarr", output=Output(statistics_only=True)))
    stored = open_forecast(tmp_path / "f.zarr").sel(variable="tp06").values[:, 0]
    for step, members in seen.steps.items():
        np.testing.assert_allclose(stored[0, step], members[:, 3].mean(0), rtol=1e-5)
        np.testing.assert_allclose(stored[1, step], members[:, 3].std(0), rtol=1e-3, atol=1e-7)


def interrupt(x):
    os.kill(os.getpid(), signal.SIGINT)
    return x


def test_an_interrupted_run_scores_the_whole_of_it_when_resumed(tmp_path):
    path, seen, whole = tmp_path / "f.zarr", Collector(), Collector()
    with pytest.raises(Interrupted, match="in step 3"):
        forecast(model(After(8, interrupt)), batch_size=2, writer=writer(path))
    forecast(batch_size=2, scorer=seen, writer=writer(path, resume=True), resume=True)
    forecast(scorer=whole)
    assert seen.steps.keys() == whole.steps.keys()
    assert all(torch.equal(seen.steps[step], whole.steps[step]) for step in whole.steps)


def test_another_precipitation_network_is_another_run(tmp_path):
    path, other = tmp_path / "f.zarr", model()
    with pytest.raises(Interrupted):
        forecast(model(After(2, interrupt)), batch_size=5, writer=writer(path))
    with torch.no_grad():
        other.diagnostics["tp06"].conv.bias += 1
    with pytest.raises(UserError, match="its model is"):
        forecast(other, writer=writer(path, resume=True), resume=True)
