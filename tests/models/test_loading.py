import hashlib

import h5py
import numpy as np
import pytest
import torch

from tests import hosts
from tests.models.networks import randomise, small
from tests.models.test_checkpoint import _mdlus
from wxkernels.errors import UserError
from wxkernels.io.lexicon import FOURCASTNET_20, FOURCASTNET_26
from wxkernels.models import PrecipNet, load

MEAN, STD = np.linspace(-1, 1, 26, dtype=np.float32), np.linspace(1, 2, 26, dtype=np.float32)


def _statistics(folder, channels):
    np.save(folder / "global_means.npy", MEAN[:channels].reshape(1, -1, 1, 1))
    np.save(folder / "global_stds.npy", STD[:channels].reshape(1, -1, 1, 1))


def _nvlabs(net, path):
    torch.save({"model_state": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    return path


@pytest.mark.parametrize(("names", "channels"), [(FOURCASTNET_20, 21), (FOURCASTNET_26, 26)])
def test_fourcastnet(tmp_path, names, channels):
    net = small(in_chans=len(names), out_chans=len(names))
    _statistics(tmp_path, channels)
    model = load(_nvlabs(net, tmp_path / "backbone.ckpt"))
    assert model.variables == names
    assert torch.equal(model.mean, torch.from_numpy(MEAN[: len(names)]))
    assert torch.equal(model.std, torch.from_numpy(STD[: len(names)]))
    assert model.grid.lat.tolist() == [90 - 11.25 * i for i in range(16)]
    assert model.grid.lon.tolist() == [11.25 * i for i in range(32)]
    assert model.time_step == np.timedelta64(6, "h")
    x = torch.randn(1, len(names), 16, 32)
    torch.testing.assert_close(model.step(x), net(x).detach(), rtol=1e-5, atol=1e-5)


def test_other_variables_and_statistics_elsewhere(tmp_path):
    (tmp_path / "statistics").mkdir()
    _statistics(tmp_path / "statistics", 3)
    path = _nvlabs(small(), tmp_path / "a.ckpt")
    with pytest.raises(
        UserError,
        match=r"the network has 3 variables, 0 are named; name them in channel order.*\(--variables\)",
    ):
        load(path)
    with pytest.raises(UserError, match=r"holds weights alone; pass statistics= \(--statistics\)"):
        load(path, variables=["2t", "10u", "z_500"])
    model = load(path, variables=["2t", "10u", "z_500"], statistics=tmp_path / "statistics")
    assert model.variables == ("t2m", "u10m", "z500")
    with pytest.raises(UserError, match="the network has 3 variables, 2 are named"):
        load(path, variables=["2t", "10u"])
    again = load(path, variables=["2t", "10u", "z_500"], statistics=model)
    assert torch.equal(again.std, model.std)
    model.save(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"holds its own variables; leave variables= \(--variables\) away"):
        load(tmp_path / "a.safetensors", variables=["2t"])


def test_physicsnemo_arguments_count(tmp_path):
    _statistics(tmp_path, 3)
    arguments = _mdlus(small().state_dict(), tmp_path / "fcn.mdlus", "zip")
    model = load(tmp_path / "fcn.mdlus", variables=["t2m", "u10m", "v10m"])
    for name in ("sparsity_threshold", "hard_thresholding_fraction"):
        assert model.network.config[name] == arguments[name]


@pytest.mark.parametrize("name", ["physicsnemo", "modulus"])
def test_archives_that_the_hosts_wrote(tmp_path, name):
    theirs = hosts.load(name).network(sparsity_threshold=0.02)
    theirs.save(str(tmp_path / "a.mdlus"))  # physicsnemo writes a zip, modulus a tar
    _statistics(tmp_path, 3)
    model, x = load(tmp_path / "a.mdlus", variables=["t2m", "u10m", "v10m"]), torch.randn(2, 3, 48, 96)
    torch.testing.assert_close(model.step(x), theirs(x).detach(), rtol=1e-4, atol=1e-5)


def _field(kind, folder, heights):
    if kind == "array":
        return heights
    if kind == "npy":
        np.save(folder / "orog.npy", heights)
        return folder / "orog.npy"
    with h5py.File(folder / "orog.h5", "w") as file:
        file["orog"] = heights
    return folder / "orog.h5"


@pytest.mark.parametrize("kind", ["array", "npy", "h5"])
def test_orography(tmp_path, kind):
    _statistics(tmp_path, 21)
    path = _nvlabs(small(in_chans=21, out_chans=20), tmp_path / "a.ckpt")
    heights = np.random.default_rng(0).gamma(1, 500, (17, 32))  # with the row of the south pole
    model = load(path, orography=_field(kind, tmp_path, heights))
    standard = (heights - heights.mean()) / heights.std()
    np.testing.assert_allclose(model.static[0], standard[:16], rtol=1e-5)
    again = load(path, orography=standard.astype(np.float32))
    torch.testing.assert_close(again.static, model.static)
    assert model.step(torch.randn(2, 20, 16, 32)).shape == (2, 20, 16, 32)


def test_orography_that_does_not_fit(tmp_path):
    _statistics(tmp_path, 21)
    path = _nvlabs(small(in_chans=21, out_chans=20), tmp_path / "a.ckpt")
    good = np.random.default_rng(0).normal(size=(16, 32))
    for orography, message in [
        (None, "21 inputs and 20 outputs: it wants the orography; pass orography="),
        (good[:, :31], r"orography: expected \(16, 32\), or with the south pole's row, got \(16, 31\)"),
        (np.full((16, 32), np.nan), "orography: expected finite heights"),
        (tmp_path / "none.npy", "none.npy: no such file"),
        (path, "no readable"),
    ]:
        with pytest.raises(UserError, match=message):
            load(path, orography=orography)
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["z"] = good
    with pytest.raises(UserError, match=r"no dataset `orog` \(found z\)"):
        load(path, orography=tmp_path / "z.h5")
    with pytest.raises(UserError, match=r"takes no orography.*orography= \(--orography\)"):
        load(_nvlabs(small(in_chans=20, out_chans=20), tmp_path / "b.ckpt"), orography=good)
    with pytest.raises(UserError, match="22 inputs and 20 outputs; only one static channel"):
        load(_nvlabs(small(in_chans=22, out_chans=20), tmp_path / "c.ckpt"), orography=good)


def test_precipitation_is_a_diagnostic(tmp_path):
    _statistics(tmp_path, 26)
    backbone = _nvlabs(small(in_chans=26, out_chans=26), tmp_path / "backbone.ckpt")
    precip = randomise(PrecipNet(small(in_chans=20, out_chans=1)))
    model = load(backbone, precipitation=_nvlabs(precip, tmp_path / "precip.ckpt"))
    x = torch.randn(3, 26, 16, 32)
    tp = model.diagnose(x)["tp06"]
    assert tp.shape == (3, 16, 32)
    assert (tp >= 0).all()
    assert (tp > 0).any()
    assert torch.equal(model.diagnose(x[1:2])["tp06"], tp[1:2])
    assert model.output_variables == (*model.variables, "tp06")
    assert model.source == f"{backbone}, {tmp_path / 'precip.ckpt'}"
    hashes = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (backbone, tmp_path / "precip.ckpt")]
    assert model.sha256 == ", ".join(hashes)
    model.save(tmp_path / "both.safetensors")
    with pytest.raises(
        UserError, match=r"both\.safetensors has tp06 already; leave precipitation= \(--precipitation\) away"
    ):
        load(tmp_path / "both.safetensors", precipitation=tmp_path / "precip.ckpt")
    with pytest.raises(UserError, match=r"is a PrecipNet; give it as precipitation= \(--precipitation\)"):
        load(tmp_path / "precip.ckpt")
    with pytest.raises(UserError, match="is no PrecipNet"):
        load(backbone, precipitation=backbone)
    state = precip.state_dict()
    del state["conv.bias"]
    torch.save(state, tmp_path / "precip.ckpt")
    with pytest.raises(UserError, match=r"precip\.ckpt: 1 keys of PrecipNet are missing, first 'conv\.bias'"):
        load(backbone, precipitation=tmp_path / "precip.ckpt")


def test_precipitation_as_exact_as_the_published_network():
    theirs = hosts.module("ai_models_fourcastnet.afnonet")
    net = theirs.PrecipNet(theirs.AFNONet((16, 32), (4, 4), 5, 1, embed_dim=24, depth=2, num_blocks=4))
    randomise(net)
    ours, x = PrecipNet.from_state_dict(net.state_dict()), torch.randn(2, 5, 16, 32)
    with torch.no_grad():
        expected, found = theirs.unlog_tp_torch(net(x)).double(), ours(x).double()
        exact = ours.double()(x.double())
    assert exact.max() > 1e-5
    assert (expected - exact).abs().max() < 1e-4 * exact.max()
    assert (found - exact).abs().max() <= 2 * (expected - exact).abs().max()
