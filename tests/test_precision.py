"""The skill in bf16 and int8: the bounds on the shipped forecast, and 100 steps."""

import pandas as pd
from click.testing import CliRunner

from wxkernels.cli.commands import group

#: How much worse than fp32: RMSE and CRPS relative, ACC absolute. Beside BOUNDS of the package on purpose.
RELATIVE, ACC = {"bf16": 0.001, "int8": 0.005}, {"bf16": 0.001, "int8": 0.002}


def compared(tmp_path, *options):
    """The shipped forecast in each precision: what was printed, and the scores after lead 0."""
    path = tmp_path / "scores.csv"
    arguments = ["verify", "--threads", "1", "--scores", str(path), "--no-progress", *options]
    result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(path)
    return result.output, table[table["lead_time_hours"] > 0]


def within_bounds(scores: pd.DataFrame, precision: str) -> None:
    change = scores[scores["precision"] == precision]
    assert (change["rmse_change"] <= RELATIVE[precision]).all(), change["rmse_change"].max()
    assert (change["crps_change"] <= RELATIVE[precision]).all(), change["crps_change"].max()
    assert (change["acc_change"] >= -ACC[precision]).all(), change["acc_change"].min()
    assert (
        change[["rmse_change", "crps_change", "acc_change"]].abs().max().min() > 0
    )  # it is another precision


def test_the_shipped_forecast_keeps_its_skill(tmp_path):
    """Every variable at every lead of five days; some layer is in int8, and calibrated on other states."""
    printed, scores = compared(tmp_path, "--compare", "fp32,bf16,int8")
    assert "in int8; error" in printed
    assert "calibrated on 4 of the states, none of them scored" in printed
    assert "BROKEN" not in printed
    assert len(scores) == 3 * 20 * 3
    for precision in ("bf16", "int8"):
        within_bounds(scores, precision)


def test_an_error_does_not_run_away_in_100_steps(tmp_path):
    """Members stay closer to their twins than to each other, with the same spread and the same area mean.

    Spreads are compared over a quarter of the leads: those of four members wander.
    """
    options = ("--compare", "fp32,int8", "--steps", "100", "--members", "4")
    _, scores = compared(tmp_path, *options)
    fp32, int8 = (scores[scores["precision"] == name].reset_index() for name in ("fp32", "int8"))
    spread = fp32["spread"]
    assert len(spread) == 100 * 3
    assert (fp32["difference"] == 0).all()
    assert int8["difference"].gt(0).all()
    assert (int8["difference"] < 0.8 * spread).all(), (int8["difference"] / spread).max()
    assert (int8["drift"].abs() < 0.05 * spread).all(), (int8["drift"] / spread).abs().max()
    quarter = (fp32["lead_time_hours"] - 1) // 150
    means = [table["spread"].groupby([table["variable"], quarter]).mean() for table in (int8, fp32)]
    assert (means[0] / means[1]).between(0.95, 1.05).all(), means[0] / means[1]
