"""ci/gpu.sh and ci/gpu.py, as far as they go without a GPU: the plan, what is kept, and the record."""

import dataclasses
import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.bench.test_results import ROW
from wxkernels import backends
from wxkernels.bench.results import Results

ROOT = Path(__file__).parents[2]
CASE = '<testcase classname="tests.ops.{}.test_{}" name="test_x">{}</testcase>'


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "ci" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def out(tmp_path):
    """Of a run in which one backend passed, one failed and one was skipped in part."""
    cases = [
        CASE.format("layer_norm", "triton", ""),
        CASE.format("layer_norm", "triton", ""),
        CASE.format("linear_int8", "cuda", ""),
        CASE.format("linear_int8", "cuda", '<failure message="wrong"/>'),
        CASE.format("mlp", "triton", ""),
        CASE.format("mlp", "triton", '<skipped message="not built"/>'),
    ]
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    rows = [
        dataclasses.replace(
            ROW, op="layer_norm", case="layer_norm", backend=name, kind=kind, dtype="float32", error=error
        )
        for name, kind, error in (("triton", "ours", 1e-7), ("triton", "ours", 3e-7), ("eager", "pytorch", 1))
    ]
    Results("", {}, rows).write(tmp_path / "layer_norm.json")
    return tmp_path


def test_only_a_backend_whose_tests_all_passed_gets_a_record(gpu, out):
    def old(op, backend, architecture):
        return {"op": op, "backend": backend, "architecture": architecture}

    before = [
        old("layer_norm", "triton", "sm_90"),
        old("linear_int8", "cuda", "sm_90"),  # failed now
        old("linear_int8", "cuda", "sm_80"),
        old("spectral_filter", "triton", "sm_90"),  # not tested now
    ]
    found = gpu.records(out, before, "sm_90", {"date": "2026-11-21"})
    new = old("layer_norm", "triton", "sm_90")
    new |= {"tests": 2, "error": {"layer_norm float32": 3e-7}, "speedup": pytest.approx(ROW.speedup)}
    new |= {"date": "2026-11-21"}
    assert found == [new, before[2], before[3]]


def test_the_record_is_what_the_choice_reads(gpu, out, monkeypatch):
    (out / "verified.json").write_text(json.dumps({"records": gpu.records(out, [], "sm_90", {})}))
    monkeypatch.setattr(backends, "files", lambda package: out)
    backends.verified.cache_clear()
    try:
        assert backends.verified() == {("layer_norm", "triton", "sm_90"): pytest.approx(ROW.speedup)}
    finally:
        backends.verified.cache_clear()


def test_a_backend_is_held_to_pytorch_that_is_as_precise_and_not_compiled(gpu, tmp_path):
    against = {"eager": 4.0, "eager-bf16": 1.5, "compiled-bf16": 0.5}
    rows = [
        dataclasses.replace(ROW, backend=name, kind=kind, precision=precision, against=against)
        for name, kind, precision in (
            ("triton-fp32", "ours", "float32"),
            ("cuda-bf16", "ours", "bfloat16"),
            ("eager", "pytorch", "float32"),
            ("eager-bf16", "pytorch", "bfloat16"),
            ("compiled-bf16", "pytorch", "bfloat16"),
        )
    ]
    other = dataclasses.replace(rows[0], shape="9x9", against={})  # no PyTorch ran beside it
    Results("", {}, [*rows, other]).write(tmp_path / "mlp.json")
    assert gpu.speeds(tmp_path) == pytest.approx({("mlp", "triton"): 4.0, ("mlp", "cuda"): 1.5})


def test_the_table_shows_tests_and_times(gpu, out, capsys):
    for name in ("verified.json", "tiles.json"):
        (out / name).write_text(json.dumps({"records": []}))
    gpu.table(out)
    text = capsys.readouterr().out
    assert "linear_int8" in text
    assert "3e-07" in text


def test_what_is_missing_is_told_with_the_command_that_fetches_it(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "NEEDS", {"torch": "torch", "no_such_module": "no-such-package"})
    monkeypatch.setattr(gpu, "WHEELS", tmp_path)
    with pytest.raises(SystemExit, match=r"no-such-package missing; .*-w .whl no-such-package$"):
        gpu.needs()


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(folder, out):
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = [str(ROOT / "ci/gpu.sh"), str(out)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_without_a_gpu_it_prints_the_plan(tmp_path):
    script(tmp_path / "nvidia-smi", "exit 9")
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    parts = ("build, 200 s", "tests.xml, ", "tiles.json, ", "spectral_filter.json, ", "record, ")
    parts += ("skill.csv, ", "ensemble.zarr, ")
    for word in ("shows no GPU", *parts):
        assert word in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_second_run_makes_only_what_is_not_there(tmp_path):
    """With stand-ins for the GPU and the programs; the int8 measurement fails the first time."""
    out, log = tmp_path / "out", tmp_path / "log"
    script(tmp_path / "nvidia-smi", "echo GPU 0: a stand-in")
    script(
        tmp_path / "python3",
        f'echo "$@" >>{log}; for last; do :; done; case "$*" in "-m pytest"*) touch "$last";; esac',
    )
    last = "for last; do :; done"
    bench = f'{last}; test "$1" != linear_int8 -o -e {tmp_path}/again && touch "$last"'
    script(tmp_path / "wxkernels-bench", f"echo bench $1 >>{log}; {bench}")
    script(tmp_path / "wxkernels", f'echo wxkernels $1 >>{log}; {last}; touch "$last"')
    first = run(tmp_path, out)
    assert first.returncode == 1
    assert first.stderr == "failed, or not done in time: linear_int8.json\n"
    for made in ("bench fourcastnet", "wxkernels verify", "wxkernels forecast"):
        assert made in log.read_text()
    assert f"table {out}" in log.read_text()

    log.unlink()
    (tmp_path / "again").touch()
    (out / "mlp.json").write_text('{"conditions": {"unfinished": "1 of 2 sizes"}}')
    second = run(tmp_path, out)
    assert second.returncode == 0, second.stderr
    made = log.read_text()
    assert [line for line in made.splitlines() if line.startswith("bench")] == [
        "bench linear_int8",
        "bench mlp",
    ]
    assert "-m pytest" not in made
