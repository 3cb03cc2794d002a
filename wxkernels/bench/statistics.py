"""The numbers that a table makes of the times of rounds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Of the rounds.
Times = Sequence[float] | np.ndarray

_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """The median over rounds of the ratio of two times of one round, with its 95 % interval.

    The interval is that of a bootstrap over rounds, seeded. Of fewer than six rounds no interval holds a
    median with 95 %: it is the range of what was seen then, and unknown (None) of a single round.
    """

    median: float
    low: float | None
    high: float | None


def ratio(times: Times, over: Times) -> Ratio:
    """Of `times` over the times `over` of the same rounds."""
    found = np.asarray(times, float) / np.asarray(over, float)
    median = float(np.median(found))
    if len(found) == 1:
        return Ratio(median, None, None)
    if len(found) < 6:
        return Ratio(median, float(found.min()), float(found.max()))
    drawn = np.random.default_rng(0).integers(len(found), size=(_RESAMPLES, len(found)))
    low, high = np.percentile(np.median(found[drawn], axis=1), (2.5, 97.5))
    return Ratio(median, float(low), float(high))


def noisy(times: Times, speedup: Ratio) -> bool:
    """Whether not to trust a row to a tenth.

    It was timed once, the interval of its speedup is wider than a tenth of it, or its 80th percentile is more
    than a fifth above its 20th.
    """
    if speedup.low is None or speedup.high is None:
        return True
    p20, p80 = np.percentile(times, (20, 80))
    return bool(speedup.high - speedup.low > 0.1 * speedup.median or p80 > 1.2 * p20)
