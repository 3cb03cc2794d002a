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

    Of several processes it is the median of their medians, and the interval reaches from the lowest to the
    highest end of theirs: the same code differs from process to process by more than the interval of one.
    """

    median: float
    low: float | None
    high: float | None


def ratio(times: Times, over: Times, processes: int = 1) -> Ratio:
    """Of `times` over the times `over` of the same rounds, those of one process after those of another."""
    found = (np.asarray(times, float) / np.asarray(over, float)).reshape(processes, -1)
    median = float(np.median(np.median(found, axis=1)))
    if found.size == 1:
        return Ratio(median, None, None)
    lows, highs = zip(*map(_interval, found), strict=True)
    return Ratio(median, min(lows), max(highs))


def _interval(found: np.ndarray) -> tuple[float, float]:
    """Of one process."""
    if len(found) < 6:
        return float(found.min()), float(found.max())
    drawn = np.random.default_rng(0).integers(len(found), size=(_RESAMPLES, len(found)))
    low, high = np.percentile(np.median(found[drawn], axis=1), (2.5, 97.5))
    return float(low), float(high)


def noisy(times: Times, speedup: Ratio) -> bool:
    """Whether not to trust a row to a tenth.

    It was timed once, the interval of its speedup is wider than a tenth of it, or its 80th percentile is more
    than a fifth above its 20th.
    """
    if speedup.low is None or speedup.high is None:
        return True
    p20, p80 = np.percentile(times, (20, 80))
    return bool(speedup.high - speedup.low > 0.1 * speedup.median or p80 > 1.2 * p20)
