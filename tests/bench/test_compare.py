"""Two runs of the same device: a deliberate slowdown is caught, noise alone is not."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from wxkernels.bench.cases import CASES
from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.compare import LEAST, Change, compare
from wxkernels.bench.engine import Size, measure
from wxkernels.bench.results import Results
from wxkernels.bench.statistics import Ratio
from wxkernels.errors import UserError

CPU = torch.device("cpu")
UNKNOWN = Ceilings("machine", {}, None)


def run(slowdown=1.0, rounds=25):
    """The filter, its kernel longer by a busy wait of `slowdown` - 1 times what it takes."""
    size = Size(1, (12, 24, 64, 8), torch.float32, CPU)
    problem = CASES["spectral_filter"].problem(size, ["eager", "native"])
    eager, native = problem.variants

    def build():
        call = native.build()

        def slower(tensors):
            begin = time.perf_counter()
            result = call(tensors)
            end = begin + slowdown * (time.perf_counter() - begin)
            while time.perf_counter() < end:
                pass
            return result

        return slower

    variants = (eager, dataclasses.replace(native, build=build))
    rows, _ = measure(dataclasses.replace(problem, variants=variants), UNKNOWN, rounds=rounds)
    return Results("bench", {"device": "machine"}, rows)


def test_a_kernel_that_became_slower_is_caught():
    # By so much that it is seen beside other work on the machine, too.
    before, again, slower = run(), run(), run(slowdown=10)
    verdicts = [compare(*pair)[0].verdict for pair in ((before, again), (before, slower), (slower, again))]
    assert verdicts == ["as before", "slower", "faster"]


def noisy_run(seed, slowdown=1.0, rounds=15):
    """Times of two variants, of which the kernel is 4 times faster, with noise of 8 % and hiccups."""
    rng = np.random.default_rng(seed)
    results = run_once()
    times = {"eager": 4.0, "native": 1.0 * slowdown}
    for i, row in enumerate(results.times):
        t = times[row.backend] * rng.lognormal(0, 0.08, rounds) * np.where(rng.random(rounds) < 0.1, 5, 1)
        results.times[i] = dataclasses.replace(row, times_ms=t.tolist(), rounds=rounds)
    return results


def run_once(found=[]):  # noqa: B006 - measured once
    if not found:
        found.append(run(rounds=1))
    return dataclasses.replace(found[0], times=list(found[0].times))


def test_noise_alone_is_not_taken_for_a_change():
    verdicts = [compare(noisy_run(2 * i), noisy_run(2 * i + 1))[0].verdict for i in range(100)]
    assert verdicts.count("as before") >= 98, verdicts
    verdicts = [compare(noisy_run(2 * i), noisy_run(2 * i + 1, slowdown=1.5))[0].verdict for i in range(100)]
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
def test_verdicts(old, new, verdict):
    assert Change(run_once().times[1], "eager", old, new).verdict == verdict


def changed(results, **changes):
    return dataclasses.replace(results, times=[dataclasses.replace(row, **changes) for row in results.times])


def test_rows_meet_by_case_shape_dtype_and_backend():
    one = run_once()
    for other in ({"case": "other"}, {"shape": "1x2"}, {"dtype": "bfloat16"}):
        with pytest.raises(UserError, match="no row in common"):
            compare(one, changed(one, **other))
    both = dataclasses.replace(one, times=[*one.times, *changed(one, shape="1x2").times])
    assert [change.row.shape for change in compare(both, one)] == [one.times[0].shape]


def test_a_baseline_that_both_runs_have_is_taken():
    one = run_once()
    eager, native = one.times
    quicker = dataclasses.replace(eager, backend="compiled", times_ms=[eager.times_ms[0] / 2])
    other = dataclasses.replace(one, times=[eager, quicker, dataclasses.replace(native, baseline="compiled")])
    [change] = compare(one, other)
    assert change.baseline == "eager"
    assert change.ratio.median == pytest.approx(1)
    with pytest.raises(UserError, match="beside a common baseline"):
        compare(dataclasses.replace(one, times=[native]), other)


def test_other_devices_are_not_compared():
    one = run_once()
    with pytest.raises(UserError, match="other devices: machine; another"):
        compare(one, dataclasses.replace(one, conditions={"device": "another"}))
