"""wxkernels forecast, verify and statistics as a user runs them, on a tutorial folder made here."""

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from tests.cli.commands import TIMES, H, W, fine, run
from wxkernels.io.lexicon import FOURCASTNET_20
from wxkernels.models import AFNONet, PrecipNet


def test_a_tutorial_folder_is_all_it_needs(tutorial, tmp_path):
    out = tmp_path / "run.zarr"
    done = fine(
        "forecast", tutorial, "--steps", 3, "--members", 3, "-o", out, "--no-progress",
        "--scores", tmp_path / "s.json", "--plot", tmp_path / "s.png", "--maps", tmp_path / "m.png",
        "--netcdf", tmp_path / "run.nc",
    )  # fmt: skip
    assert "rmse" in done.output.lower()
    assert xr.open_zarr(out).attrs["perturbation"] == "Spherical(level=0.04, length_scale_km=700.0)"
    stored = xr.open_zarr(out)["forecast"]
    assert stored.dims == ("ensemble", "time", "lead_time", "variable", "lat", "lon")
    assert stored.shape == (3, 1, 4, 20, H, W)
    assert np.isfinite(stored.values).all()
    assert float(stored.std("ensemble").isel(lead_time=0).min()) > 0
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores
    for picture in ("s.png", "m.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(tmp_path / "run.nc", engine="h5netcdf") as converted:
        np.testing.assert_array_equal(converted["t2m"].values, stored.sel(variable="t2m").values)

    again = fine("verify", out, tutorial, "--climatology", tutorial, "--scores", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == scores
    assert "persistence" in again.output.lower()


def test_without_arguments_it_makes_the_shipped_forecast(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = fine("forecast", "--no-progress")
    for name in ("h", "u", "v"):
        assert f"{name}: RMSE beats persistence to 120 h, climatology to 120 h" in done.output
    names = {"forecast.zarr", "forecast-scores.csv", "forecast-scores.png", "forecast-maps.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    fine("forecast", "--no-progress", "--steps", 1)  # a second one takes another name
    assert xr.open_zarr(tmp_path / "forecast-2.zarr")["forecast"].sizes["lead_time"] == 2


def test_steps_are_captured_unless_told_otherwise(tutorial, tmp_path, tapes):
    """On the CPU by a stand-in."""
    command = "forecast", tutorial, "--steps", 2, "--members", 2, "--batch-size", 2, "--no-progress"
    fine(*command, "-o", tmp_path / "a.zarr", "--no-capture")
    assert not tapes
    fine(*command, "-o", tmp_path / "b.zarr")
    assert [tape.replays for tape in tapes] == [2]
    a, b = (xr.open_zarr(tmp_path / name)["forecast"].values for name in ("a.zarr", "b.zarr"))
    assert np.array_equal(a, b)


def test_one_member_is_unperturbed(tutorial, tmp_path):
    fine("forecast", tutorial, "--steps", 1, "--members", 1, "-o", tmp_path / "a.zarr", "--no-progress")
    start = xr.open_zarr(tmp_path / "a.zarr")["forecast"].isel(lead_time=0, time=0, ensemble=0)
    with h5py.File(tutorial / "data/FCN_ERA5_data_v0/out_of_sample/2018.h5") as file:
        truth = file["fields"][0, :20, :H]
    np.testing.assert_allclose(start.values, truth, rtol=1e-5, atol=1e-3)


def test_output_choices(tutorial, tmp_path):
    fine(
        "forecast", tutorial, "--steps", 2, "--members", 2, "-o", tmp_path / "a", "--no-progress",
        "--keep", "2t,z500", "--keep-leads", "0,12", "--region", "60,-20,30,30", "--maps", tmp_path / "m.png",
    )  # fmt: skip
    stored = xr.open_zarr(tmp_path / "a.zarr")["forecast"]
    assert list(stored["variable"].values) == ["t2m", "z500"]
    assert [int(h) for h in stored["lead_time"] / np.timedelta64(1, "h")] == [0, 12]
    assert stored["lat"].max() <= 60
    assert stored["lat"].min() >= 30
    fine("forecast", tutorial, "--steps", 1, "-o", tmp_path / "b", "--statistics-only", "--no-progress")
    assert list(xr.open_zarr(tmp_path / "b.zarr")["forecast"]["statistic"].values) == ["mean", "std"]


def test_statistics_of_the_data_can_replace_the_files(tutorial, tmp_path):
    names = ",".join(FOURCASTNET_20)
    done = fine(
        "statistics", tutorial, "-v", names, "-o", tmp_path / "st", "--climatology", tmp_path / "c.nc"
    )
    assert "t2m" in done.output
    fine(
        "forecast", tutorial, "--statistics", tmp_path / "st", "--climatology", tmp_path / "c.nc",
        "--steps", 1, "--members", 1, "-o", tmp_path / "a", "--no-progress",
    )  # fmt: skip


def test_the_last_date_of_statistics_is_taken_whole(tutorial, tmp_path):
    arguments = ("statistics", tutorial, "-v", "t2m", "-o", tmp_path / "st.nc")
    assert f"times: {TIMES}" in " ".join(fine(*arguments, "--end", "2018-01-01").output.split())
    assert "times: 2" in " ".join(fine(*arguments, "--end", "2018-01-01T06:00").output.split())
    done = run(*arguments, "--start", "2019")
    assert done.exit_code == 2
    assert "no time from 2019" in done.stderr


def test_info_names_every_backend():
    done = fine("info")
    for word in ("spectral_filter", "native", "triton", "reference", "torch"):
        assert word in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.h5", "-m", "nowhere.ckpt"], "nowhere.ckpt"),
        (["-m", "nowhere.ckpt"], "no initial state: give the file"),
        (["TUTORIAL", "--time", "yesterday"], "--time: 'yesterday' is no time"),
        (["TUTORIAL", "--time", "1999-01-01"], "has no time 1999-01-01T00:00"),
        (["TUTORIAL", "--batch-size", "many"], "--batch-size: expected auto"),
        (["TUTORIAL", "--region", "1,2"], "--region: expected north,west,south,east"),
        (["TUTORIAL", "--keep", "t2n"], "t2n"),
        (["TUTORIAL", "--keep-leads", "7"], "no lead time 7 h"),
        (["TUTORIAL", "--perturbation", "none"], "--perturbation: none makes all members alike"),
        (["TUTORIAL", "--backend", "magic"], "there is no backend 'magic'"),
        (["TUTORIAL", "--device", "abacus"], "abacus"),
        (["TUTORIAL", "--scores", "a.txt"], "a.txt: expected a name that ends with .csv or .json"),
        (["TUTORIAL", "--plot", "a.bmp"], "a.bmp: expected a name that ends with .png or .pdf or .svg"),
        (["TUTORIAL", "--plot", "nodir/a.png"], "cannot write nodir/a.png: no folder nodir"),
        (["TUTORIAL", "--netcdf", "nodir/a.nc"], "cannot write nodir/a.nc: no folder nodir"),
        (["TUTORIAL", "--maps", "a.png", "--map-variable", "zz"], "--map-variable: the forecast keeps no zz"),
        (
            ["TUTORIAL", "--maps", "a.png", "--map-lead", "7"],
            "--map-lead: the forecast keeps no lead time of 7",
        ),
        (["TUTORIAL", "--maps", "a.png", "--map-lead", "nan"], "--map-lead: expected hours, got nan"),
        (["TUTORIAL", "--keep", "t2m,2t"], "t2m"),
        (["TUTORIAL", "--keep-leads", "nan"], "--keep-leads: expected numbers"),
        (["TUTORIAL", "--level", "inf"], "--level: expected a finite number"),
        (["TUTORIAL", "--device", "mps"], "--device: 'mps' is none of ours"),
        (["TUTORIAL", "--resume"], "--resume: give the store"),
        (["TUTORIAL", "--statistics-only", "--maps", "m.png"], "--maps: draws the members"),
        (["TUTORIAL", "--truth", "nowhere.nc"], "nowhere.nc"),
        (
            ["TUTORIAL", "--threads", "100000"],
            "Invalid value for '--threads': 100000 is not in the range 1<=x<=",
        ),
        (["TUTORIAL", "--stps", "1"], "No such option"),
        (["a", "b"], "unexpected extra argument (b) (see wxkernels forecast --help)"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(tutorial, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run("forecast", *(tutorial if a == "TUTORIAL" else a for a in arguments), "--no-progress")
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_store_is_not_overwritten_unasked(tutorial, tmp_path):
    arguments = ("forecast", tutorial, "--steps", 1, "--members", 1, "-o", tmp_path / "a", "--no-progress")
    fine(*arguments)
    done = run(*arguments)
    assert done.exit_code == 2
    assert "--overwrite" in done.stderr
    fine(*arguments, "--overwrite")


def test_an_interrupted_run_goes_on_where_it_stopped(tutorial, tmp_path):
    command = [
        "forecast", tutorial, "--steps", "150", "--members", "2",
        "--no-progress", "--region", "60,0,40,20", "-o",
    ]  # fmt: skip
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    fine(*command, whole)

    def written():
        return sum(1 for _ in (broken / "forecast" / "c").rglob("0/0/0"))

    for how, options in ((signal.SIGINT, []), (signal.SIGKILL, ["--resume"])):
        process = subprocess.Popen(
            [sys.executable, "-m", "wxkernels.cli", *command, broken, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        before = written()
        while written() < before + 5:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(how)
        _, message = process.communicate()
        assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
        if how == signal.SIGINT:
            assert b"go on with: wxkernels forecast" in message
            assert b"--resume" in message
        assert run("verify", broken, tutorial).exit_code == 2  # it is not taken for a whole one
    fine(*command, broken, "--resume")
    a, b = (xr.open_zarr(path)["forecast"].values for path in (whole, broken))
    np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def precipitation(tutorial):
    torch.manual_seed(1)
    net = PrecipNet(AFNONet((H, W), (4, 4), in_chans=20, out_chans=1, embed_dim=16, depth=1, num_blocks=4))
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    path = tutorial / "model_weights/FCN_weights_v0/precip.ckpt"
    torch.save({"model_state": state}, path)
    return path


def test_precipitation_is_written_and_scored_where_there_is_truth(tutorial, precipitation, tmp_path):
    arguments = (tutorial, "--steps", 2, "--members", 2, "--precipitation", precipitation, "--no-progress")
    done = fine("forecast", *arguments, "-o", tmp_path / "a", "--scores", tmp_path / "a.json")
    assert "not scored, the truth lacks it: tp06" in done.output
    stored = xr.open_zarr(tmp_path / "a.zarr")["forecast"]
    assert list(stored["variable"].values) == [*FOURCASTNET_20, "tp06"]
    assert (stored.sel(variable="tp06") >= 0).all()
    assert str(precipitation) in xr.open_zarr(tmp_path / "a.zarr").attrs["checkpoint"]
    scores = json.loads((tmp_path / "a.json").read_text())
    assert list(scores["variables"]) == list(FOURCASTNET_20)
    fine("verify", tmp_path / "a.zarr", tutorial, "--climatology", tutorial, "--scores", tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == scores

    with h5py.File(tutorial / "data/FCN_ERA5_data_v0/out_of_sample/2018.h5") as file:
        fields = file["fields"][:, :, :H]
    rain = np.abs(np.random.default_rng(2).standard_normal((TIMES, 1, H, W))).astype(np.float32) * 1e-3
    truth = stored.isel(ensemble=0, time=0, lead_time=0, drop=True).drop_vars(
        ["units", "long_name", "standard_name"]
    )
    times = np.datetime64("2018-01-01", "ns") + np.arange(TIMES) * np.timedelta64(6, "h")
    values = np.concatenate([fields[:, :20], rain], 1)
    truth = truth.expand_dims(time=times).copy(data=values)
    truth.to_dataset("variable").to_netcdf(tmp_path / "truth.nc", engine="h5netcdf")
    done = fine(
        "forecast", *arguments, "-o", tmp_path / "b", "--truth", tmp_path / "truth.nc",
        "--scores", tmp_path / "c.json", "--maps", tmp_path / "m.png", "--map-variable", "tp06",
    )  # fmt: skip
    assert "not scored" not in done.output
    assert "tp06" in done.output
    assert "tp06" in json.loads((tmp_path / "c.json").read_text())["variables"]


def test_a_complete_run_is_not_run_again(tutorial, tmp_path, caplog):
    arguments = ("forecast", tutorial, "--steps", 2, "--members", 2, "-o", tmp_path / "a", "--no-progress")
    fine(*arguments, "--scores", tmp_path / "a.json")
    before = {p: p.read_bytes() for p in (tmp_path / "a.zarr").rglob("*") if p.is_file()}
    done = fine(*arguments, "--scores", tmp_path / "b.json", "--resume")
    assert caplog.messages == [f"{tmp_path / 'a.zarr'} is complete: nothing is run again"]
    assert "member-steps" not in done.output
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()
    assert {p: p.read_bytes() for p in (tmp_path / "a.zarr").rglob("*") if p.is_file()} == before
    for change, message in (("--seed=3", "seed is 0 there and 3 here"), ("--members=3", "ensemble differs")):
        refused = run(*arguments, change, "--resume")
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_a_complete_part_is_not_run_again(tutorial, tmp_path):
    arguments = ("forecast", tutorial, "--steps", 2, "--keep", "t2m", "-o", tmp_path / "a", "--no-progress")
    fine(*arguments)
    fine(*arguments, "--resume", "--netcdf", tmp_path / "a.nc")
    assert (tmp_path / "a.nc").exists()
