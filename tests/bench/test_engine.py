"""The engine: interleaving, the baseline, the error column, the floor, peers that fail."""

import time

import pytest
import torch

from wxkernels.bench.engine import Problem, Variant, Work, measure
from wxkernels.bench.machine import Ceilings

CPU = torch.device("cpu")
WORK = Work({torch.float32: 1e6}, 1e6)


def sleeper(name, seconds, offset=0.0, **options):
    def call(tensors):
        time.sleep(seconds)
        return tensors[0] * 2 + offset

    return Variant(name, lambda: call, **{"work": WORK, **options})


def problem(*variants, **changes):
    parts = {
        "op": "double",
        "shape": (4,),
        "dtype": torch.float32,
        "inputs": [[torch.ones(4)], [torch.ones(4)]],
        "exact": lambda tensors: tensors[0].double() * 2,
        "variants": variants,
        "command": "bench double",
    }
    return Problem(**{**parts, **changes})


def test_the_baseline_is_the_fastest_of_pytorch():
    measured = measure(
        problem(
            sleeper("slow", 0.02, kind="pytorch"),
            sleeper("plain", 0.01, kind="pytorch"),
            sleeper("peer", 0.001, kind="peer"),
            sleeper("ours", 0.002),
        ),
        Ceilings("machine", {torch.float32: 1e9}, 1e9),
        rounds=5,
        device=CPU,
    )
    by_name = {r.backend: r for r in measured.rows}
    assert measured.failed == []
    assert by_name["plain"].speedup == pytest.approx(1)
    assert by_name["slow"].speedup < 0.8
    ours = by_name["ours"]
    assert ours.speedup > 2
    assert ours.against.keys() == {"slow", "plain", "peer"}
    assert ours.against["slow"] > ours.against["plain"] == ours.speedup > 1 > ours.against["peer"]
    assert ours.p20_ms <= ours.median_ms <= ours.p80_ms
    # The floor is 1 ms (1e6 bytes at 1e9 bytes/s); sleeping 2 ms reaches at most half of it.
    assert ours.floor_ms == pytest.approx(1)
    assert 0.1 < ours.floor_share <= 0.5
    assert ours.command == "bench double --rounds 5 --backend ours"


def test_every_variant_runs_once_a_round_and_twice_before():
    calls = []

    def counted(name):
        return Variant(name, lambda: lambda tensors: calls.append(name) or tensors[0] * 2, WORK)

    measure(problem(counted("a"), counted("b")), Ceilings("machine", {}, None), rounds=3, device=CPU)
    warm, rounds = calls[:4], [calls[i : i + 2] for i in range(4, 10, 2)]
    assert warm == ["a", "b", "a", "b"]
    assert rounds == [["a", "b"], ["b", "a"], ["a", "b"]]  # none always follows the same one


def test_a_wrong_result_shows_in_the_error_column():
    measured = measure(
        problem(sleeper("plain", 0, kind="pytorch"), sleeper("wrong", 0, offset=0.5)),
        Ceilings("machine", {}, None),
        rounds=3,
        device=CPU,
    )
    errors = {r.backend: r.error for r in measured.rows}
    assert errors == {"plain": 0, "wrong": pytest.approx(0.25)}
    assert all(r.floor_share is None for r in measured.rows)


def test_finish_turns_a_result_into_the_value_and_exact_may_hold_the_first_samples_only():
    half = Variant("half", lambda: lambda tensors: tensors[0], WORK, finish=lambda y, tensors: y + tensors[0])
    measured = measure(
        problem(half, exact=lambda tensors: tensors[0][:1].double() * 2),
        Ceilings("machine", {}, None),
        rounds=1,
        device=CPU,
    )
    assert measured.rows[0].error == 0


def failing(kind, where):
    def call(tensors):
        raise RuntimeError("out of luck\nsecond line")

    def build():
        return call if where == "call" else call(None)

    return Variant("bad", build, WORK, kind)


@pytest.mark.parametrize("where", ["build", "call"])
def test_a_peer_that_fails_is_told_and_left_out(where):
    measured = measure(
        problem(sleeper("plain", 0, kind="pytorch"), failing("peer", where)),
        Ceilings("machine", {}, None),
        rounds=1,
        device=CPU,
    )
    assert [r.backend for r in measured.rows] == ["plain"]
    assert measured.failed == [("double", "bad", "RuntimeError: out of luck")]


@pytest.mark.parametrize("kind", ["ours", "pytorch"])
def test_others_that_fail_end_the_run(kind):
    with pytest.raises(RuntimeError, match="out of luck"):
        measure(problem(failing(kind, "call")), Ceilings("machine", {}, None), rounds=1, device=CPU)


def test_work_adds_up_by_precision_and_the_floor_is_the_larger_bound():
    ceilings = Ceilings("machine", {torch.float32: 1e9, torch.int8: 4e9}, 1e9)
    work = Work({torch.float32: 1e9}, 1e6) + Work({torch.int8: 2e9, torch.float32: 1e9}, 2e6)
    assert work == Work({torch.float32: 2e9, torch.int8: 2e9}, 3e6)
    assert work.seconds(ceilings) == pytest.approx(2.5)
    assert Work({}, 3e9).seconds(ceilings) == pytest.approx(3)
    assert Work({torch.bfloat16: 1}, 1).seconds(ceilings) is None
