"""Tables and files of scores, and the lead time to which a forecast is better."""

import csv
import io
import json

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from wxkernels.errors import UserError
from wxkernels.verification import print_table, skill_lead, to_csv, to_json

HOURS = np.arange(0, 246, 6)


@pytest.fixture
def dataset(make_fields, score_steps) -> xr.Dataset:
    """Scores of three members over ten days, of which 48 h has no truth."""
    rng = np.random.default_rng(0)
    truth = make_fields(rng.standard_normal((len(HOURS), 2, 5, 8)).astype(np.float32).cumsum(0))
    noise = rng.standard_normal((len(HOURS), 3, 2, 5, 8)).astype(np.float32) * 0.1
    members = truth.values[:, None] + noise.cumsum(0)
    return score_steps(truth.isel(time=HOURS != 48), members, climatology=0 * truth[0])


def printed(dataset: xr.Dataset, **options) -> str:
    console = Console(width=100, file=io.StringIO())
    print_table(dataset, console, **options)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("ours", "reference", "expected"),
    [
        ([9, 1, 1, 1, 1], [0, 2, 2, 2, 2], 24),  # step 0, where persistence is perfect, does not count
        ([9, 1, 1, 3, 1], [0, 2, 2, 2, 2], 12),  # better again later is an interruption
        ([9, 1, 2, 1, 1], [0, 2, 2, 2, 2], 6),  # as good is not better
        ([9, 3, 1, 1, 1], [0, 2, 2, 2, 2], None),
        ([9, 1, np.nan, 1, 3], [0, 2, 2, 2, 2], 18),  # no truth at 12 h says nothing
        ([9, 1, 1, np.nan, np.nan], [0, 2, 2, 2, 2], 12),
    ],
)
@pytest.mark.parametrize(("score", "name"), [("rmse", "persistence_rmse"), ("crps", "persistence_mae")])
def test_skill_lead(ours, reference, expected, score, name):
    leads = np.arange(5) * np.timedelta64(6, "h").astype("timedelta64[ns]")
    data = {score: ours, name: reference}
    dataset = xr.Dataset(
        {key: (("lead_time", "variable"), np.array(values, float)[:, None]) for key, values in data.items()},
        {"lead_time": leads, "variable": ["z500"]},
    )
    lead = skill_lead(dataset, against="persistence", score=score).sel(variable="z500").values
    assert np.isnat(lead) if expected is None else lead == np.timedelta64(expected, "h")


def test_skill_lead_refuses_other_references(dataset):
    with pytest.raises(UserError, match="got luck, rmse"):
        skill_lead(dataset, against="luck")


def test_table_fits_and_shows_the_numbers(dataset):
    text = printed(dataset)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "Scores of 3 members from 2018-01-01T00:00 (weatherbench2 weights)" in text
    rows = [line.split() for line in text.splitlines() if " h " in line and "beats" not in line]
    assert len(rows) == 20  # ten leads of two variables
    last = dataset.sel(variable="z500").isel(lead_time=-1)
    row = next(row for row in rows if row[0] == "240")
    for shown, name in zip(row[2:], ["rmse", "persistence_rmse", "climatology_rmse", "acc"], strict=False):
        assert float(shown) == pytest.approx(float(last[name]), abs=0.006)
    lead = skill_lead(dataset, against="persistence").sel(variable="t2m").values / np.timedelta64(1, "h")
    assert f"t2m: RMSE beats persistence to {lead:g} h, " in text
    assert "no truth at 2018-01-03T00:00: not scored" in text
    dataset.attrs["missing_truth"] = "2018-01-03T00:00, 2018-01-03T06:00, 2018-01-04T00:00"
    assert "no truth at 3 times, 2018-01-03T00:00 to 2018-01-04T00:00: not scored" in printed(dataset)


def test_table_says_what_is_undefined(make_fields, score_steps):
    truth = make_fields(np.random.default_rng(0).standard_normal((2, 2, 5, 8)).astype(np.float32))
    text = printed(score_steps(truth, truth.values[:, None] + 9), variables=["t2m"])
    assert "one member: CRPS is the mean absolute error, spread is undefined" in text
    assert "no climatology given: ACC is undefined" in text
    assert "t2m: RMSE beats not persistence (last lead 6 h)" in text
    assert "1 more variables have scores" in text
    for heading in ("ACC", "climat.", "spread/"):
        assert heading not in text.split("t2m: RMSE")[0]


def test_table_counts_members_that_stopped(make_fields, score_steps):
    truth = make_fields(np.random.default_rng(0).standard_normal((2, 2, 5, 8)).astype(np.float32))
    members = np.repeat(truth.values[:, None], 4, 1)
    members[1, :2] = np.inf
    assert "up to 2 members are left out: their values are not finite" in printed(score_steps(truth, members))


def test_csv_holds_every_score(dataset, tmp_path):
    to_csv(dataset, tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == dataset.sizes["lead_time"] * 2
    for row in rows:
        hours = np.timedelta64(int(row["lead_time_hours"]), "h").astype("timedelta64[ns]")
        at = dataset.sel(lead_time=hours, variable=row["variable"])
        assert row["units"] == at["units"]
        for name in set(dataset.data_vars) - {"rank_histogram"}:
            value = float(row[name]) if row[name] else np.nan
            np.testing.assert_allclose(value, at[name], rtol=1e-9, err_msg=name)


def test_json_holds_everything_without_nan(dataset, tmp_path):
    to_json(dataset, tmp_path / "scores.json")
    text = (tmp_path / "scores.json").read_text()
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["area_weights"] == "weatherbench2"
    assert document["lead_time_hours"] == HOURS.tolist()
    assert document["variables"]["t2m"] == {"long_name": "2 metre temperature", "units": "K"}
    for name, array in dataset.data_vars.items():
        values = document["scores"][name]["values"]
        for variable in ("z500", "t2m") if "variable" in array.dims else ():
            expected = array.sel(variable=variable).values
            np.testing.assert_array_equal(np.array(values[variable], float), expected)
    assert document["scores"]["rmse"]["values"]["t2m"][8] is None
    assert document["scores"]["times"]["values"][8] == 0
    lead = skill_lead(dataset, against="climatology").sel(variable="t2m").values / np.timedelta64(1, "h")
    assert document["beats_to_hours"]["climatology"]["t2m"] == lead


@pytest.mark.parametrize("write", [to_csv, to_json])
def test_files_are_replaced_whole(dataset, tmp_path, write, monkeypatch):
    path = tmp_path / "scores"
    path.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left on device") as caught:
        write(dataset, path)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["scores"]
    write(dataset, path)
    assert path.read_text() != "before"
    with pytest.raises(UserError, match=r"cannot write .*absent/scores: no folder .*absent; make it"):
        write(dataset, tmp_path / "absent" / "scores")
