"""Results for other programs: CSV files, and logs that runs are added to."""

import csv
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from wxkernels.bench.results import Footprint, Part, Results, Row
from wxkernels.errors import UserError
from wxkernels.io.files import named_errors, require_writable, whole_file

#: Of a run, in each row of a log.
_RUN = ("date", "commit", "device", "torch")


def write_csv(records: Sequence[Row] | Sequence[Part] | Sequence[Footprint], path: str | Path) -> None:
    """A line a record; lists and dictionaries as JSON. UserError: it cannot be written."""
    _write([_flat(asdict(record)) for record in records], path)


def logger(text: str) -> Callable[[Results], None]:
    """What adds the times of a run to a log: "wandb", "csv" or "csv=FILE".

    UserError: there is no such logger, what it needs is not installed, or the file is of something else.
    """
    name, _, path = text.partition("=")
    if name == "csv":
        log = Path(path or "wxkernels-bench.csv")
        require_writable(log)
        _log(log)
        return lambda results: _append(results, log)
    if text != "wandb":
        raise UserError(f"--logger: there is no {text!r}; use wandb, csv or csv=FILE")
    if importlib.util.find_spec("wandb") is None:
        raise UserError("--logger wandb: wandb is not installed: pip install wandb; or use csv=FILE")
    return _wandb


def _append(results: Results, path: Path) -> None:
    run = {name: results.conditions.get(name) for name in _RUN}
    added = [_flat({**run, **asdict(row)}) for row in results.times]
    _write([*_log(path), *added], path)


def _log(path: Path) -> list[dict[str, str]]:
    """The rows of a log, none where there is no file. UserError: it is of something else."""
    if not path.exists() or not path.stat().st_size:
        return []
    columns = list(dict.fromkeys((*_RUN, *(field.name for field in fields(Row)))))
    try:
        with named_errors("read", path), path.open(newline="") as file:
            head, *rows = csv.reader(file)
    except (csv.Error, ValueError):  # no text
        head, rows = [], []
    if head != columns or any(len(row) != len(columns) for row in rows):
        raise UserError(f"{path} has other columns than this version writes; log to another file")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _wandb(results: Results) -> None:
    import wandb

    with wandb.init(project="wxkernels-bench", job_type="benchmark", config=results.conditions) as run:
        for row in results.times:
            name = f"{row.case}/{row.shape}/{row.dtype}/{row.backend}"
            values = {"median_ms": row.median_ms, "speedup": row.speedup, "error": row.error}
            run.summary.update({f"{name}/{key}": value for key, value in values.items()})


def _write(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in record.items()
    }
