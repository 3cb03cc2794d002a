"""A folder with the layout of FourCastNet's tutorial, on a small grid: all of it is found and readable."""

import h5py
import numpy as np
import pytest
import torch

from tests.io import samples
from wxkernels.io import load_climatology, open_fields, statistics, tutorial
from wxkernels.io.grid import Grid
from wxkernels.io.lexicon import FOURCASTNET_20


@pytest.fixture
def ccai_demo(tmp_path):
    f = samples.fields((*FOURCASTNET_20, "sst"), Grid.regular(17, 32), times=6)
    root = tmp_path / "ccai_demo"
    data, weights = root / "data/FCN_ERA5_data_v0/out_of_sample", root / "model_weights/FCN_weights_v0"
    stats = root / "additional/stats_v0"
    for folder in (data, weights, stats):
        folder.mkdir(parents=True)
    with h5py.File(data / "2018.h5", "w") as file:
        file["fields"] = f.values
    torch.save({"iters": 1, "epoch": 1, "model_state": {}}, weights / "backbone.ckpt")
    np.save(stats / "global_means.npy", f.values.mean((0, 2, 3))[None, :, None, None])
    np.save(stats / "global_stds.npy", f.values.std((0, 2, 3))[None, :, None, None])
    np.save(stats / "time_means.npy", f.values.mean(0, keepdims=True))
    np.save(stats / "land_sea_mask.npy", np.zeros((17, 32), np.float32))
    return root, f


def test_all_of_the_folder_is_found_and_read(ccai_demo):
    root, f = ccai_demo
    found = tutorial.find(root)
    assert all(path.is_file() for path in vars(found).values())
    names = FOURCASTNET_20
    fields = open_fields(root, names)
    assert fields.sizes == {"time": 6, "variable": 20, "lat": 16, "lon": 32}
    np.testing.assert_array_equal(fields, f.values[:, :20, :16])
    assert fields["time"].values[1] == np.datetime64("2018-01-01T06")
    s = statistics.load(root, names)
    np.testing.assert_allclose(s.mean, f.values.mean((0, 2, 3))[:20])
    np.testing.assert_allclose(s.std, f.values.std((0, 2, 3))[:20])
    grid = Grid(fields["lat"].values, fields["lon"].values)
    np.testing.assert_array_equal(load_climatology(root, names, grid), f.values.mean(0)[:20, :16])


def test_what_the_folder_lacks_is_none(ccai_demo):
    root, _ = ccai_demo
    (root / "additional/stats_v0/time_means.npy").unlink()
    found = tutorial.find(root)
    assert found.time_means is None
    assert found.means is not None
