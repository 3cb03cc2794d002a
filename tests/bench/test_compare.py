"""Two runs of the same device: a deliberate slowdown is caught, noise alone is not."""

import dataclasses

import numpy as np
import pytest
import torch

from wxkernels.bench import engine
from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.compare import LEAST, Change, compare, unmatched
from wxkernels.bench.engine import Problem, Size, Variant, Work, measure
from wxkernels.bench.results import Results
from wxkernels.bench.statistics import Ratio
from wxkernels.errors import UserError


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The engine's, which the calls of `run` put forward."""
    now = [0.0]
    monkeypatch.setattr(engine.time, "perf_counter", lambda: now[0])
    return now


def run(clock, slowdown=1.0, rounds=25):
    """A baseline of 40 ms and a kernel of 20 ms times `slowdown`, all times with noise of 3 %."""
    rng = np.random.default_rng(round(clock[0]))

    def variant(name, seconds, kind):
        def call(tensors):
            clock[0] += seconds * rng.lognormal(0, 0.03)
            return tensors[0] * 2

        return Variant(name, lambda: call, Work({torch.float32: 1.0}, 1.0), kind)

    size = Size(1, (4,), torch.float32, torch.device("cpu"))
    variants = variant("eager", 0.04, "pytorch"), variant("native", 0.02 * slowdown, "ours")
    problem = Problem(
        "double",
        "double",
        size,
        (4,),
        lambda: [torch.ones(4)],
        lambda tensors: 2 * tensors[0].double(),
        variants,
    )
    rows, _ = measure(problem, Ceilings("machine", {}, None), rounds=rounds)
    return Results("bench", {"device": "machine"}, rows)


def test_a_kernel_that_became_slower_is_caught(clock):
    before, again, slower = run(clock), run(clock), run(clock, slowdown=1.2)
    verdicts = [compare(*pair)[0].verdict for pair in ((before, again), (before, slower), (slower, again))]
    assert verdicts == ["as before", "slower", "faster"]


@pytest.fixture
def once(clock):
    return run(clock, rounds=1)


def noisy_run(once, seed, slowdown=1.0, rounds=15):
    """Times of two variants, of which the kernel is 4 times faster, with noise of 8 % and hiccups."""
    rng = np.random.default_rng(seed)
    results = dataclasses.replace(once, times=list(once.times))
    times = {"eager": 4.0, "native": 1.0 * slowdown}
    for i, row in enumerate(results.times):
        t = times[row.backend] * rng.lognormal(0, 0.08, rounds) * np.where(rng.random(rounds) < 0.1, 5, 1)
        results.times[i] = dataclasses.replace(row, times_ms=t.tolist(), rounds=rounds)
    return results


def test_noise_alone_is_not_taken_for_a_change(once):
    verdicts = [compare(noisy_run(once, 2 * i), noisy_run(once, 2 * i + 1))[0].verdict for i in range(100)]
    assert verdicts.count("as before") >= 98, verdicts
    verdicts = [
        compare(noisy_run(once, 2 * i), noisy_run(once, 2 * i + 1, slowdown=1.5))[0].verdict
        for i in range(100)
    ]
    assert verdicts.count("slower") >= 95, verdicts


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (Ratio(2, 1.9, 2.1), Ratio(1.5, 1.4, 1.6), "slower"),
        (Ratio(2, 1.5, 2.5), Ratio(1.5, 1.4, 1.6), "as before"),  # the intervals overlap
        (Ratio(2, 2, 2), Ratio(2 * (1 - LEAST / 2), 1.94, 1.96), "as before"),  # too small a change
        (Ratio(2, 1.9, 2.1), Ratio(3, 2.9, 3.1), "faster"),
        (Ratio(2, None, None), Ratio(1, 1, 1), "not known"),
    ],
)
def test_verdicts(once, old, new, verdict):
    assert Change(once.times[1], "eager", old, new, 1).verdict == verdict


def in_processes(once, slowdowns):
    """Fifteen quiet rounds in each of as many processes, in which the kernel is slower by these."""
    rng, processes = np.random.default_rng(0), len(slowdowns)
    rounds = 15 * processes
    times = {"eager": np.full(rounds, 4.0), "native": np.repeat(slowdowns, 15)}
    rows = [
        dataclasses.replace(
            row,
            times_ms=(times[row.backend] * rng.lognormal(0, 0.01, rounds)).tolist(),
            rounds=rounds,
            processes=processes,
        )
        for row in once.times
    ]
    return dataclasses.replace(once, times=rows)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ([1.0], [1.2], "slower"),  # one process knows nothing of the others
        ([1.0, 1.2, 1.1], [1.2, 1.05, 1.25], "as before"),
        ([1.0], [1.2, 1.0, 1.25], "as before"),
        ([1.0, 1.2, 1.1], [1.3, 1.56, 1.43], "slower"),
        ([1.3, 1.56, 1.43], [1.0, 1.2, 1.1], "faster"),
    ],
)
def test_what_differs_from_process_to_process_is_no_change(once, old, new, verdict):
    [change] = compare(in_processes(once, old), in_processes(once, new))
    assert change.verdict == verdict
    assert change.processes == min(len(old), len(new))


def test_three_processes_that_differ_are_taken_for_a_change_by_chance_once_in_ten_times(once):
    rng = np.random.default_rng(3)
    runs = [in_processes(once, rng.lognormal(0, 0.2, 3)) for _ in range(200)]
    verdicts = [compare(*pair)[0].verdict for pair in zip(runs[::2], runs[1::2], strict=True)]
    assert verdicts.count("as before") >= 85, verdicts


def changed(results, **changes):
    return dataclasses.replace(results, times=[dataclasses.replace(row, **changes) for row in results.times])


def test_rows_meet_by_case_shape_dtype_and_backend(once):
    for other in ({"case": "other"}, {"model": "other"}, {"shape": "1x2"}, {"dtype": "bfloat16"}):
        with pytest.raises(UserError, match="no row in common"):
            compare(once, changed(once, **other))
    both = dataclasses.replace(once, times=[*once.times, *changed(once, shape="1x2").times])
    found = compare(both, once)
    assert [change.row.shape for change in found] == [once.times[0].shape]
    assert [(row.backend, row.shape) for row in unmatched(both, found)] == [("native", "1x2")]
    assert unmatched(once, found) == []


def test_a_baseline_of_other_rounds_is_none(once):
    eager, native = once.times
    longer = dataclasses.replace(once, times=[dataclasses.replace(eager, times_ms=[1.0, 2.0]), native])
    with pytest.raises(UserError, match="no row in common"):
        compare(once, longer)


def test_a_baseline_that_both_runs_have_is_taken(once):
    eager, native = once.times
    quicker = dataclasses.replace(eager, backend="compiled", times_ms=[eager.times_ms[0] / 2])
    other = dataclasses.replace(
        once, times=[eager, quicker, dataclasses.replace(native, baseline="compiled")]
    )
    [change] = compare(once, other)
    assert change.baseline == "eager"
    assert change.ratio.median == pytest.approx(1)
    with pytest.raises(UserError, match="beside a common baseline"):
        compare(dataclasses.replace(once, times=[native]), other)


def test_other_devices_are_not_compared(once):
    with pytest.raises(UserError, match="other devices: machine; another"):
        compare(once, dataclasses.replace(once, conditions={"device": "another"}))
