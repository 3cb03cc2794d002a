"""What changed between two runs, beyond the noise of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wxkernels.bench.results import Results, Row
from wxkernels.bench.statistics import Ratio, ratio
from wxkernels.errors import UserError

#: A change must be larger: from one process to the next the same code differs by a few per cent. Where it
#: differs by more, chance alone puts all of three processes below all of another three in one of 20 pairs of
#: runs (3! 3! / 6!), and one below another in every second.
LEAST = 0.05

Verdict = Literal["slower", "faster", "as before", "not known"]


@dataclass(frozen=True)
class Change:
    """A row of two runs: its speedups over the same baseline, each of its own run, and their ratio.

    The interval of the ratio reaches from the lower end of the new speedup over the upper end of the old one
    to the opposite, so that it holds 1 wherever the two intervals overlap.
    """

    row: Row  # of the new run
    baseline: str
    old: Ratio
    new: Ratio
    processes: int  # of the run that has fewer

    @property
    def ratio(self) -> Ratio:
        old, new, low, high = self.old, self.new, None, None
        if old.low and old.high and new.low and new.high:
            low, high = new.low / old.high, new.high / old.low
        return Ratio(new.median / old.median, low, high)

    @property
    def verdict(self) -> Verdict:
        """Of a change that is larger than `LEAST` and whose interval does not hold 1."""
        ratio = self.ratio
        if ratio.low is None or ratio.high is None:
            return "not known"
        if ratio.median < 1 - LEAST and ratio.high < 1:
            return "slower"
        return "faster" if ratio.median > 1 + LEAST and ratio.low > 1 else "as before"


def compare(old: Results, new: Results) -> list[Change]:
    """The rows that both runs have, by case, model, shape, dtype and backend.

    UserError: other devices, or no row in common that has a baseline in common.
    """
    devices = [results.conditions.get("device") for results in (old, new)]
    if devices[0] != devices[1]:
        raise UserError(f"the runs are of other devices: {devices[0]}; {devices[1]}")
    rows, found = {_key(row): row for row in old.times}, []
    for row in new.times:
        before = rows.get(_key(row))
        baseline = before and _baseline(before, old.times, row, new.times)
        if before and baseline:
            was, now = (
                ratio(_beside(run.times, one, baseline), one.times_ms, one.processes)
                for run, one in ((old, before), (new, row))
            )
            found.append(Change(row, baseline, was, now, min(before.processes, row.processes)))
    if not found:
        raise UserError(
            "the runs have no row in common: case, --shape, --batch, dtype, backend, beside a common baseline"
        )
    return found


def unmatched(results: Results, found: Sequence[Change]) -> list[Row]:
    """Rows of ours that were not compared."""
    compared = {_key(change.row) for change in found}
    return [row for row in results.times if row.kind == "ours" and _key(row) not in compared]


def _key(row: Row) -> tuple[str | None, ...]:
    return *row.problem, row.backend


def _baseline(before: Row, old: Sequence[Row], after: Row, new: Sequence[Row]) -> str | None:
    """The baseline of one of the runs that the other has too, and that is not this row itself."""
    for name in (before.baseline, after.baseline):
        if name != after.backend and _beside(old, before, name) and _beside(new, after, name):
            return name
    return None


def _beside(rows: Sequence[Row], row: Row, backend: str) -> list[float]:
    """The times of another variant in the rounds of `row`; none where it did not run in them."""
    wanted = (*row.problem, backend), row.processes, len(row.times_ms)
    found = (r.times_ms for r in reversed(rows) if (_key(r), r.processes, len(r.times_ms)) == wanted)
    return next(found, [])
