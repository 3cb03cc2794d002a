"""A member's bits through the whole AFNONet."""

import numpy as np
import pytest
import torch
import xarray as xr

from wxkernels import backends
from wxkernels.forecast import Spherical, run
from wxkernels.io.grid import Grid
from wxkernels.models import WeatherModel
from wxkernels.models.afno import AFNONet
from wxkernels.ops.spectral_filter import native


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_batch_size_changes_no_bit(backend):
    if backend == "native" and (reason := native.unavailable()):
        pytest.skip(reason)
    torch.manual_seed(0)
    network = AFNONet((64, 128), (4, 4), in_chans=3, out_chans=3, embed_dim=48, depth=2, num_blocks=4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    grid = Grid.regular(64, 128, poles=False)
    model = WeatherModel(network, ("h", "u", "v"), grid, torch.zeros(3), torch.ones(3))
    coords = {"variable": list(model.variables), "lat": grid.lat, "lon": grid.lon}
    values = np.random.default_rng(0).standard_normal((3, *grid.shape)).astype(np.float32)
    initial = xr.DataArray(values, coords, ("variable", "lat", "lon"))

    def final(batch_size):
        noise = Spherical(0.1, 1500)
        return run(
            model, initial, steps=3, members=8, perturbation=noise, batch_size=batch_size, progress=False
        ).final.values

    with backends.use(backend):
        alone = final(1)
        assert np.unique(alone[:, 0, 0, 0]).size == 8
        for batch_size in (2, 3, 8, "auto"):
            assert np.array_equal(final(batch_size), alone)
