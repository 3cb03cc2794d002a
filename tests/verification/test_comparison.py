"""Differences between precisions against numbers worked out in numpy."""

import csv
import io
import json

import numpy as np
import pytest
import torch
import xarray as xr
from rich.console import Console

from wxkernels.verification import latitude_weights, plot_comparison, print_comparison
from wxkernels.verification.comparison import Twins, bounds, compared, to_table_file, worst

LEADS = np.arange(3) * np.timedelta64(6, "h").astype("timedelta64[ns]")
LAT = np.array([75.0, 45.0, 15.0, -15.0, -45.0])
VARIABLES = ("z500", "t2m")


def fields(seed: int, members: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(5, 2, (members, 2, 5, 7)))


def dataset(
    names=("fp32", "bf16", "int8"), rmse=((0, 10, 20), (0, 10.005, 20.05), (0, 10.04, 19.9))
) -> xr.Dataset:
    """Scores of t2m alone at three leads; CRPS half of RMSE, ACC 0.9 less RMSE / 100."""
    found = {}
    for number, (name, values) in enumerate(zip(names, rmse, strict=False)):
        column = np.array(values, dtype=float)[:, None]
        data = {"rmse": column, "crps": column / 2, "acc": 0.9 - column / 100, "spread": column + 1}
        data |= {"difference": column * 0 + 0.1 * number, "drift": column * 0 - 0.01 * number}
        coords = {"lead_time": LEADS, "variable": ["t2m"]}
        found[name] = xr.Dataset({k: (("lead_time", "variable"), v) for k, v in data.items()}, coords)
    return compared(found)


def test_twins_are_what_numpy_makes_of_them():
    twins = Twins(LEADS, VARIABLES, LAT, "weatherbench2")
    pairs = [(fields(0), fields(1)), (fields(2), fields(3))]  # two initial times
    for x, r in pairs:
        twins.update(1, x, r)
    found = twins.result()
    weights = np.broadcast_to(latitude_weights(LAT)[:, None], (5, 7))

    def area(a):
        return np.average(a, axis=(-2, -1), weights=weights)

    x, r = (np.stack([p[i].numpy() for p in pairs]) for i in (0, 1))
    np.testing.assert_allclose(found["spread"][1], np.sqrt(area(x.var(1, ddof=1)).mean(0)))
    np.testing.assert_allclose(found["difference"][1], np.sqrt(area(((x - r) ** 2).mean(1)).mean(0)))
    np.testing.assert_allclose(found["drift"][1], area((x - r).mean(1)).mean(0))
    assert found.isel(lead_time=[0, 2]).isnull().all().to_array().all()


def test_a_broken_member_counts_in_neither_ensemble():
    x, r = fields(0), fields(1)
    whole = Twins(LEADS, VARIABLES, LAT, "weatherbench2")
    whole.update(0, x[1:], r[1:])
    broken = Twins(LEADS, VARIABLES, LAT, "weatherbench2")
    r = r.clone()
    r[0, :, 2, 2] = torch.nan
    broken.update(0, x, r)
    xr.testing.assert_identical(broken.result(), whole.result())


def test_one_member_has_a_difference_but_no_spread():
    twins = Twins(LEADS, VARIABLES, LAT, "weatherbench2")
    twins.update(0, fields(0, 1), fields(1, 1))
    found = twins.result().isel(lead_time=0)
    assert found["spread"].isnull().all()
    assert (found["difference"] > 0).all()


def test_changes_are_against_the_first():
    found = dataset().sel(variable="t2m")
    np.testing.assert_allclose(found["rmse_change"].sel(precision="bf16"), [0, 0.0005, 0.0025])
    np.testing.assert_allclose(found["crps_change"].sel(precision="int8"), [0, 0.004, -0.005])
    np.testing.assert_allclose(found["acc_change"].sel(precision="int8"), [0, -0.0004, 0.001], atol=1e-12)
    assert (found["rmse_change"].sel(precision="fp32") == 0).all()


def test_the_worst_is_found_and_held_against_its_bound():
    found = dataset()
    assert worst(found, "int8", "rmse") == (pytest.approx(0.004), "t2m", LEADS[1])
    assert worst(found, "int8", "acc") == (pytest.approx(-0.0004), "t2m", LEADS[1])
    assert worst(found, "bf16", "rmse") == (pytest.approx(0.0025), "t2m", LEADS[2])
    assert np.isnan(worst(found.assign(rmse_change=found["rmse_change"] * np.nan), "bf16", "rmse")[0])
    assert bounds(found, "int8") == {"rmse": 0.005, "crps": 0.005, "acc": 0.002}
    assert bounds(dataset(("bf16", "int8")), "int8") == {}


def printed(data: xr.Dataset) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_comparison(data, console)
    return console.file.getvalue()


def test_the_table_fits_and_says_what_is_broken():
    text = printed(dataset())
    table = text.split("bf16, the worst")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in text
    assert "20.05" in table
    assert "+0.25" in table
    assert "RMSE +0.25 % (t2m, 12 h; bound +0.10 %: BROKEN)" in text
    assert "RMSE +0.40 % (t2m, 6 h; bound +0.50 %: kept)" in text


def test_without_truth_there_are_differences_and_spreads():
    text = printed(dataset().drop_vars([f"{s}{c}" for s in ("rmse", "crps", "acc") for c in ("", "_change")]))
    assert "RMSE" not in text
    assert "difference" in text
    assert "drift" in text
    assert "no truth given: no scores" in text


def test_files_hold_a_row_for_each_precision_lead_and_variable(tmp_path):
    data = dataset(rmse=((0, 10, np.nan), (0, 10.005, np.nan), (0, 10.04, np.nan)))
    to_table_file(data, tmp_path / "s.csv")
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert len(rows) == 3 * 3
    row = next(r for r in rows if r["precision"] == "int8" and float(r["lead_time_hours"]) == 6)
    assert float(row["rmse_change"]) == pytest.approx(0.004)
    to_table_file(data, tmp_path / "s.json")
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["columns"]["rmse"]["long_name"] == "error of the ensemble mean"
    assert [r["rmse"] for r in document["rows"] if r["lead_time_hours"] == 12] == [None] * 3


@pytest.mark.parametrize("truth", [True, False])
def test_the_picture_has_its_panels(tmp_path, truth):
    pytest.importorskip("matplotlib")
    data = dataset()
    if not truth:
        data = data.drop_vars([f"{s}{c}" for s in ("rmse", "crps", "acc") for c in ("", "_change")])
    plot_comparison(data, tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert text.count('id="axes_') == (6 if truth else 3)


def test_scores_are_drawn_as_far_as_truth_goes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, path, **k: (figures.append(figure), open(path, "w").close())
    )
    plot_comparison(
        dataset(rmse=((0, 10, np.nan), (0, 10.005, np.nan), (0, 10.04, np.nan))), tmp_path / "c.svg"
    )
    ends = {ax.get_ylabel(): ax.get_xlim()[1] for ax in figures[0].axes}
    assert ends["change of RMSE (%)"] == ends["change of CRPS (%)"] == ends["change of ACC"] == 6
    assert ends["change of the area mean / spread (%)"] == 12
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels[-3:] == ["bound of bf16", "bound of int8", "spread of fp32"]
