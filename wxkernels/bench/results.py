"""What a run found, and the file that keeps it."""

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from wxkernels.errors import UserError
from wxkernels.io.files import whole_file

SCHEMA = 2


@dataclass(frozen=True)
class Row:
    """The time of one variant at one size, in one process or in several, each with as many rounds.

    Ratios and the interval of the speedup are those of `wxkernels.bench.statistics.Ratio`.
    """

    device: str
    case: str
    model: str | None  # its --shape: the "model" or "model:layer" whose it is, or sizes
    op: str
    shape: str  # of the input, with the batch
    batch: int
    dtype: str  # of the input
    backend: str
    kind: str  # "ours", "pytorch" or "peer"
    precision: str  # the narrowest that its operations take
    rounds: int  # of all processes
    times_ms: list[float]  # of the rounds in their order, those of the first process first
    median_ms: float
    p20_ms: float
    p80_ms: float
    baseline: str  # the fastest PyTorch variant of the run, or without one the fastest peer
    speedup: float  # the baseline's time over this one's
    speedup_low: float | None
    speedup_high: float | None
    noisy: bool  # by the rule of `wxkernels.bench.statistics.noisy`
    cold: bool  # the rotated inputs are larger than the last level cache
    against: dict[str, float]  # the same against each variant that is not ours
    gflops: float  # a second
    gbytes: float  # a second
    floor_ms: float | None
    floor_share: float | None
    error: float  # largest absolute error over the largest |exact|
    command: str
    processes: int = 1

    @property
    def problem(self) -> tuple[str | None, ...]:
        """What the rows of one size have in common."""
        return self.case, self.model, self.shape, self.dtype


@dataclass(frozen=True)
class Part:
    """One part of a step of one variant: medians over rounds, ms. `floor_ms` None: nothing need be done.

    p20_ms, p80_ms: percentiles over rounds; None in files that were written before they were taken.
    """

    case: str
    model: str | None
    op: str
    shape: str
    batch: int
    backend: str
    part: str
    median_ms: float
    share: float  # of the step
    floor_ms: float | None
    floor_share: float | None
    command: str
    p20_ms: float | None = None
    p80_ms: float | None = None


@dataclass(frozen=True)
class Footprint:
    """Bytes of one variant's step: resident in a process of its own, or allocated on a GPU."""

    case: str
    model: str | None
    op: str
    shape: str
    batch: int
    backend: str
    kind: str  # "resident" or "allocated"
    file: int | None  # of the checkpoint that it was read from
    parameters: int  # of the tensors of the network
    start: int  # with PyTorch loaded
    ready: int  # with the network and the input ready
    peak: int  # at most, in the step
    command: str


@dataclass(frozen=True)
class Failure:
    """A peer that failed while it was prepared, or a case of which nothing runs here."""

    op: str
    backend: str
    reason: str


@dataclass
class Results:
    """A run: its command line, the `machine.conditions` it ran under, and what it found."""

    command: str
    conditions: dict[str, Any]
    times: list[Row] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    memory: list[Footprint] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def write(self, path: str | Path) -> None:
        """As JSON, a record a line. UserError: it cannot be written."""
        parts = []
        for name, value in {"schema": SCHEMA, **asdict(self)}.items():
            text = json.dumps(value)
            if isinstance(value, list) and value:
                text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
            parts.append(f" {json.dumps(name)}: {text}")
        with whole_file(path) as partial:
            partial.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def read(path: str | Path) -> Results:
    """UserError: not there, not results, of another schema, without what it has, or not finite."""
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON; give a file that wxkernels-bench --json wrote") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        schema = content.get("schema") if isinstance(content, dict) else None
        found = "no schema" if schema is None else f"schema {schema}"
        raise UserError(f"{path} has {found}, this version reads schema {SCHEMA}; measure again with --json")
    lists = {"times": Row, "parts": Part, "memory": Footprint, "failed": Failure}
    try:
        content = {name: value for name, value in content.items() if name != "schema"}
        for name, kind in lists.items():
            items = content.get(name)
            if not isinstance(items, list):
                raise UserError(f"{name} is no list")
            content[name] = [_checked(kind, item, f"{name}[{i}]") for i, item in enumerate(items)]
        for i, row in enumerate(content["times"]):
            if len(row.times_ms) != row.rounds or not all(time > 0 for time in row.times_ms):
                raise UserError(f"times[{i}] has not {row.rounds} times above 0 for 'times_ms'")
            if row.processes < 1 or row.rounds % row.processes:
                raise UserError(f"times[{i}] has {row.rounds} rounds in {row.processes} for 'processes'")
        return _checked(Results, content, "the file")
    except UserError as error:
        raise UserError(f"{path}: {error}; measure again with --json") from None


def _checked(kind: type, item: Any, where: str) -> Any:
    """`kind(**item)`, if `item` has its fields, at least those without a default, and no others."""
    if not isinstance(item, Mapping):
        raise UserError(f"{where} is no object")
    hints = get_type_hints(kind)
    for one in fields(kind):
        if one.name not in item and one.default is MISSING:
            raise UserError(f"{where} has no {one.name!r}")
    for name, value in item.items():
        if name not in hints:
            raise UserError(f"{where} has {name!r}, which is not known")
        if not _fits(value, hints[name]):
            raise UserError(f"{where} has {value!r} for {name!r}")
    return kind(**item)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type; numbers are finite."""
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind is list:
        return isinstance(value, list) and all(_fits(item, inside[0]) for item in value)
    if kind in (dict, Mapping) and inside[1] is not Any:
        return isinstance(value, dict) and all(_fits(item, inside[1]) for item in value.values())
    return type(value) is kind
