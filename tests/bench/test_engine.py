"""The engine: interleaving, rotation, the baseline, the error column, the floor, peers that fail."""

import time

import numpy as np
import pytest
import torch

from tests.gpu import needs_gpu
from wxkernels.bench import engine
from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.engine import Problem, Size, Timed, Timings, Variant, Work, measure
from wxkernels.bench.results import Failure

CPU = torch.device("cpu")
SIZE = Size(1, (4,), torch.float32, CPU)
UNKNOWN = Ceilings("machine", {}, None)
WORK = Work({torch.float32: 1e6}, 1e6)


def sleeper(name, seconds, offset=0.0, **options):
    def call(tensors):
        time.sleep(seconds)
        return tensors[0] * 2 + offset

    return Variant(name, lambda: call, **{"work": WORK, **options})


def problem(*variants, **changes):
    parts = {
        "case": "double",
        "op": "double",
        "size": SIZE,
        "shape": (4,),
        "sample": lambda: [torch.ones(4)],
        "exact": lambda tensors: tensors[0].double() * 2,
        "variants": variants,
    }
    return Problem(**{**parts, **changes})


@pytest.fixture
def clock(monkeypatch):
    """Time passes while something sleeps, and only then."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])


@pytest.mark.usefixtures("clock")
def test_the_baseline_is_the_fastest_of_pytorch():
    rows, failed = measure(
        problem(
            sleeper("slow", 0.02, kind="pytorch"),
            sleeper("plain", 0.01, kind="pytorch"),
            sleeper("peer", 0.001, kind="peer"),
            sleeper("ours", 0.002),
        ),
        Ceilings("machine", {torch.float32: 1e9}, 1e9),
        rounds=5,
    )
    by_name = {r.backend: r for r in rows}
    assert failed == []
    assert {r.baseline for r in rows} == {"plain"}
    assert by_name["plain"].speedup == pytest.approx(1)
    assert by_name["slow"].speedup == pytest.approx(0.5)
    ours = by_name["ours"]
    assert ours.speedup == pytest.approx(5)
    assert ours.against == pytest.approx({"slow": 10, "plain": 5, "peer": 0.5})
    assert [ours.p20_ms, ours.median_ms, ours.p80_ms] == pytest.approx([2, 2, 2])
    # The floor is 1 ms: 1e6 bytes at 1e9 bytes/s.
    assert ours.floor_ms == pytest.approx(1)
    assert ours.floor_share == pytest.approx(0.5)
    assert [ours.speedup_low, ours.speedup_high] == pytest.approx([5, 5])
    assert len(ours.times_ms) == ours.rounds == 5
    sizes = f"wxkernels-bench double --shape 4 --batch 1 --threads {torch.get_num_threads()} --rounds 5"
    assert ours.command == f"{sizes} --backend ours --peer plain"
    assert by_name["plain"].command == f"{sizes} --peer plain"


def counted(name, calls, work=WORK):
    return Variant(name, lambda: lambda tensors: calls.append(name) or tensors[0] * 2, work)


@pytest.fixture
def unsettled(monkeypatch):
    """No calls before the timed ones."""
    monkeypatch.setattr(engine, "_SETTLING_SECONDS", 0.0)


@pytest.mark.usefixtures("unsettled")
def test_every_variant_runs_once_a_round_and_twice_before():
    calls = []
    measure(problem(counted("a", calls), counted("b", calls)), UNKNOWN, rounds=10)
    warm, rounds = calls[:4], [calls[i : i + 2] for i in range(4, 24, 2)]
    assert warm == ["a", "b", "a", "b"]
    assert {tuple(names) for names in rounds} == {("a", "b"), ("b", "a")}  # none always follows the same one


@pytest.mark.usefixtures("unsettled")
def test_variants_are_warmed_up_until_nothing_is_compiled(monkeypatch):
    calls, graphs = [], iter([0, 2, 2, 2])  # before and after each round of warming up
    monkeypatch.setattr(engine, "_graphs", lambda: next(graphs))
    measure(problem(counted("a", calls), counted("b", calls)), UNKNOWN, rounds=1)
    assert calls[:6] == ["a", "b", "a", "b", "a", "b"]
    assert len(calls) == 8


def test_graphs_that_were_compiled_are_counted():
    @torch.compile(backend="eager")
    def double(x):
        return x * 2

    before = engine._graphs()
    double(torch.ones(3))
    once = engine._graphs()
    double(torch.ones(3))
    assert before < once == engine._graphs()


def test_a_short_variant_runs_on_its_own_for_a_while_before_it_is_timed(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(engine, "_SETTLING_SECONDS", 0.02)
    monkeypatch.setattr(engine.time, "perf_counter", lambda: now[0])

    def variant(name, seconds):
        def call(tensors):
            now[0] += seconds
            calls.append(name)
            return tensors[0] * 2

        return Variant(name, lambda: call, WORK)

    rows, _ = measure(problem(variant("short", 0.009), variant("long", 0.03)), UNKNOWN, rounds=2)
    turns = "".join(name[0] for name in calls[4:]).replace("ssss", "S")
    assert sorted(turns) == ["S", "S", "l", "l"]
    assert {row.backend: row.median_ms for row in rows} == pytest.approx({"short": 9, "long": 30})


@pytest.mark.usefixtures("unsettled")
def test_every_call_takes_the_next_of_inputs_that_do_not_fit_the_cache(monkeypatch):
    monkeypatch.setattr(engine, "cache_bytes", lambda device: 5 * 4 * 2)  # half of five inputs
    taken, made = [], []

    def sample():
        made.append(torch.full((4,), float(len(made))))
        return [made[-1]]

    def variant(name):
        return Variant(
            name, lambda: lambda tensors: taken.append(tensors[0][0].item()) or tensors[0] * 2, WORK
        )

    rows, _ = measure(problem(variant("a"), variant("b"), sample=sample), UNKNOWN, rounds=5)
    assert len(made) == 6
    assert taken[:2] == [0, 0]  # whose results are compared
    assert taken[2:] == [i % 6 for i in range(12)]
    assert all(row.cold for row in rows)


@pytest.mark.parametrize("cache", [None, 10**6])
def test_what_may_be_in_the_cache_is_told(monkeypatch, cache):
    monkeypatch.setattr(engine, "cache_bytes", lambda device: cache)
    [row], _ = measure(problem(sleeper("a", 0)), UNKNOWN, rounds=1)
    assert not row.cold


def test_a_variant_may_take_other_inputs_of_the_same_values():
    def half(tensors):
        return [tensors[0].bfloat16()]

    def call(tensors):
        assert tensors[0].dtype == torch.bfloat16
        return tensors[0] * 2

    [row], _ = measure(problem(Variant("bf16", lambda: call, WORK, adapt=half)), UNKNOWN, rounds=1)
    assert row.error == 0


def test_an_error_shows_in_its_column():
    off = problem(sleeper("plain", 0, kind="pytorch"), sleeper("off", 0, offset=0.1))
    rows, _ = measure(off, UNKNOWN, rounds=3)
    assert {r.backend: r.error for r in rows} == {"plain": 0, "off": pytest.approx(0.05)}
    assert all(r.floor_share is None for r in rows)


def test_finish_turns_a_result_into_the_value_and_exact_may_hold_the_first_samples_only():
    half = Variant("half", lambda: lambda tensors: tensors[0], WORK, finish=lambda y, tensors: y + tensors[0])
    [row], _ = measure(problem(half, exact=lambda tensors: tensors[0][:1].double() * 2), UNKNOWN, rounds=1)
    assert row.error == 0


def failing(kind, where):
    def call(tensors):
        raise RuntimeError("out of luck\nsecond line")

    def build():
        return call if where == "call" else call(None)

    return Variant("bad", build, WORK, kind)


@pytest.mark.parametrize("where", ["build", "call"])
def test_a_peer_that_fails_is_told_and_left_out(where):
    both = problem(sleeper("plain", 0, kind="pytorch"), failing("peer", where))
    rows, failed = measure(both, UNKNOWN, rounds=1)
    assert [r.backend for r in rows] == ["plain"]
    assert failed == [Failure("double", "bad", "RuntimeError: out of luck")]


@pytest.mark.parametrize(("offset", "percent"), [(float("nan"), "nan%"), (float("inf"), "inf%")])
@pytest.mark.parametrize("kind", ["peer", "pytorch"])
def test_a_result_that_is_another_is_no_baseline(kind, offset, percent):
    broken = sleeper("bad", 0, offset=offset, kind=kind)
    rows, failed = measure(problem(sleeper("plain", 0, kind="pytorch"), broken), UNKNOWN, rounds=1)
    assert [r.backend for r in rows] == ["plain"]
    why = f"its result is wrong, by {percent} of the largest value"
    assert failed == [Failure("double", "bad", why)]


def test_a_result_of_ours_that_is_another_ends_the_run():
    with pytest.raises(ValueError, match="bad: its result is wrong"):
        measure(problem(sleeper("bad", 0, offset=float("nan"))), UNKNOWN, rounds=1)


@pytest.mark.parametrize("kind", ["ours", "pytorch"])
def test_others_that_fail_end_the_run(kind):
    with pytest.raises(RuntimeError, match="out of luck"):
        measure(problem(failing(kind, "call")), UNKNOWN, rounds=1)


def timed(name, seconds, kind="ours", error=0.0):
    return Timed(name, kind, WORK, error, np.array(seconds))


def test_rows_of_several_processes_have_the_rounds_of_all_and_the_noise_between_them():
    taken = [
        Timings("double", "double", SIZE, (4,), True, variants, failed)
        for variants, failed in (
            ([timed("plain", [0.04, 0.04], "pytorch"), timed("ours", [0.01, 0.01])], []),
            ([timed("plain", [0.04, 0.04], "pytorch"), timed("ours", [0.02, 0.02], error=0.1)], []),
        )
    ]
    lost = Failure("double", "peer", "out of luck")
    taken[0].variants.insert(1, timed("peer", [0.001, 0.001], "peer"))
    taken[1].failed.append(lost)
    rows, failed = engine.rows(taken, UNKNOWN)
    assert failed == [lost]
    assert [row.backend for row in rows] == ["plain", "ours"]
    ours = rows[1]
    assert (ours.rounds, ours.processes, ours.times_ms) == (4, 2, [10, 10, 20, 20])
    assert (ours.speedup, ours.speedup_low, ours.speedup_high) == (3, 2, 4)
    assert ours.noisy
    assert ours.error == 0.1
    assert ours.against == {"plain": 3}
    assert " --rounds 2 --processes 2 --backend ours --peer plain" in ours.command


def test_work_adds_up_by_precision_and_the_floor_is_the_larger_bound():
    ceilings = Ceilings("machine", {torch.float32: 1e9, torch.int8: 4e9}, 1e9)
    work = Work({torch.float32: 1e9}, 1e6) + Work({torch.int8: 2e9, torch.float32: 1e9}, 2e6)
    assert work == Work({torch.float32: 2e9, torch.int8: 2e9}, 3e6)
    assert work.seconds(ceilings) == pytest.approx(2.5)
    assert Work({}, 3e9).seconds(ceilings) == pytest.approx(3)
    assert Work({torch.bfloat16: 1}, 1).seconds(ceilings) is None


def test_calls_are_captured_where_there_are_graphs(tapes, caplog, monkeypatch):
    """Once a variant, whatever its inputs; what cannot be is timed as it is, which is told."""
    monkeypatch.setattr(engine, "_SETTLING_SECONDS", 0)
    taken = []

    def odd(tensors):
        taken.append(tensors[0].sum().item())
        return tensors[0] * 2

    both = problem(
        sleeper("plain", 0, kind="pytorch"),
        Variant("odd", lambda: odd, WORK),
        sample=lambda: [torch.randn(4)],
        exact=lambda tensors: tensors[0].double() * 2,
    )
    rows, failed = measure(both, UNKNOWN, rounds=4)
    assert [row.error for row in rows] == [0, 0]
    assert not failed
    assert len(tapes) == 1
    assert tapes[0].replays == 1 + 1 + 4
    assert len(set(taken)) == 1 + 1 + 4  # inputs of its turns, all others
    assert [record.message for record in caplog.records] == [
        "odd: timed with its launches, it is no CUDA graph: operation not permitted when stream is capturing"
    ]


def test_a_replay_computes_from_the_inputs_of_its_turn(tapes):
    replayed = engine.Replayed(lambda tensors: tensors[0] @ tensors[1], [torch.eye(3), torch.ones(3)])
    for value in (2.0, 3.0):
        assert torch.equal(replayed([value * torch.eye(3), torch.ones(3)]), torch.full((3,), value))
    assert len(tapes) == 1


@needs_gpu
def test_on_a_gpu_a_replay_is_timed_without_its_launches():
    """Two hundred launches of almost nothing take the host longer than the device."""

    def call(tensors):
        y = tensors[0]
        for _ in range(200):
            y = y + 1
        return y

    device = torch.device("cuda")
    x = [torch.zeros(4, device=device)]
    with torch.inference_mode():
        replayed = engine.Replayed(call, x)
        assert (replayed(x) == 200).all()
        launched = min(engine.seconds(call, x, device) for _ in range(10))
        assert 0 < min(engine.seconds(replayed, x, device) for _ in range(10)) < launched
