import h5py
import numpy as np
import pytest
import torch

from tests.cli.commands import TIMES, H, W
from wxkernels.io.lexicon import FOURCASTNET_20, VARIABLES
from wxkernels.models import AFNONet


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """ccai_demo as FourCastNet's tutorial lays it out, small: 17 x 32 points, 20 channels and the sst."""
    root = tmp_path_factory.mktemp("ccai_demo")
    rng = np.random.default_rng(0)
    middle = np.array([(VARIABLES[v].lowest + VARIABLES[v].highest) / 2 for v in (*FOURCASTNET_20, "sst")])
    width = np.array([(VARIABLES[v].highest - VARIABLES[v].lowest) / 40 for v in (*FOURCASTNET_20, "sst")])
    noise = rng.standard_normal((TIMES, 21, H + 1, W)).cumsum(axis=0) / 2
    fields = (middle[:, None, None] + width[:, None, None] * noise).astype(np.float32)
    for folder in (
        "data/FCN_ERA5_data_v0/out_of_sample",
        "model_weights/FCN_weights_v0",
        "additional/stats_v0",
    ):
        (root / folder).mkdir(parents=True)
    with h5py.File(root / "data/FCN_ERA5_data_v0/out_of_sample/2018.h5", "w") as file:
        file["fields"] = fields
    statistics = root / "additional/stats_v0"
    np.save(statistics / "global_means.npy", fields.mean(axis=(0, 2, 3)).reshape(1, 21, 1, 1))
    np.save(statistics / "global_stds.npy", fields.std(axis=(0, 2, 3)).reshape(1, 21, 1, 1))
    np.save(statistics / "time_means.npy", fields.mean(axis=0)[None])
    np.save(statistics / "land_sea_mask.npy", np.zeros((H + 1, W)))
    torch.manual_seed(0)
    net = AFNONet(img_size=(H, W), patch_size=(4, 4), embed_dim=16, depth=2, num_blocks=4)
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    state |= {"module.norm.weight": torch.ones(16), "module.norm.bias": torch.zeros(16)}
    checkpoint = {"iters": 1, "epoch": 1, "model_state": state, "optimizer_state_dict": {}}
    torch.save(checkpoint, root / "model_weights/FCN_weights_v0/backbone.ckpt")
    return root
