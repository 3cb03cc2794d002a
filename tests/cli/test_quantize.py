"""wxkernels quantize, and forecasts in another precision."""

import hashlib
import json

import h5py
import numpy as np
import pytest
import xarray as xr

from tests.cli.commands import TIMES, H, fine, run
from wxkernels.cli.commands import group
from wxkernels.forecast.case import RANDOM_SIZES
from wxkernels.models import load
from wxkernels.quantization import BUDGETS, PRECISIONS

CHECKPOINT = "model_weights/FCN_weights_v0/backbone.ckpt"


@pytest.fixture(scope="module")
def quantised(tutorial, tmp_path_factory):
    """An int8 checkpoint of the tutorial's network, and what the command printed."""
    path = tmp_path_factory.mktemp("quantised") / "fcn.safetensors"
    done = fine("quantize", tutorial, "-o", path, "--states", 3, "--budget", 0.5, "--keep", "head=fp32")
    return path, done.output


def test_the_file_forecasts_without_the_original(quantised, tutorial, tmp_path):
    path, _ = quantised
    data = tutorial / "data/FCN_ERA5_data_v0/out_of_sample/2018.h5"
    arguments = ("--steps", 1, "--members", 2, "--no-progress")
    done = fine("forecast", data, "-m", path, *arguments, "-o", tmp_path / "a.zarr")
    assert "of it the model in int8" in done.output
    assert "calibrating" not in done.output
    attrs = xr.open_zarr(tmp_path / "a.zarr").attrs
    assert attrs["precision"] == "int8"
    assert attrs["scheme"] == load(path).scheme.to_dict()
    fine("forecast", data, "-m", path, *arguments, "-o", tmp_path / "b.zarr", "--precision", "int8")
    a, b = (xr.open_zarr(tmp_path / name)["forecast"].values for name in ("a.zarr", "b.zarr"))
    np.testing.assert_array_equal(a, b)
    for other in ("fp32", "bf16"):
        refused = run("forecast", data, "-m", path, "--precision", other, "-o", tmp_path / "c.zarr")
        assert refused.exit_code == 2
        assert f"fcn.safetensors: is in int8, not {other}; leave --precision away" in refused.stderr
    assert not (tmp_path / "c.zarr").exists()


def test_the_table_has_every_layer_and_the_sum(quantised):
    path, output = quantised
    scheme = load(path).scheme
    for name, layer in scheme.layers.items():
        row = next(line for line in output.splitlines() if f" {name} " in line)
        assert layer.precision in row
        assert f"{layer.size_after / 1e6:.3g}" in row
    assert f"{scheme.size_before / 1e6:.1f} MB -> {scheme.size_after / 1e6:.1f} MB" in output
    assert f"{scheme.saved:.0%} less; kept in fp32: head" in output
    assert f"error {scheme.error:.2%} of the change (budget 50.00%, states: 3)" in output
    assert f"written: {path}" in output
    assert scheme.layers["head"].precision == "fp32"
    assert scheme.layers["blocks.0.mlp"].precision == "int8"


