"""Quantised models: converted, saved, read back without the original, and refused where damaged."""

import json

import numpy as np
import pytest
import safetensors
import torch

from tests.models.networks import randomise, small
from wxkernels.errors import UserError
from wxkernels.io.grid import Grid
from wxkernels.models import PrecipNet, WeatherModel, load


def model(**changes):
    parts = {
        "network": small(),
        "variables": ("t2m", "u10m", "v10m"),
        "grid": Grid.regular(16, 32, poles=False),
        "mean": torch.tensor([280.0, 0.1, -0.3]),
        "std": torch.tensor([20.0, 5.0, 1 / 3]),
    }
    return WeatherModel(**parts | changes)


def states(count=2):
    return torch.randn(count, 3, 16, 32, generator=torch.Generator().manual_seed(1))


PROVENANCE = {"data": "2018.h5", "sha256": "ab" * 32, "times": ["2018-01-01T00:00"], "states": 2}


@pytest.mark.parametrize("precision", ["bf16", "int8", "fp8"])
def test_saved_and_read_back_identically(tmp_path, precision):
    made = model(
        network=small(in_chans=4),
        static=torch.randn(1, 16, 32),
        diagnostics={"tp06": randomise(PrecipNet(small(in_chans=2, out_chans=1)))},
    )
    x, exact = states(), made.step(states())
    scheme = made.quantize(states(), precision, budget=1.0, provenance=PROVENANCE)
    assert made.scheme is scheme
    assert made.precision == made.diagnostics["tp06"].backbone.scheme.precision == precision
    made.save(tmp_path / "a.safetensors")
    read = load(tmp_path / "a.safetensors")
    assert read.precision == precision
    assert read.scheme == scheme
    assert read.scheme.calibration == PROVENANCE
    assert {k: v.dtype for k, v in read.network.state_dict().items()} == {
        k: v.dtype for k, v in made.network.state_dict().items()
    }
    assert torch.equal(read.step(x), made.step(x))
    assert torch.equal(read.diagnose(x)["tp06"], made.diagnose(x)["tp06"])
    assert 0 < (read.step(x) - exact).norm() < 0.1 * (exact - x).norm()
    read.save(tmp_path / "b.safetensors")
    assert load(tmp_path / "b.safetensors").sha256 == read.sha256


def test_a_quantised_model_is_batch_invariant():
    made, x = model(), states(5)
    made.quantize(states(), "int8", budget=1.0)
    assert made.batch_invariant
    assert torch.equal(made.step(x), torch.cat([made.step(member) for member in x.split(1)]))
    assert made.step(x).dtype == torch.float32
    assert made.step(x.double()).dtype == torch.float64


def test_the_file_is_as_small_as_the_scheme_says(tmp_path):
    made = model(network=small(embed_dim=96))
    made.save(tmp_path / "fp32.safetensors")
    scheme = made.quantize(states(), "int8", budget=1.0)
    made.save(tmp_path / "int8.safetensors")
    before, after = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("fp32", "int8"))
    assert before - after == pytest.approx(scheme.size_before - scheme.size_after, abs=5000)  # metadata
    assert scheme.saved > 0.68


def test_half_precision_checkpoints_are_quantised_too():
    made = model(network=small().bfloat16())
    made.quantize(states(), "int8", budget=1.0)
    assert made.network.blocks[0].mlp.fc1.weight.dtype == torch.int8
    assert made.step(states()).isfinite().all()


def test_patterns_for_the_network_alone_leave_the_diagnostics():
    made = model(diagnostics={"tp06": PrecipNet(small(in_chans=2, out_chans=1, depth=1))})
    made.quantize(states(), "int8", overrides={"blocks.1.*": "fp32", "head": "fp32"}, budget=1.0)
    assert made.scheme.layers["blocks.1.mlp"].precision == "fp32"
    found = made.diagnostics["tp06"].backbone.scheme.layers
    assert (found["head"].precision, found["blocks.0.mlp"].precision) == ("fp32", "int8")


def test_what_cannot_be_quantised_is_named():
    with pytest.raises(ValueError, match="network: expected an AFNONet, got Identity"):
        model(network=torch.nn.Identity()).quantize(states(), "int8")
    made = model()
    assert made.precision == "fp32"
    assert made.scheme is None
    made.quantize(states(), "bf16", budget=1.0)
    with pytest.raises(ValueError, match="network: it is in bf16 already; give one in fp32"):
        made.quantize(states(), "int8")


