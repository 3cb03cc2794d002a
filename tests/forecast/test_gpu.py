"""The runner on a GPU: graphs or launches, batch sizes, stops, and a loop in which nothing waits."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from tests.forecast import tiny
from tests.forecast.test_run import Collector
from tests.gpu import needs_gpu, no_waits
from tests.models.networks import randomise, small
from wxkernels.forecast import Gaussian, run
from wxkernels.forecast.ensemble import Ensemble, normalised
from wxkernels.forecast.run import Run
from wxkernels.io import open_forecast
from wxkernels.io.grid import Grid
from wxkernels.models import AFNONet, PrecipNet, WeatherModel

GRID = Grid.regular(16, 32, poles=False)
PRECISIONS = ["fp32", "bf16", "int8"]


def model(precision="fp32") -> WeatherModel:
    """The small network with PrecipNet beside it."""
    made = WeatherModel(small(), tiny.VARIABLES, GRID, torch.zeros(3), torch.ones(3), time_step=tiny.HOUR)
    backbone = AFNONet((16, 32), (4, 4), in_chans=2, out_chans=1, embed_dim=8, depth=1, num_blocks=2)
    made.diagnostics["tp06"] = randomise(PrecipNet(backbone))
    if precision != "fp32":
        made.quantize(torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(0)), precision)
    return made


def initial() -> xr.DataArray:
    return tiny.initial(GRID).copy(data=tiny.initial(GRID).values / 8000)


def forecast(made: WeatherModel, device="cuda", **options):
    options = {"steps": 5, "members": 5, "perturbation": Gaussian(0.1), "progress": False} | options
    return run(made, initial(), device=device, **options)


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_and_batch_sizes_change_no_bit(precision, caplog):
    alone = forecast(model(precision), batch_size=1, capture=False).final.values
    for batch_size in (1, 2, 5, "auto"):
        result = forecast(model(precision), batch_size=batch_size)
        assert np.array_equal(result.final.values, alone)
        assert 0 < result.model_seconds <= result.seconds
    assert not caplog.records
    assert np.unique(alone[:, 0, 0, 0]).size == 5


@needs_gpu
@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1e-4), ("bf16", 0.05), ("int8", 0.1)])
def test_a_step_is_that_of_the_cpu(precision, largest):
    one, other = (forecast(model(precision), device, steps=1).final for device in ("cpu", "cuda"))
    for variable in one["variable"].values:
        a, b = one.sel(variable=variable).values, other.sel(variable=variable).values
        assert np.abs(a - b).max() <= largest * np.abs(a).max()


@needs_gpu
def test_store_scores_and_stops_are_those_of_the_cpu(tmp_path):
    """Members that grow by ten a step pass the largest float32 at steps of their own, in any arithmetic."""
    found = []
    for device in ("cpu", "cuda"):
        seen, path = Collector(), tmp_path / f"{device}.zarr"
        result = run(
            tiny.model(tiny.Growing()),
            tiny.initial(),
            steps=12,
            members=7,
            perturbation=tiny.sizes,
            batch_size=3,
            device=device,
            scorer=seen,
            writer=tiny.writer(path, steps=12, members=7),
            progress=False,
        )
        scored = np.stack([forecast.cpu().numpy() for forecast in seen.steps.values()])
        found.append((result.stopped, open_forecast(path).values, scored))
    (stops, stored, scored), (gpu_stops, gpu_stored, gpu_scored) = found
    assert 1 < len(stops) < 7
    assert gpu_stops == stops
    assert np.array_equal(gpu_stored, stored, equal_nan=True)
    assert np.array_equal(gpu_scored, scored, equal_nan=True)


@needs_gpu
@pytest.mark.parametrize("network", [None, nn.Identity()], ids=["AFNO", "identity"])
def test_nothing_waits_in_the_loop(tmp_path, network):
    made = model().to("cuda")
    if network is not None:
        made = tiny.model(network).to("cuda")
    start = initial() if network is None else tiny.initial()
    names = made.output_variables
    writer = tiny.writer(tmp_path / "f.zarr", steps=20, members=5, grid=made.grid, variables=names)
    with torch.inference_mode():
        ensemble = Ensemble(made, range(5))
        ensemble.begin(normalised(made, start), Gaussian(0.1), False, 0)
        work = Run(ensemble, 20, 2, writer, None, None, lambda: False)
        for step in range(4):
            work.step(step, lambda done, total: None)
        with no_waits():
            for step in range(4, 21):
                work.step(step, lambda done, total: None)
        work.finish()
    writer.close(True)
    assert np.isfinite(open_forecast(tmp_path / "f.zarr").values).all()
