"""Ratios of interleaved rounds, their interval, and what counts as noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wxkernels.bench.statistics import Ratio, noisy, ratio


def test_the_ratio_is_that_of_times_of_the_same_round():
    # Both are slower by the same in every other round: the ratio does not see it.
    slow = np.tile([1.0, 3.0], 5)
    assert ratio(2 * slow, slow) == Ratio(2, 2, 2)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    drawn = (ratio(rng.lognormal(0, 0.1, 15), np.ones(15)) for _ in range(400))
    held = np.mean([found.low <= 1 <= found.high for found in drawn])
    assert 0.9 < held < 0.99


def test_the_interval_narrows_with_rounds_and_is_the_same_each_time():
    times = np.random.default_rng(2).lognormal(0, 0.1, 200)
    widths = [ratio(times[:n], np.ones(n)).high - ratio(times[:n], np.ones(n)).low for n in (10, 50, 200)]
    assert widths == sorted(widths, reverse=True)


def test_of_few_rounds_the_interval_is_the_range_and_of_one_unknown():
    assert ratio([3, 1, 2], [1, 1, 1]) == Ratio(2, 1, 3)
    assert ratio([3], [2]) == Ratio(1.5, None, None)


@given(
    arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=st.floats(0.1, 10)),
    st.floats(0.1, 10),
)
def test_of_several_processes_the_interval_holds_that_of_each(times, over):
    whole = ratio(times.ravel(), np.full(times.size, over), len(times))
    each = [ratio(one, np.full(len(one), over)) for one in times]
    assert whole.median == np.median([one.median for one in each])
    if times.size == 1:
        assert whole == each[0]
        return
    ends = [end for one in each for end in ((one.median,) * 2 if one.low is None else (one.low, one.high))]
    assert (whole.low, whole.high) == (min(ends), max(ends))
    assert whole.low <= whole.median <= whole.high


def test_a_process_apart_from_the_others_is_in_the_interval():
    apart = np.repeat([2.0, 2.1, 2.6], 7)
    assert ratio(apart, np.ones(21), 3) == Ratio(2.1, 2.0, 2.6)
    assert ratio(apart[:7], np.ones(7)) == Ratio(2, 2, 2)


@pytest.mark.parametrize(
    ("times", "speedup", "expected"),
    [
        ([1.0] * 5, Ratio(2, 1.95, 2.05), False),
        ([1.0] * 5, Ratio(2, 1.85, 2.1), True),  # wider than a tenth
        ([1.0, 1.0, 1.0, 1.5, 1.5], Ratio(1, 1, 1), True),  # a baseline's speedup is always 1
        ([1.0, 1.0, 1.1, 1.1, 1.1], Ratio(1, 1, 1), False),
        ([1.0], Ratio(1, None, None), True),
    ],
)
def test_what_is_noisy(times, speedup, expected):
    assert noisy(times, speedup) is expected
