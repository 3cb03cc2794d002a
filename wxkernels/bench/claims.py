"""What results show: at each size, the fastest of ours against the fastest of PyTorch in the same rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from wxkernels.bench.columns import ratio
from wxkernels.bench.drawing import sound
from wxkernels.bench.results import Row


@dataclass(frozen=True)
class Claim:
    """Two rows of one problem, and the fastest of the other peers, where one ran."""

    ours: Row
    pytorch: Row
    peer: Row | None

    @property
    def low(self) -> float:
        """The speed that is at least there; the median where no interval is known."""
        return self.ours.speedup if self.ours.speedup_low is None else self.ours.speedup_low

    @property
    def high(self) -> float:
        return self.ours.speedup if self.ours.speedup_high is None else self.ours.speedup_high

    @property
    def noisy(self) -> bool:
        return self.ours.noisy or self.pytorch.noisy

    @property
    def headline(self) -> str:
        if self.low <= 1 <= self.high and self.low < self.high:
            return "as fast as the fastest PyTorch, within the noise"
        if self.noisy:
            which = "faster" if self.low > 1 else "slower"
            return f"{which} than the fastest PyTorch, too noisy to say how much"
        return f"{ratio(self.ours.speedup)} times as fast as the fastest PyTorch"

    @property
    def interval(self) -> str:
        """How sure the speed is, in words."""
        if self.ours.speedup_low is None or self.ours.speedup_high is None:
            return "one round, so no interval is known"
        rounds, processes = self.ours.rounds, self.ours.processes
        what = "95 % interval" if rounds >= 6 * processes else f"in all of {rounds} rounds"
        where = f" of {processes} processes" if processes > 1 else ""
        return f"{what}{where} {ratio(self.low)} to {ratio(self.high)}"


def claims(rows: Iterable[Row]) -> list[Claim]:
    """One for each problem of a run that both ours and PyTorch computed."""
    problems: dict[tuple[str | None, ...], list[Row]] = {}
    for row in rows:
        known = (end for end in (row.speedup_low, row.speedup_high) if end is not None)
        if sound(row.median_ms, row.speedup, *known):
            problems.setdefault(row.problem, []).append(row)
    found = []
    for some in problems.values():
        ours = min((row for row in some if row.kind == "ours"), key=attrgetter("median_ms"), default=None)
        peer = min((row for row in some if row.kind == "peer"), key=attrgetter("median_ms"), default=None)
        for row in some:
            if ours and row.kind == "pytorch" and row.backend == ours.baseline:
                found.append(Claim(ours, row, peer))
    return found


def strongest(claims: Sequence[Claim]) -> Claim | None:
    """Of the case that takes PyTorch the longest, the largest ratio by its lower end; noisy ones last."""
    if not claims:
        return None
    largest = max(claims, key=lambda claim: claim.pytorch.median_ms).ours.case
    return max((c for c in claims if c.ours.case == largest), key=lambda claim: (not claim.noisy, claim.low))
