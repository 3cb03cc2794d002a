import json
import resource

import numpy as np
import pytest
import safetensors
import torch

from tests.models.networks import randomise, small
from wxkernels.errors import UserError
from wxkernels.io.grid import Grid
from wxkernels.models import AFNONet, PrecipNet, WeatherModel, load

GRID = Grid.regular(16, 32, poles=False)


def _model(**changes):
    parts = {
        "network": small(),
        "variables": ("t2m", "u10m", "v10m"),
        "grid": GRID,
        "mean": torch.tensor([280.0, 0.1, -0.3]),
        "std": torch.tensor([20.0, 5.0, 1 / 3]),
    }
    return WeatherModel(**parts | changes)


def test_normalise_and_back():
    model, x = _model(), torch.randn(2, 3, 16, 32)
    torch.testing.assert_close(model.denormalise(x)[:, 0], 20 * x[:, 0] + 280)
    torch.testing.assert_close(model.normalise(model.denormalise(x)), x, rtol=0, atol=1e-5)


def test_a_step_feeds_the_static_channels():
    static = torch.randn(1, 16, 32)
    model = _model(network=small(in_chans=4), static=static)
    x = torch.randn(2, 3, 16, 32)
    expected = model.network(torch.cat([x, static.expand(2, 1, 16, 32)], 1)).detach()
    found = model.step(x)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert not torch.equal(found, _model(network=model.network, static=torch.zeros(1, 16, 32)).step(x))


def test_a_step_keeps_the_dtype_of_the_state():
    model = _model(network=small().bfloat16())
    assert model.step(torch.randn(1, 3, 16, 32)).dtype == torch.float32


def test_to_moves_every_part():
    static = torch.ones(1, 16, 32)
    model = _model(network=small(in_chans=4), static=static, diagnostics={"tp06": _precip()})
    assert model.to("meta") is model
    parts = [model.mean, model.std, model.static, *model.network.parameters()]
    assert {part.device.type for part in [*parts, *model.diagnostics["tp06"].parameters()]} == {"meta"}
    assert model.device.type == "meta"


def test_only_our_network_is_known_to_be_batch_invariant():
    assert _model().batch_invariant
    assert not _model(network=torch.nn.Identity()).batch_invariant
    assert torch.equal(
        _model(network=torch.nn.Identity()).step(torch.ones(1, 3, 16, 32)), torch.ones(1, 3, 16, 32)
    )


def _precip():
    return PrecipNet(small(in_chans=2, out_chans=1))


