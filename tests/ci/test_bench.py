"""ci/bench.sh with stand-ins for its programs: what it keeps and tells of, and what it measures."""

import json
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_what_is_there_is_kept_and_told_with_a_commit_that_is_not_the_last(tmp_path):
    house, programs = tmp_path / "house", tmp_path / "programs"
    results = house / "bench/results/box"
    for folder in (house / "ci", results, programs):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "ci/bench.sh", house / "ci")
    for command in (["init", "-q"], ["add", "ci"], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, *command], cwd=house, check=True)
    head = subprocess.run([*GIT, "rev-parse", "--short", "HEAD"], cwd=house, capture_output=True, text=True)
    for name in ("wxkernels-bench", "wxkernels", "python"):
        script(programs / name, f'echo "{name} $1" >>{tmp_path}/log')
    for name, conditions in (
        ("mlp", {"commit": head.stdout.strip()}),
        ("memory", {"commit": "abc1234-dirty"}),
        ("profile", {}),
        ("patches", {"commit": "abc1234", "unfinished": "1 of 3 sizes"}),
    ):
        (results / f"{name}.json").write_text(
            f'{{\n "schema": 2,\n "conditions": {json.dumps(conditions)}\n}}\n'
        )
    (results / "forecast.txt").write_text("160 s in all\n")
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["ci/bench.sh", "box"], cwd=house, env=environment, capture_output=True, text=True, check=True
    )
    told = [line for line in done.stdout.splitlines() if "is there" in line]
    assert told == [
        "== bench/results/box/profile.json is there, of commit unknown",
        "== bench/results/box/memory.json is there, of commit abc1234-dirty",
        "== bench/results/box/mlp.json is there",
        "== bench/results/box/forecast.txt is there",
    ]
    measured = (tmp_path / "log").read_text().split("\n")
    assert "wxkernels-bench patch_embed" in measured  # it was not finished
    assert not {"wxkernels-bench mlp", "wxkernels-bench memory", "wxkernels-bench profile"} & set(measured)
