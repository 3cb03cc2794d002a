"""What the hosts do with their models beside calling them: checkpoints, wrappers, runners."""

from collections import OrderedDict

import numpy as np
import torch

import wxkernels
from tests import hosts


@torch.no_grad()
def test_the_module_name_of_nvlabs(x):
    network = hosts.load("nvlabs").network()
    expected = network(x)
    report = wxkernels.patch(network)
    names = ["AFNONet", "Block", "Block"]
    assert [cls for _, cls, *_ in report.replaced] == [f"networks.afnonet.{name}" for name in names]
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_physicsnemo_checkpoint_saved_while_patched(tmp_path, x):
    host = hosts.load("physicsnemo")
    network = host.network()
    meta = network.meta
    wxkernels.patch(network)
    expected = network(x)
    network.save(str(tmp_path / "model.mdlus"))
    assert type(network) is host.network_class
    assert network.meta is meta

    loaded = hosts.module("physicsnemo").Module.from_checkpoint(str(tmp_path / "model.mdlus"))
    assert type(loaded) is host.network_class
    assert loaded.meta == meta
    assert list(loaded.state_dict()) == list(network.state_dict())
    torch.testing.assert_close(loaded.eval()(x), expected, rtol=1e-5, atol=1e-5)

    other = host.network_class(**host.numbers, patch_size=(8, 8), embed_dim=32, depth=2, num_blocks=4).eval()
    wxkernels.patch(other)
    other.load(str(tmp_path / "model.mdlus"))  # loading into a patched model
    assert torch.equal(other(x), expected)


def test_earth2studio_fcn():
    px = hosts.module("earth2studio.models.px")
    host = hosts.load("physicsnemo")
    core = host.network_class(
        [720, 1440], in_channels=26, out_channels=26, patch_size=[40, 40], embed_dim=32, depth=2, num_blocks=4
    ).eval()
    fcn = px.FCN(core, center=torch.zeros(26, 1, 1), scale=torch.ones(26, 1, 1)).to("cpu")
    coords = OrderedDict(fcn.input_coords(), batch=np.array([0]))
    x = torch.randn(1, 1, 26, 720, 1440, generator=torch.Generator().manual_seed(0))
    expected, _ = fcn(x, coords)

    report = wxkernels.patch(fcn)
    assert [name for name, *_ in report.replaced] == ["model", "model.blocks.0", "model.blocks.1"]
    fcn.to("cpu")
    ours, later = fcn(x, coords)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert later["lead_time"][-1] == np.timedelta64(6, "h")

    steps = fcn.create_iterator(x, coords)
    next(steps)  # the initial state
    torch.testing.assert_close(next(steps)[0], ours, rtol=1e-4, atol=1e-5)
    normalised = []
    hook = core.patch_embed.register_forward_pre_hook(lambda module, args: normalised.append(args[0]))
    fcn(x, coords)
    hook.remove()
    report = wxkernels.patch(fcn, precision="int8", calibration=normalised)
    assert report.replaced[1].precisions == {"model.blocks.0.filter": "bf16", "model.blocks.0.mlp": "int8"}
    low = fcn(x, coords)[0]
    assert 0 < (low - expected).square().mean().sqrt() < 0.02 * (expected - x).square().mean().sqrt()
    wxkernels.unpatch(fcn)
    assert torch.equal(fcn(x, coords)[0], expected)