def test_saved_and_read_back_identically(tmp_path):
    torch.manual_seed(5)
    model = _model(
        network=small(in_chans=4, sparsity_threshold=0.02, hard_thresholding_fraction=0.5),
        static=torch.randn(1, 16, 32),
        time_step=np.timedelta64(90, "m"),
        diagnostics={"tp06": _precip()},
    )
    path = tmp_path / "a.safetensors"
    model.save(path)
    read = load(path)
    assert read.variables == model.variables
    assert np.array_equal(read.grid.lat, model.grid.lat)
    assert np.array_equal(read.grid.lon, model.grid.lon)
    assert read.time_step == model.time_step
    assert read.network.config == model.network.config
    for name in ("mean", "std", "static"):
        assert torch.equal(getattr(read, name), getattr(model, name)), name
    x = torch.randn(2, 3, 16, 32)
    assert torch.equal(read.step(x), model.step(x))
    assert torch.equal(read.diagnose(x)["tp06"], model.diagnose(x)["tp06"])
    assert read.source == str(path)
    again = tmp_path / "b.safetensors"
    read.save(again)
    assert load(again).sha256 == read.sha256 != ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_model_that_cannot_be_saved_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*a.safetensors: no folder .*nowhere; make it"):
        _model().save(tmp_path / "nowhere" / "a.safetensors")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # as a full disk does, it ends the writing
    try:
        with pytest.raises(UserError, match=r"cannot write .*a.safetensors: .*large") as error:
            _model().save(tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    _model().save(path)
    before = path.read_bytes()

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match=r"cannot write .*no space left"):
        _model().save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m | {"format": 4}, "format 4, expected 1 or 3; update wxkernels"),
        (lambda m: m | {"format": 2}, "format 2, expected 1 or 3; .* quantise the original again"),
        (lambda m: m | {"format": 3}, "metadata is damaged.*'quantization'"),
        (lambda m: {k: v for k, v in m.items() if k != "mean"}, "metadata is damaged.*'mean'"),
        (lambda m: m | {"lat": [0, 1]}, "metadata is damaged.*lat"),
        (lambda m: m | {"variables": ["t2m", "u10m"]}, "metadata is damaged.*variables: expected 3"),
        (lambda m: m | {"std": [1, 0, 1]}, "std: expected > 0, got 0 for u10m"),
        (lambda m: m | {"network": 3}, "metadata is damaged"),
        (lambda m: [], "metadata is damaged"),
    ],
)
def test_damaged_metadata_gets_one_line(tmp_path, spoil, message):
    path = tmp_path / "a.safetensors"
    _model().save(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["wxkernels"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, path, {"wxkernels": json.dumps(spoil(metadata))})
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variables": ("t2m", "t2m", "v10m")}, "variables: expected each once"),
        ({"mean": torch.zeros(2)}, "mean: expected 3 finite numbers"),
        ({"mean": torch.tensor([0, torch.nan, 0])}, "mean: expected 3 finite numbers"),
        ({"std": torch.tensor([1.0, 1.0, -1.0])}, "std: expected > 0, got -1 for v10m"),
        ({"grid": Grid.regular(8, 16)}, r"grid: expected \(16, 32\) from the network, got \(8, 16\)"),
        ({"network": small(out_chans=4)}, "variables: expected 4 from the network, got 3"),
        ({"network": small(in_chans=4)}, "static: expected 1 channels from the network, got 0"),
        (
            {"network": small(in_chans=4), "static": torch.zeros(1, 8, 8)},
            r"static: expected \(S, 16, 32\), got \(1, 8, 8\)",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        _model(**changes)
    assert "\n" not in str(error.value)


def test_small_networks_learn():
    net = randomise(AFNONet((8, 16), (2, 2), 1, 1, embed_dim=8, depth=1, num_blocks=2))
    x = torch.randn(4, 1, 8, 16)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = (net(x) - x.roll(1, -1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_diagnosed_variables_come_after_the_state():
    model = _model(diagnostics={"tp06": _precip()})
    assert model.output_variables == ("t2m", "u10m", "v10m", "tp06")
    with pytest.raises(ValueError, match="diagnostics: t2m is a variable of the state already"):
        _model(diagnostics={"t2m": _precip()})


@pytest.mark.parametrize("size", [(16, 32), (18, 30), (66, 130)])
def test_a_member_is_diagnosed_the_same_in_every_batch(size):
    torch.manual_seed(0)
    net = randomise(PrecipNet(AFNONet(size, (2, 2), 2, 1, embed_dim=8, depth=1, num_blocks=2)))
    model = _model(network=torch.nn.Identity(), diagnostics={"tp06": net})
    x = torch.randn(5, 3, *size)
    whole = model.diagnose(x)["tp06"]
    assert (whole > 0).any()
    for part in (slice(0, 1), slice(1, 3), slice(4, 5), slice(2, 5)):
        assert torch.equal(model.diagnose(x[part])["tp06"], whole[part])


def test_convolution_and_exponential_get_one_member_at_a_time(monkeypatch):
    """Their results may depend on the shape; here they happen not to, so the shape itself is looked at."""
    net, seen = _precip(), []
    net.conv.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    expm1 = torch.expm1
    monkeypatch.setattr(torch, "expm1", lambda y: seen.append(tuple(y.shape)) or expm1(y))
    _model(diagnostics={"tp06": net}).diagnose(torch.randn(3, 3, 16, 32))
    assert seen == 3 * [(1, 1, 18, 34), (1, 1, 16, 32)]


def test_precipitation_of_half_precision_weights():
    net = randomise(_precip())
    exact = _model(diagnostics={"tp06": net}).diagnose(x := torch.randn(2, 3, 16, 32))["tp06"]
    found = _model(diagnostics={"tp06": net.bfloat16()}).diagnose(x)["tp06"]
    assert found.dtype == torch.float32
    assert (found - exact).abs().mean() < 0.1 * exact.mean()
