"""wxkernels verify --compare as a user runs it, on a tutorial folder made here."""

import json

import numpy as np
import pytest

from tests.cli.commands import fine, run
from wxkernels.forecast.case import load_case
from wxkernels.forecast.compare import calibration_times, initial_times

QUICK = ("--steps", 2, "--members", 2, "--no-progress")


def test_a_tutorial_folder_in_three_precisions(tutorial, tmp_path):
    done = fine(
        "verify", "--compare", "fp32,bf16,int8", tutorial, *QUICK,
        "--scores", tmp_path / "s.json", "--plot", tmp_path / "s.png",
    )  # fmt: skip
    assert "calibrated on 1 of the states, none of them scored: " in done.output
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert len(rows) == 3 * 3 * 20
    for row in rows:
        twin = row["difference"]
        assert twin == 0 if row["precision"] == "fp32" or row["lead_time_hours"] == 0 else twin > 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_the_scores_in_fp32_are_those_of_the_forecast(tutorial, tmp_path):
    fine("forecast", tutorial, *QUICK, "-o", tmp_path / "f.zarr", "--scores", tmp_path / "f.json")
    fine("verify", "--compare", "fp32,bf16", tutorial, *QUICK, "--scores", tmp_path / "c.json")
    forecast = json.loads((tmp_path / "f.json").read_text())["scores"]["rmse"]["values"]["t2m"]
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    ours = [r["rmse"] for r in rows if r["precision"] == "fp32" and r["variable"] == "t2m"]
    np.testing.assert_allclose(ours, forecast, rtol=1e-6)


def test_steps_beyond_the_truth_have_differences_alone(tutorial, tmp_path):
    steps = ("--steps", 6, "--members", 2, "--no-progress")
    done = fine("verify", "--compare", "fp32,int8", tutorial, *steps, "--scores", tmp_path / "s.json")
    assert "the initial ones: the data has no others" in done.output
    last = [r for r in json.loads((tmp_path / "s.json").read_text())["rows"] if r["lead_time_hours"] == 36]
    assert all(row["rmse"] is None and row["spread"] > 0 for row in last)


def test_initial_times_and_calibration_of_the_shipped_cases():
    case = load_case()
    assert list(initial_times(case, 1, 20)) == [case.initial_time]
    starts = initial_times(case, 5, 20)
    assert len(set(starts)) == 5
    known = case.truth["time"].values
    for start in starts:
        assert np.isin(start + np.arange(21) * case.model.time_step, known).all()
    times = calibration_times(case, starts, 20, 4)
    assert len(set(times)) == 4
    for start in starts:
        assert not ((times >= start) & (times <= start + 20 * case.model.time_step)).any()
    everything = initial_times(case, 36, 20)  # every time that has truth for 20 steps
    assert set(calibration_times(case, everything, 20, 4)) <= set(everything)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compare", "fp32"), "expected two or more of fp32,bf16,int8,fp8, got 'fp32'"),
        (("--compare", "fp32,fp16"), "got 'fp32,fp16'"),
        (("--compare", "fp32,bf16", "a.zarr", "b.nc"), "leave away b.nc"),
        (("--compare", "fp32,bf16", "--allow-partial"), "leave away --allow-partial"),
        (("--compare", "fp32,bf16", "--maps", "m.png"), "--maps: --compare draws no maps"),
        (
            ("--compare", "fp32,bf16", "--starts", "40"),
            "--starts: 40 initial times, but 36 from 2001-01-01T00:00",
        ),
        (("a.zarr", "b.nc", "--members", "3"), "--members: is for --compare"),
        (("a.zarr",), "give the FORECAST and the TRUTH, or --compare fp32,bf16,int8"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, message):
    done = run("verify", *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1


def test_a_quantised_checkpoint_has_no_fp32_to_compare_with(tmp_path):
    small = tmp_path / "m.safetensors"
    fine("quantize", "--precision", "bf16", "--states", 1, "-o", small)
    from wxkernels import data

    done = run("verify", "--compare", "fp32,bf16", data.default_cases_path(), "-m", small)
    assert done.exit_code == 2
    assert "is in bf16 already; give the checkpoint it was made from" in done.output
