"""wxkernels-bench as a user runs it."""

import csv
import json

import pytest
from click.testing import CliRunner

from tests import hosts
from wxkernels.cli.bench import main

QUICK = ["spectral_filter", "--shape", "6x10x8x2", "--rounds", "2", "--backend", "eager"]


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_table_json_and_csv_agree(tmp_path):
    done = run(
        *QUICK, "--batch", 2, "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv", "--reproduce"
    )
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "a.json").read_text())
    assert {"device", "torch", "threads", "commit"} <= set(stored["conditions"])
    assert {r["shape"] for r in stored["rows"]} == {"2x6x10x8"}
    with (tmp_path / "a.csv").open() as file:
        assert [r["backend"] for r in csv.DictReader(file)] == [r["backend"] for r in stored["rows"]]
    for row in stored["rows"]:
        assert row["command"] in done.output.replace("\n", "")


def test_list_names_what_cannot_run_and_why():
    done = run("--list")
    assert done.exit_code == 0
    assert "spectral_filter" in done.output
    assert "triton: no, " in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no case 'nothing'; choose one of"),
        (["--shape", "3x4"], "--shape: '3x4' is neither"),
        (["--shape", "6x10x9x2"], "shape: 9 channels do not divide into 2 blocks"),
        (["--dtype", "int8"], "--dtype: spectral_filter takes"),
        (["--backend", "magic"], "--backend: there is no 'magic'"),
        (["--backend", "triton"], "--backend: triton cannot run here"),
        (["--device", "abacus"], "--device: 'abacus' is none of ours"),
    ],
)
def test_bad_input_gets_one_line(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {message}"), done.output
    assert done.output.count("\n") == 1


def test_the_patched_network_is_held_to_the_published_one(tmp_path):
    hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    done = run(
        "fourcastnet", "--shape", "32x64x3x8x16x1", "--rounds", 1, "--backend", "patched",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = {r["backend"]: r for r in json.loads((tmp_path / "a.json").read_text())["rows"]}
    assert {"eager", "patched"} <= set(rows)
    assert rows["patched"]["error"] <= 2 * rows["eager"]["error"] + 1e-7
