"""wxkernels-bench as a user runs it."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests import hosts
from tests.bench.test_processes import in_session, wait_until
from tests.bench.test_results import FOOTPRINT
from wxkernels.bench import memory
from wxkernels.bench.cases import CASES, fourcastnet
from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.results import read
from wxkernels.cli import bench
from wxkernels.cli.bench import main

pytestmark = pytest.mark.usefixtures("default_allocator")

TINY = "32x64x3x8x16x1x8"
FILTER = ["spectral_filter", "--shape", "6x10x8x2", "--rounds", "2", "--peer", "eager"]


@pytest.fixture(autouse=True)
def _known_peaks(monkeypatch):
    """Spare the time to measure the machine, and the compilation that stands with every row."""
    peaks = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16, torch.int8), 1e11)
    known = Ceilings("a machine", peaks, 1e10, 1e10)
    monkeypatch.setattr(bench, "measure_ceilings", lambda device, quick=False: known)
    monkeypatch.setattr(bench, "load", lambda: 0.0)
    for name, case in CASES.items():
        if "eager" in case.baselines:
            monkeypatch.setitem(CASES, name, dataclasses.replace(case, baselines=("eager",)))


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="wxkernels-bench")


def fine(*arguments):
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_table_json_and_csv_agree(tmp_path):
    found, flat = tmp_path / "a.json", tmp_path / "a.csv"
    output = fine(*FILTER, "--backend", "native", "--batch", 2, "--json", found, "--csv", flat, "--reproduce")
    results = read(found)
    assert results.command.startswith("wxkernels-bench spectral_filter --shape 6x10x8x2 --rounds 2")
    assert {
        "device",
        "torch",
        "threads",
        "commit",
        "load",
        "peak_gflops",
        "copy_gbytes",
        "triad_gbytes",
    } <= set(results.conditions)
    assert [(row.backend, row.shape) for row in results.times] == [
        ("eager", "2x6x10x8"),
        ("native", "2x6x10x8"),
    ]
    with flat.open() as file:
        assert [r["backend"] for r in csv.DictReader(file)] == ["eager", "native"]
    for row in results.times:
        assert row.command in output.replace("\n", "")


def test_what_is_printed_fits_120_columns():
    for arguments in (["--list"], [*FILTER, "--rounds", 1]):
        assert max(map(len, fine(*arguments).splitlines())) <= 120


@pytest.mark.parametrize("case", CASES)
def test_every_case_runs_quickly_and_without_errors(tmp_path, case):
    if CASES[case].network:
        hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    fine(case, "--quick", "--rounds", 1, "--json", tmp_path / "a.json")
    results = read(tmp_path / "a.json")
    assert {row.case for row in results.times} == {case}
    assert {row.model.partition(":")[0] for row in results.times} == {"small"}
    ours = set() if case == "linear_fp8" else {"ours"}  # whose kernels are for GPUs
    assert {row.kind for row in results.times} == {"pytorch", *ours}
    assert results.failed == []
    for row in results.times:
        assert row.error < (2e-2 if row.precision != "float32" or "int8" in row.case else 2e-6), row


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 2, "error: layer_norm --shape 3x8 --batch 4"),
        (ValueError("a defect"), 1, ""),
    ],
)
@pytest.mark.parametrize("command", [[], ["memory"]])
def test_a_sweep_that_is_stopped_keeps_what_it_found(tmp_path, monkeypatch, command, error, code, told):
    taken = []

    def two(*arguments, **options):
        taken.append(arguments)
        if len(taken) == 3:
            raise error
        return original(*arguments, **options)

    name = "footprints" if command else "measure"
    original = (lambda *arguments: [FOOTPRINT]) if command else bench.measure
    monkeypatch.setattr(bench, name, two)
    found, flat = tmp_path / "a.json", tmp_path / "a.csv"
    batches = [word for batch in (1, 2, 4) for word in ("--batch", batch)]
    chosen = ["--shape", "3x8", "--peer", "eager", "--json", found, "--csv", flat]
    done = run(*command, "layer_norm", *batches, *chosen)
    assert done.exit_code == code
    results = read(found)
    assert results.conditions["unfinished"] == "2 of 3 sizes"
    records = results.memory if command else results.times
    assert [row.batch for row in records] == ([1, 1] if command else [1, 1, 2, 2])
    assert flat.read_text().count("\n") == 1 + len(records)
    assert "Unfinished: the run was stopped after 2 of 3 sizes." in done.output
    assert f"stopped after 2 of 3 sizes, which are in {found} and {flat}\n{told}" in done.output


def test_a_termination_signal_stops_a_sweep_as_ctrl_c_does(tmp_path, monkeypatch):
    def ask(problem, *arguments, **options):
        if problem.size.batch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(problem, *arguments, **options)

    measure, former = bench.measure, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(bench, "measure", ask)
    done = run(*FILTER, "--batch", 1, "--batch", 2, "--json", tmp_path / "a.json")
    assert done.exit_code == 130
    assert done.output.endswith(f"stopped after 1 of 2 sizes, which are in {tmp_path / 'a.json'}\n")
    assert {row.batch for row in read(tmp_path / "a.json").times} == {1}
    assert signal.getsignal(signal.SIGTERM) is former


def test_in_several_processes_each_has_its_rounds(tmp_path):
    output = fine(
        *FILTER, "--backend", "native", "--processes", 2, "--json", tmp_path / "a.json", "--reproduce"
    )
    for row in read(tmp_path / "a.json").times:
        assert (row.processes, row.rounds, len(row.times_ms)) == (2, 4, 4)
        assert row.speedup_low <= row.speedup <= row.speedup_high
        assert " --rounds 2 --processes 2 " in row.command
        assert row.command in output.replace("\n", "")
    assert "95 %: from the lowest to the highest end of the intervals of 2 processes." in output


def killed(size, names):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_while_it_measures_gets_one_line(monkeypatch):
    monkeypatch.setitem(CASES, "layer_norm", dataclasses.replace(CASES["layer_norm"], problem=killed))
    done = run("layer_norm", "--shape", "4x8", "--peer", "eager", "--processes", 2)
    assert done.exit_code == 2
    assert done.output.startswith("error: layer_norm --shape 4x8 --batch 1")
    assert done.output.endswith("does not fit into memory; take a smaller shape or batch\n")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_sweep_in_processes_that_is_stopped_keeps_what_it_found_and_leaves_none(tmp_path):
    path = tmp_path / "a.json"
    code = "from wxkernels.cli.bench import main; main()"
    command = [sys.executable, "-c", code, *FILTER, "--batch", "1", "--batch", "2", "--processes", "2"]
    parent = subprocess.Popen(
        [*command, "--quick", "--json", path], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(path.exists)
    wait_until(lambda: len(in_session(parent.pid)) > 2)  # with Python's own resource tracker
    parent.terminate()
    told = parent.communicate(timeout=60)[1]
    assert parent.returncode == 130
    assert told.endswith(f"stopped after 1 of 2 sizes, which are in {path}\n")
    assert {row.batch for row in read(path).times} == {1}
    wait_until(lambda: not in_session(parent.pid))


def test_a_model_names_all_its_layers(tmp_path):
    fine(
        "linear_int8", "--shape", "small", "--rounds", 1, "--backend", "native", "--json", tmp_path / "a.json"
    )
    rows = [row for row in read(tmp_path / "a.json").times if row.kind == "ours"]
    assert [(r.shape, r.model) for r in rows] == [("128x64x256", "small:fc1"), ("128x256x64", "small:fc2")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--peer", "eager-bf16"], ["eager-bf16", "native-fp32", "native-bf16", "native-int8"]),
        (["--backend", "native-int8"], ["eager", "native-int8"]),
        (["--backend", "native-int8", "--peer", "eager-bf16"], ["eager-bf16", "native-int8"]),
        (["--quick"], ["eager", "native-fp32", "native-bf16", "native-int8"]),
    ],
)
def test_the_named_variants_run_and_what_they_are_compared_with(tmp_path, options, expected):
    fine("mlp", "--shape", "small", "--rounds", 1, *options, "--json", tmp_path / "a.json")
    rows = read(tmp_path / "a.json").times
    assert [row.backend for row in rows] == expected
    assert {row.baseline for row in rows} == {expected[0]}


def test_list_names_what_cannot_run_and_why():
    output = fine("--list")
    assert all(f"{name}: " in output for name in CASES)
    assert "triton: no, " in output
    assert "tensorrt, tensorrt-bf16: no, it runs on GPUs" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no case 'nothing'; choose one of"),
        (["--shape", "3x4"], "--shape: '3x4' is neither"),
        (["spectral_filter", "--shape", "6x10x9x2"], "shape: 9 channels do not divide into 2 blocks"),
        (["fourcastnet", "--shape", "30x64x3x8x16x1x8"], "shape: 30 x 64 is not whole patches of 8"),
        (["patch_head", "--shape", "8x12x3x4x5x2"], "shape: 8 x 12 is not whole patches of 4 x 5"),
        (["fourcastnet", "--shape", "32x64x3x8x16x1x3"], "shape: 16 channels do not divide into 3 blocks"),
        (["--dtype", "int8"], "--dtype: spectral_filter takes"),
        (["--backend", "magic"], "--backend: there is no 'magic'"),
        (["--backend", "eager"], "--backend: there is no 'eager'; it is a --peer"),
        (["--backend", "triton"], "--backend: triton cannot run here"),
        (["fourcastnet", "--peer", "tensorrt"], "--peer: tensorrt cannot run here: it runs on GPUs"),
        (["--device", "abacus"], "--device: 'abacus' is none of ours"),
        (["spectral_filter", "--shape", "²x3x4x5"], "--shape: '²x3x4x5' is neither"),
        (
            ["spectral_filter", "--shape", f"{10**20}x3x4x5"],
            "--shape: '100000000000000000000x3x4x5' is neither",
        ),
        ([*FILTER, "--batch", 10**12], "spectral_filter --shape 6x10x8x2 --batch 1000000000000"),
        (["--threads", 10**6], "Invalid value for '--threads': 1000000 is not in the range 1<=x<="),
        (["--json", "nowhere/a.json"], "cannot write nowhere/a.json: no folder nowhere"),
        (["--json", "/"], "cannot write /: it is a folder"),
        (["--csv", ""], "cannot write .: it is a folder"),
        (["--plot", "nowhere/a.png"], "cannot write nowhere/a.png: no folder nowhere"),
        (["--plot", "a.txt"], "cannot draw a.txt: 'txt' is no kind of picture"),
        (["--logger", "csv=nowhere/a.csv"], "cannot write nowhere/a.csv: no folder nowhere"),
        (["--logger", "paper"], "--logger: there is no 'paper'; use wandb, csv or csv=FILE"),
        (["profile", "mlp"], "profile: mlp has no parts; fourcastnet has"),
        (
            ["profile", "fourcastnet", "--peer", "compiled"],
            "profile: compiled has no parts; choose from eager",
        ),
        (
            ["profile", "fourcastnet", "--plot", "a.png", "--batch", "1", "--batch", "2"],
            "--plot and --trace are",
        ),
        (["memory", "nothing"], "there is no case 'nothing'"),
        (["memory", "layer_norm", "--precision", "int8"], "--precision: layer_norm has nothing of ours in"),
        (["report", "a.json", "b.json", "-o", "./b.json"], "--output: b.json is one of the results"),
        (
            ["--rounds", "0"],
            "Invalid value for '--rounds': 0 is not in the range x>=1 (see wxkernels-bench --help)",
        ),
        (["--nothing"], "No such option"),
        (["compare", "a.json"], "Missing argument 'NEW' (see wxkernels-bench compare --help)"),
        (["profile"], "Missing argument 'CASE' (see wxkernels-bench profile --help)"),
        (["compare", "none.json", "none.json"], "cannot read none.json: No such file or directory"),
    ],
)
def test_bad_input_gets_one_line(arguments, message):
    if "fourcastnet" in arguments:
        hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {message}"), done.output
    assert done.output.count("\n") == 1


@pytest.fixture
def no_published_network(monkeypatch):
    monkeypatch.setattr(fourcastnet, "_missing", lambda: "it is not installed: pip install it")
    monkeypatch.setattr(fourcastnet, "_afnonet", lambda: pytest.fail("it is not there"))


@pytest.mark.usefixtures("no_published_network")
@pytest.mark.parametrize("command", [[], ["profile"], ["memory"]])
def test_a_case_that_is_named_and_cannot_run_gets_one_line(command):
    done = run(*command, "fourcastnet", "--shape", "small")
    assert (done.exit_code, done.output) == (
        2,
        "error: fourcastnet cannot run here: it is not installed: pip install it\n",
    )


@pytest.mark.usefixtures("no_published_network")
def test_of_all_cases_one_that_cannot_run_is_told_and_left_out(tmp_path, monkeypatch):
    for name in CASES.keys() - {"layer_norm", "fourcastnet"}:
        monkeypatch.delitem(CASES, name)
    output = fine("--quick", "--rounds", 1, "--json", tmp_path / "a.json")
    assert "fourcastnet: every variant did not run: it is not installed: pip install it" in output
    assert {row.case for row in read(tmp_path / "a.json").times} == {"layer_norm"}


def test_a_process_that_was_killed_gets_one_line(monkeypatch):
    def killed(*arguments):
        raise BrokenExecutor("terminated abruptly")

    monkeypatch.setattr(bench, "footprints", killed)
    done = run("memory", "layer_norm", "--shape", "4x8", "--peer", "eager")
    assert done.exit_code == 2
    assert "layer_norm --shape 4x8 --batch 1" in done.output
    assert done.output.endswith("does not fit into memory; take a smaller shape or batch\n")


def test_problems_that_differ_only_in_what_their_input_does_not_show_stay_apart(tmp_path):
    path, other = tmp_path / "a.json", tmp_path / "b.json"
    layers = [word for blocks in (2, 4, 2) for word in ("--shape", f"6x10x8x{blocks}")]
    chosen = ["--rounds", 1, "--peer", "eager", "--backend", "native"]
    output = fine("spectral_filter", *layers, *chosen, "--json", path)
    assert output.count("spectral_filter 1x6x10x8 float32 (6x10x8x2)") == 1
    assert output.count("spectral_filter 1x6x10x8 float32 (6x10x8x4)") == 1
    assert [row.model for row in read(path).times] == ["6x10x8x2"] * 2 + ["6x10x8x4"] * 2
    fine("spectral_filter", *layers[:2], *chosen, "--json", other)
    compared = fine("compare", path, other)
    assert "Only in OLD, or without a baseline in both: native of spectral_filter 1x6x10x8" in compared
    assert "Only in NEW" not in compared


def test_the_patched_network_is_held_to_the_published_one(tmp_path):
    hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    network = ["fourcastnet", "--shape", TINY, "--rounds", 1]
    fine(*network, "--backend", "patched-int8", "--json", tmp_path / "a.json")
    rows = {r.backend: r for r in read(tmp_path / "a.json").times}
    assert set(rows) == {"eager", "patched-int8"}
    assert rows["eager"].error < rows["patched-int8"].error < 0.02
    assert rows["patched-int8"].against.keys() == {"eager"}


def test_a_profile_is_printed_drawn_stored_and_traced(tmp_path):
    hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    pytest.importorskip("matplotlib")
    found, picture, trace = (tmp_path / name for name in ("a.json", "a.png", "trace.json"))
    output = fine(
        "profile", "fourcastnet", "--shape", TINY, "--rounds", 1, "--peer", "eager", "--precision", "bf16",
        "--json", found, "--plot", picture, "--trace", trace,
    )  # fmt: skip
    parts = ["embedding", "filter", "MLP", "head", "other"]
    expected = [(backend, part) for backend in ("eager", "patched-bf16") for part in parts]
    assert [(r.backend, r.part) for r in read(found).parts] == expected
    assert all(part in output for part in parts)
    assert picture.stat().st_size > 1000
    ranges = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"eager", "patched-bf16", *parts[:-1]} <= ranges


def test_memory_of_the_checkpoints_that_our_network_is_read_from(tmp_path, monkeypatch):
    hosts.module("ai_models_fourcastnet.afnonet")  # or skip
    # In this process: that it is one of its own is tested where it is made.
    monkeypatch.setattr(memory, "in_fresh_process", lambda function, *args: function(*args))
    wanted = ["--peer", "eager", "--precision", "fp32", "--precision", "bf16", "--precision", "int8"]
    fine("memory", "fourcastnet", "--shape", TINY, *wanted, "--json", tmp_path / "a.json")
    rows = {r.backend: r for r in read(tmp_path / "a.json").memory}
    assert list(rows) == ["eager", "loaded-fp32", "loaded-bf16", "loaded-int8"]
    sizes = [rows[f"loaded-{p}"].file for p in ("fp32", "bf16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert all(r.peak > 0 for r in rows.values())


def test_a_run_is_drawn_reported_and_added_to_a_log(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    log, picture, found, page = (tmp_path / name for name in ("log.csv", "a.png", "a.json", "a.html"))
    for _ in range(2):
        fine(*FILTER, "--plot", picture, "--logger", f"csv={log}", "--json", found)
    with log.open() as file:
        assert [(r["backend"], r["rounds"]) for r in csv.DictReader(file)] == 2 * [
            ("eager", "2"),
            ("native", "2"),
        ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    fine("report", found, "-o", page)
    assert "spectral_filter" in page.read_text()


def slowed(path, factor, backend):
    """The results file with one variant's times longer by `factor`."""
    results = read(path)
    results.times = [
        dataclasses.replace(row, times_ms=[factor * t for t in row.times_ms])
        if row.backend == backend
        else row
        for row in results.times
    ]
    other = path.with_name("other.json")
    results.write(other)
    return other


@pytest.mark.parametrize(("factor", "verdict", "code"), [(1, "as before", 0), (9, "slower", 1)])
def test_compare_tells_what_became_slower(tmp_path, factor, verdict, code):
    path = tmp_path / "a.json"
    fine(*FILTER, "--backend", "native", "--rounds", 7, "--json", path)
    other = slowed(path, factor, "native")
    assert verdict in fine("compare", path, other)
    assert run("compare", path, other, "--fail-on-slower").exit_code == code
    # That a peer became slower is no failure; ours are faster against it.
    assert run("compare", path, slowed(path, factor, "eager"), "--fail-on-slower").exit_code == 0
