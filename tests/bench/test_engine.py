"""The engine: interleaving, the baseline, the error column, the floor."""

import time

import pytest
import torch

from wxkernels.bench.engine import Problem, Variant, measure
from wxkernels.bench.machine import Ceilings

CPU = torch.device("cpu")


def sleeper(name, seconds, offset=0.0, plain=False):
    def call(tensors):
        time.sleep(seconds)
        return tensors[0] * 2 + offset

    return Variant(name, call, plain=plain)


def problem(*variants):
    return Problem(
        op="double",
        shape=(4,),
        dtype=torch.float32,
        inputs=[[torch.ones(4)], [torch.ones(4)]],
        exact=lambda tensors: tensors[0].double() * 2,
        variants=variants,
        flops=1e6,
        bytes=1e6,
        command="bench double",
    )


def test_the_baseline_is_the_fastest_plain_variant():
    rows = measure(
        problem(
            sleeper("slow", 0.02, plain=True),
            sleeper("plain", 0.01, plain=True),
            sleeper("ours", 0.002),
            Variant("absent", None, "not installed"),
        ),
        Ceilings("machine", {torch.float32: 1e9}, 1e9),
        rounds=5,
        device=CPU,
    )
    by_name = {r.backend: r for r in rows}
    assert set(by_name) == {"slow", "plain", "ours"}
    assert by_name["plain"].speedup == pytest.approx(1)
    assert by_name["slow"].speedup < 0.8
    assert by_name["ours"].speedup > 2
    assert by_name["ours"].p20_ms <= by_name["ours"].median_ms <= by_name["ours"].p80_ms
    # The floor is 1 ms (1e6 bytes at 1e9 bytes/s); sleeping 2 ms reaches at most half of it.
    assert 0.1 < by_name["ours"].floor_share <= 0.5
    assert by_name["ours"].command == "bench double --backend ours"


def test_a_wrong_result_shows_in_the_error_column():
    rows = measure(
        problem(sleeper("plain", 0, plain=True), sleeper("wrong", 0, offset=0.5)),
        Ceilings("machine", {}, None),
        rounds=3,
        device=CPU,
    )
    errors = {r.backend: r.error for r in rows}
    assert errors == {"plain": 0, "wrong": pytest.approx(0.25)}
    assert all(r.floor_share is None for r in rows)
