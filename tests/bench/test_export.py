"""Rows as CSV, and runs that are added to logs."""

import csv
import json
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from tests.bench.test_results import RESULTS, ROW
from wxkernels.bench.export import logger, write_csv
from wxkernels.errors import UserError


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_lists_and_dictionaries_are_json(tmp_path):
    path = tmp_path / "a.csv"
    write_csv([ROW], path)
    [row] = rows(path)
    assert row["backend"] == ROW.backend
    assert float(row["speedup"]) == ROW.speedup
    assert json.loads(row["times_ms"]) == ROW.times_ms
    assert json.loads(row["against"]) == ROW.against


def test_runs_are_added(tmp_path):
    path = tmp_path / "log.csv"
    for _ in range(3):
        logger(f"csv={path}")(RESULTS)
    found = rows(path)
    assert len(found) == 3
    assert {row["device"] for row in found} == {ROW.device}
    assert found[0]["backend"] == ROW.backend


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"a,b\n", b"\xff\xfe", b"\x00\n", b"ROW\n1,2\n"])
def test_a_file_of_other_columns_is_told_before_the_run_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "log.csv"
    logger(f"csv={path}")(RESULTS)
    content = content.replace(b"ROW", path.read_bytes().splitlines()[0])
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"log\.csv has other columns"):
        logger(f"csv={path}")
    assert path.read_bytes() == content


def test_wandb_gets_the_conditions_and_the_numbers_of_each_row(monkeypatch):
    runs = []

    @contextmanager
    def init(**options):
        runs.append(SimpleNamespace(options=options, summary={}))
        yield runs[-1]

    module = ModuleType("wandb")
    module.__spec__, module.init = ModuleSpec("wandb", None), init
    monkeypatch.setitem(sys.modules, "wandb", module)
    logger("wandb")(RESULTS)
    [run] = runs
    assert run.options["config"] == RESULTS.conditions
    assert run.summary == {
        f"mlp/4x8x16/float32/native-int8/{name}": getattr(ROW, name)
        for name in ("median_ms", "speedup", "error")
    }


def test_a_logger_that_is_not_here_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb is not installed"):
        logger("wandb")
    with pytest.raises(UserError, match="there is no 'wandb=x'"):
        logger("wandb=x")