def test_the_file_knows_what_it_was_calibrated_on(quantised, tutorial):
    calibration = load(quantised[0]).scheme.calibration
    times = np.linspace(0, TIMES - 1, 3).round().astype(int)
    checkpoint = tutorial / CHECKPOINT
    assert calibration["states"] == 3
    assert calibration["times"] == [f"2018-01-{1 + i // 4:02d}T{6 * (i % 4):02d}:00" for i in times]
    assert calibration["data"] == str(tutorial)
    assert calibration["checkpoint"] == str(checkpoint)
    assert calibration["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    model = load(quantised[0])
    with h5py.File(tutorial / "data/FCN_ERA5_data_v0/out_of_sample/2018.h5") as file:
        fields = file["fields"][:][times][:, :20, :H]
    mean, std = (s.numpy()[:, None, None] for s in (model.mean, model.std))
    digest = hashlib.sha256(np.ascontiguousarray((fields - mean) / std).data).hexdigest()
    assert calibration["sha256"] == digest


def test_without_arguments_it_is_the_shipped_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "shallow_water-int8.safetensors"
    fine("quantize", "--states", 1)
    scheme = load(path).scheme
    assert scheme.error <= scheme.budget == BUDGETS["int8"]
    fine("quantize", "--states", 1, "--precision", "bf16")
    assert load(tmp_path / "shallow_water-bf16.safetensors").precision == "bf16"
    refused = run("quantize")
    assert refused.exit_code == 2
    assert "shallow_water-int8.safetensors exists; choose another path, or replace it with" in refused.stderr
    sizes = []
    for budget in (1e-6, 0.04, 0.2):
        fine("quantize", "--states", 1, "--overwrite", "--budget", budget)
        found = load(path).scheme
        assert found.error <= budget
        sizes.append(found.size_after)
    assert sizes[0] == found.size_before > sizes[1] > sizes[2]
    assert found.layers["blocks.3.mlp"].precision == "int8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["TUTORIAL", "--keep", "blocks.9.*=bf16"], "'blocks.9.*' fits none of the layers patch_embed,"),
        (["TUTORIAL", "--keep", "head"], "--keep: expected PATTERN=fp32, =bf16, =int8 or =fp8, got 'head'"),
        (["TUTORIAL", "--keep", "head=int4"], "--keep: expected PATTERN=fp32"),
        (
            ["TUTORIAL", "-o", "nowhere/a.safetensors"],
            "cannot write nowhere/a.safetensors: no folder nowhere; make it",
        ),
        (["TUTORIAL", "-o", "/"], "cannot write /: it is a folder"),
        (["nowhere.h5", "-m", "nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["-m", "nowhere.ckpt"], "no initial state: give the file that holds it"),
        (["TUTORIAL", "--random-weights", "small"], "--random-weights: takes no data; leave SOURCE away"),
        (["TUTORIAL", "--device", "abacus"], "abacus"),
        (["TUTORIAL", "--backend", "magic"], "there is no backend 'magic'"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(tutorial, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run("quantize", *(tutorial if a == "TUTORIAL" else a for a in arguments))
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_quantised_checkpoint_is_not_quantised_again(quantised, tutorial, tmp_path):
    data = tutorial / "data/FCN_ERA5_data_v0/out_of_sample/2018.h5"
    done = run("quantize", data, "-m", quantised[0], "-o", tmp_path / "a.safetensors")
    assert done.exit_code == 2
    assert "cannot be quantised: network: it is in int8 already; give one in fp32" in done.stderr


def test_a_forecast_in_another_precision_says_so(tutorial, tmp_path):
    arguments = (
        "forecast",
        tutorial,
        "--steps",
        2,
        "--members",
        2,
        "--no-progress",
        "-o",
        tmp_path / "a.zarr",
    )
    done = fine(*arguments, "--precision", "bf16")
    assert "calibrating bf16 on the initial state" in done.output
    assert "layers in bf16" in done.output
    assert "of it the model in bf16" in done.output
    attrs = xr.open_zarr(tmp_path / "a.zarr").attrs
    assert attrs["precision"] == "bf16"
    assert attrs["scheme"]["calibration"]["times"] == ["2018-01-01T00:00"]
    assert {layer["precision"] for layer in attrs["scheme"]["layers"].values()} <= {"fp32", "bf16"}
    for other in ([], ["--precision", "int8"]):
        refused = run(*arguments, *other, "--resume")
        assert refused.exit_code == 2
        assert "of another run (precision is 'bf16' there and '" in refused.stderr
    again = fine(*arguments, "--precision", "bf16", "--resume")
    assert "member-steps" not in again.output
    fine("forecast", tutorial, "--steps", 1, "--members", 1, "--no-progress", "-o", tmp_path / "b.zarr")
    attrs = xr.open_zarr(tmp_path / "b.zarr").attrs
    assert (attrs["precision"], attrs["scheme"]) == ("fp32", None)


def test_random_weights_measure_time_and_are_no_forecast(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("forecast", "--random-weights", "small", "--steps", 2, "--members", 1, "--no-progress")
    done = fine(*arguments, "--precision", "int8", "--netcdf", "a.nc")
    assert "this measures time, it is no forecast" in done.output
    assert "2 member-steps in " in done.output
    assert "s a member-step, " in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"forecast.zarr", "a.nc"}
    found = xr.open_zarr("forecast.zarr")
    assert found.attrs["title"] == "random weights: no forecast"
    assert found.attrs["precision"] == "int8"
    assert np.isfinite(found["forecast"].values).all()
    fine(*arguments, "-o", "b.zarr")
    fine(*arguments, "-o", "c.zarr")
    a, b = (xr.open_zarr(name)["forecast"].values for name in ("b.zarr", "c.zarr"))
    np.testing.assert_array_equal(a, b)
    done = fine(*arguments, "-o", "e.zarr", "--precision", "fp8", "--device", "cpu")
    assert "fp8 has no kernel that is proven on cpu: PyTorch computes it, correct and slow" in done.output
    fine(*arguments, "-o", "d.zarr", "--seed", 1)
    assert not np.array_equal(xr.open_zarr("d.zarr")["forecast"].values, a)
    refused = run(*arguments, "--truth", "x.nc", "-m", "y.ckpt")
    assert "--random-weights: takes no data; leave --model, --truth away" in refused.stderr
    fine("quantize", "--random-weights", "small")
    assert load("small-int8.safetensors").scheme.saved > 0.5


def test_the_choices_are_those_that_there_are():
    """Written out in the commands, so that `wxkernels --help` need not import the rooms."""
    for command in ("forecast", "quantize"):
        choices = {o.name: getattr(o.type, "choices", None) for o in group.commands[command].params}
        assert set(choices["random_weights"]) == set(RANDOM_SIZES)
        assert set(choices["precision"]) == set(PRECISIONS) - ({"fp32"} if command == "quantize" else set())


def test_the_scheme_goes_to_netcdf_as_text(tutorial, tmp_path):
    fine(
        "forecast", tutorial, "--steps", 1, "--members", 1, "--no-progress", "-o", tmp_path / "a.zarr",
        "--precision", "int8", "--netcdf", tmp_path / "a.nc",
    )  # fmt: skip
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as stored:
        assert json.loads(stored.attrs["scheme"])["precision"] == stored.attrs["precision"] == "int8"