def test_a_float_file_is_read_by_earlier_versions_and_a_quantised_one_is_not(tmp_path):
    made = model()
    for version in (1, 3):
        made.save(tmp_path / "a.safetensors")
        with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
            assert json.loads(file.metadata()["wxkernels"])["format"] == version
        if version == 1:
            made.quantize(states(), "int8")


def _scheme(metadata, change):
    network = metadata["quantization"]["network"]
    return metadata | {"quantization": {"network": change(network)}}


def _layer(metadata, name, **changes):
    return _scheme(metadata, lambda n: n | {"layers": n["layers"] | {name: n["layers"][name] | changes}})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m, t: (m | {"format": 1}, t), "unexpected keys, first '.*scale'"),
        (lambda m, t: ({k: v for k, v in m.items() if k != "quantization"}, t), "damaged .*quantization"),
        (lambda m, t: (m | {"quantization": {}}, t), "unexpected keys, first '.*scale'"),
        (lambda m, t: (m | {"quantization": 3}, t), "its metadata is damaged"),
        (lambda m, t: (_scheme(m, lambda n: n | {"precision": "int3"}), t), "damaged .*got 'int3'"),
        (lambda m, t: (_scheme(m, lambda n: n | {"layers": {}}), t), "expected the layers of the network"),
        (
            lambda m, t: (_layer(m, "blocks.0.mlp", precision="bf16"), t),
            r"unexpected keys, first 'blocks\.0\.mlp\.\S*scale'",
        ),
        (
            lambda m, t: (_layer(m, "blocks.0.filter", precision="fp32"), t),
            r"'blocks\.0\.filter\.w1': expected torch\.float32 .*, got torch\.bfloat16",
        ),
        (lambda m, t: (_layer(m, "blocks.0.mlp", hidden_scale=None), t), "expected a hidden_scale"),
        (
            lambda m, t: (_layer(m, "blocks.0.mlp", hidden_offset=128), t),
            "hidden_offset: expected -127 to 127",
        ),
        (lambda m, t: (_layer(m, "pos_embed", precision="bf16"), t), "unexpected keys, first 'pos_scale'"),
        (
            lambda m, t: (m, t | {"blocks.1.mlp.fc2.weight": t["blocks.1.mlp.fc2.weight"].float()}),
            r"'blocks\.1\.mlp\.fc2\.weight': expected torch\.int8 of shape .*, got torch\.float32",
        ),
        (
            lambda m, t: (m, {k: v for k, v in t.items() if k != "blocks.1.mlp.hidden_scale"}),
            "1 keys of AFNONet are missing, first 'blocks.1.mlp.hidden_scale'",
        ),
        (
            lambda m, t: (m, t | {"blocks.1.mlp.fc1.weight_scale": torch.full((96,), torch.nan)}),
            "'blocks.1.mlp.fc1.weight_scale': expected finite scales above 0",
        ),
        (lambda m, t: (m, t | {"pos_scale": torch.zeros(32)}), "'pos_scale': expected finite scales above 0"),
        (lambda m, t: (m, t | {"pos_scale": torch.ones(31)}), r"'pos_scale': .* \(32,\), got .* \(31,\)"),
    ],
)
def test_a_damaged_file_gets_one_line(tmp_path, spoil, message):
    made, path = model(), tmp_path / "a.safetensors"
    made.quantize(states(), "int8", budget=1.0)
    made.save(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["wxkernels"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata, tensors = spoil(metadata, tensors)
    safetensors.torch.save_file(tensors, path, {"wxkernels": json.dumps(metadata)})
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_the_static_channels_do_not_count_as_change():
    """Calibration gets the orography; the error is relative to the change of the variables alone."""
    torch.manual_seed(0)
    network, static = small(in_chans=4), torch.randn(1, 16, 32)
    made, x = model(network=network, static=static), states()
    exact = made.step(x)
    scheme = made.quantize(x, "bf16", budget=1.0)
    d, change = made.step(x) - exact, exact - x
    common = (d[0] * d[1]).mean((1, 2)).clamp(min=0)
    squares = d.square().mean((0, 2, 3)) + 19 * common
    found = (squares / change.square().mean((0, 2, 3))).max().sqrt()
    np.testing.assert_allclose(scheme.error, found, rtol=0.05)
