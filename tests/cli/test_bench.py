"""wxkernels-bench as a user runs it."""

import csv
import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner

from tests import hosts
from wxkernels.bench import memory
from wxkernels.bench.cases import CASES, fourcastnet
from wxkernels.bench.machine import Ceilings
from wxkernels.cli import bench
from wxkernels.cli.bench import main

TINY = "32x64x3x8x16x1"
QUICK = ["spectral_filter", "--shape", "6x10x8x2", "--rounds", "2", "--backend", "eager"]


@pytest.fixture
def known_peaks(monkeypatch):
    """Spare the time to measure the machine, and the compilation that stands with every row."""
    peaks = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16, torch.int8), 1e11)
    monkeypatch.setattr(bench, "measure_ceilings", lambda device: Ceilings("a machine", peaks, 1e10))
    quick = dataclasses.replace(fourcastnet.CASE, baselines=("eager",))
    monkeypatch.setitem(CASES, "fourcastnet", quick)


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


@pytest.mark.usefixtures("known_peaks")
def test_a_model_names_all_its_layers(tmp_path):
    done = run(
        "linear_int8", "--shape", "shallow-water", "--rounds", 1, "--backend", "int_mm",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [r["shape"] for r in rows] == ["512x128x512", "512x512x128"]


def test_list_names_what_cannot_run_and_why():
    done = run("--list")
    assert done.exit_code == 0
    assert "spectral_filter" in done.output
    assert "triton: no, " in done.output


@pytest.mark.usefixtures("known_peaks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no case 'nothing'; choose one of"),
        (["--shape", "3x4"], "--shape: '3x4' is neither"),
        (["spectral_filter", "--shape", "6x10x9x2"], "shape: 9 channels do not divide into 2 blocks"),
        (["fourcastnet", "--shape", "30x64x3x8x16x1"], "shape: 30 x 64 is not whole patches of 8"),
        (["--dtype", "int8"], "--dtype: spectral_filter takes"),
        (["--backend", "magic"], "--backend: there is no 'magic'"),
        (["--backend", "triton"], "--backend: triton cannot run here"),
        (["--device", "abacus"], "--device: 'abacus' is none of ours"),
        (["mlp", "--profile"], "--profile: mlp has none; fourcastnet has"),
        (["mlp", "--memory"], "--memory: mlp has none; fourcastnet has"),
        (["fourcastnet", "--profile", "--backend", "compiled"], "--profile: compiled has no parts; choose"),
        (["fourcastnet", "--plot", "a.png"], "--plot draws what --profile measures"),
        (["fourcastnet", "--profile", "--plot", "a.png", "--batch", "1", "--batch", "2"], "--plot draws one"),
    ],
)
def test_bad_input_gets_one_line(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {message}"), done.output
    assert done.output.count("\n") == 1


@pytest.mark.usefixtures("known_peaks")
def test_the_patched_network_is_held_to_the_published_one(tmp_path):
    hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    done = run(
        "fourcastnet", "--shape", TINY, "--rounds", 1, "--backend", "patched-int8",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = {r["backend"]: r for r in json.loads((tmp_path / "a.json").read_text())["rows"]}
    assert set(rows) == {"eager", "patched-int8"}
    assert rows["eager"]["error"] < rows["patched-int8"]["error"] < 0.02
    assert rows["patched-int8"]["against"].keys() == {"eager"}


@pytest.mark.usefixtures("known_peaks")
def test_a_profile_is_printed_drawn_and_stored(tmp_path):
    hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    pytest.importorskip("matplotlib")
    done = run(
        "fourcastnet", "--shape", TINY, "--rounds", 1, "--profile", "--plot", tmp_path / "a.png",
        "--backend", "eager", "--backend", "patched-bf16", "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    parts = ["embedding", "filter", "MLP", "head", "other"]
    assert [(r["backend"], r["part"]) for r in rows] == [
        (b, p) for b in ("eager", "patched-bf16") for p in parts
    ]
    assert all(r["median_ms"] > 0 for r in rows)
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert all(part in done.output for part in parts)


@pytest.mark.usefixtures("known_peaks")
def test_memory_of_the_checkpoints_that_our_network_is_read_from(tmp_path, monkeypatch):
    hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    # In this process: that it is one of its own is tested where it is made.
    monkeypatch.setattr(
        fourcastnet, "in_fresh_process", lambda prepare, *args: memory._measure(prepare, args, 1)
    )
    done = run("fourcastnet", "--shape", TINY, "--memory", "--csv", tmp_path / "a.csv")
    assert done.exit_code == 0, done.output
    with (tmp_path / "a.csv").open() as file:
        rows = {r["backend"]: r for r in csv.DictReader(file)}
    assert list(rows) == ["eager", "eager-bf16", "loaded-fp32", "loaded-bf16", "loaded-int8"]
    sizes = [int(rows[f"loaded-{p}"]["file"]) for p in ("fp32", "bf16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert all(int(r["peak"]) > 0 for r in rows.values())
