"""Scores as a table, as CSV and as JSON, and the lead time to which a forecast is worth having."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

from wxkernels.errors import UserError
from wxkernels.io.files import whole_file
from wxkernels.verification.scorer import span

_KEY_VARIABLES = ("z500", "t850", "t2m", "tp06", "u10m", "msl", "h", "u", "v")
_SHOWN_VARIABLES, _SHOWN_LEADS = 4, 10
_REFERENCES: tuple[Literal["persistence"], Literal["climatology"]] = ("persistence", "climatology")
_COLUMNS = {
    "rmse": "RMSE",
    "persistence_rmse": "persist.\nRMSE",
    "climatology_rmse": "climat.\nRMSE",
    "acc": "ACC",
    "bias": "bias",
    "crps": "CRPS",
    "spread": "spread",
    "spread_skill": "spread/\nskill",
}
_RATIOS = ("acc", "spread_skill")


def skill_lead(
    dataset: xr.Dataset,
    *,
    against: Literal["persistence", "climatology"],
    score: Literal["rmse", "crps"] = "rmse",
) -> xr.DataArray:
    """Last lead time to which the forecast beats a reference without interruption, timedelta64 (variable).

    NaT where it does not from the first positive lead on. Leads without a score (no truth) are passed over.
    score: "rmse" of the ensemble mean, or "crps" against the mean absolute error of the reference.
    Raises UserError when the dataset has no such reference.
    """
    name = f"{against}_{'mae' if score == 'crps' else score}"
    if against not in ("persistence", "climatology") or score not in ("rmse", "crps"):
        raise UserError(
            f"skill_lead: expected persistence or climatology by rmse or crps, got {against}, {score}"
        )
    dataset = dataset.sel(lead_time=dataset["lead_time"] > np.timedelta64(0))
    leads = dataset["lead_time"].values
    last = np.full(dataset.sizes["variable"], np.timedelta64("NaT", "ns"))
    for column, variable in enumerate(dataset["variable"].values):
        ours, theirs = (dataset[key].sel(variable=variable).values for key in (score, name))
        for lead, mine, other in zip(leads, ours, theirs, strict=True):
            if mine >= other:
                break
            if mine < other:  # neither holds where one is NaN
                last[column] = lead
    return xr.DataArray(
        last, dims="variable", coords={"variable": dataset["variable"]}, name=f"beats_{against}"
    )


def key_variables(dataset: xr.Dataset, variables: Sequence[str] | None = None) -> list[str]:
    """The variables asked for, or at most four that tell most. Raises UserError for one that is not there."""
    have = [str(name) for name in dataset["variable"].values]
    absent = [name for name in variables or () if name not in have]
    if absent:
        raise UserError(f"no scores of {', '.join(absent)}; there are {', '.join(have)}")
    if variables is not None:
        return list(variables)
    key = [name for name in _KEY_VARIABLES if name in have]
    return [*key, *(name for name in have if name not in key)][:_SHOWN_VARIABLES]


def print_table(
    dataset: xr.Dataset, console: Console | None = None, variables: Sequence[str] | None = None
) -> None:
    """Print the scores of key variables at about ten lead times, and to which lead they beat the references.

    Fits 100 columns. variables: which to show, at most four of the dataset by default. Columns without any
    number (spread of one member, ACC without climatology) are left out, with the reason below the table.
    """
    console = console or Console()
    shown = key_variables(dataset, variables)
    columns = {
        key: heading for key, heading in _COLUMNS.items() if dataset[key].sel(variable=shown).notnull().any()
    }
    table = Table(
        title=_title(dataset), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("variable", no_wrap=True)
    table.add_column("lead", justify="right", no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name in shown:
        scores = dataset.sel(variable=name)
        decimals = _decimals(scores["rmse"].values)
        for row, lead in enumerate(thinned(scores["lead_time"].values)):
            at = scores.sel(lead_time=lead)
            label = (name, str(at["units"].values), "")[min(row, 2)]
            numbers = (_number(float(at[key]), 2 if key in _RATIOS else decimals) for key in columns)
            table.add_row(label, lead_text(lead), *numbers)
        table.add_section()
    console.print(table)
    for line in (*(_verdict(dataset, name) for name in shown), *_notes(dataset, shown)):
        console.print(line, highlight=False, markup=False)


def to_csv(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a row for each lead time and variable, empty where undefined. Replaces path in one step."""
    names = [str(key) for key in dataset.data_vars if key != "rank_histogram"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["lead_time_hours", "variable", "units", *names])
    for lead in dataset["lead_time"].values:
        for variable in dataset["variable"].values:
            at = dataset.sel(lead_time=lead, variable=variable)
            numbers = (float(at[key]) for key in names)
            cells = ("" if np.isnan(number) else f"{number:.10g}" for number in numbers)
            writer.writerow([f"{_hours(lead):g}", variable, at["units"].item(), *cells])
    _write(path, text.getvalue())


def to_json(dataset: xr.Dataset, path: str | Path) -> None:
    """Write every score, the ranks and the conventions, null where undefined. Replaces path in one step."""
    variables = [str(name) for name in dataset["variable"].values]
    document = {
        **dataset.attrs,
        "lead_time_hours": [_hours(lead) for lead in dataset["lead_time"].values],
        "variables": {
            name: {key: dataset[key].sel(variable=name).item() for key in ("long_name", "units")}
            for name in variables
        },
        "scores": {
            str(key): {**array.attrs, "values": _by_variable(array, variables)}
            for key, array in dataset.data_vars.items()
        },
        "beats_to_hours": {
            against: {
                name: None if np.isnat(lead) else _hours(lead)
                for name, lead in zip(variables, skill_lead(dataset, against=against).values, strict=True)
            }
            for against in _REFERENCES
        },
    }
    _write(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def lead_text(lead: Any) -> str:
    """A lead time, timedelta64, as people read it: hours."""
    return f"{_hours(lead):g} h"


def _by_variable(array: xr.DataArray, variables: Sequence[str]) -> object:
    if "variable" not in array.dims:
        return _plain(array.values)
    return {name: _plain(array.sel(variable=name).values) for name in variables}


def _plain(values: np.ndarray) -> object:
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()


def _hours(lead: Any) -> float:
    return float(lead / np.timedelta64(1, "h"))


def thinned(leads: np.ndarray, count: int = _SHOWN_LEADS) -> np.ndarray:
    """At most `count` of the lead times above 0, evenly spaced, the last one among them."""
    later = leads[leads > np.timedelta64(0)] if len(leads) > 1 else leads
    stride = -(-len(later) // count)
    return later[::-stride][::-1]


def _decimals(values: np.ndarray) -> int:
    largest = np.nanmax(np.abs(values), initial=0.0)
    return 2 if largest == 0 else int(np.clip(2 - np.floor(np.log10(largest)), 0, 9))


def _number(value: float, decimals: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{decimals}f}"


def _title(dataset: xr.Dataset) -> str:
    start = f"from {span(dataset.attrs['initial_times'])}"
    members = dataset.attrs["ensemble_members"]
    return (
        f"Scores of {members} member{'s' * (members > 1)} {start} ({dataset.attrs['area_weights']} weights)"
    )


def _verdict(dataset: xr.Dataset, name: str) -> str:
    parts = []
    for against in _REFERENCES:
        if dataset[f"{against}_rmse"].sel(variable=name).notnull().any():
            lead = skill_lead(dataset, against=against).sel(variable=name).values[()]
            parts.append(f"not {against}" if np.isnat(lead) else f"{against} to {lead_text(lead)}")
    last = lead_text(dataset["lead_time"].values[-1])
    return f"{name}: RMSE beats {', '.join(parts) or 'no reference (none given)'} (last lead {last})"


def _notes(dataset: xr.Dataset, shown: Sequence[str]) -> list[str]:
    notes = []
    if dataset.attrs["ensemble_members"] == 1:
        notes.append("one member: CRPS is the mean absolute error, spread is undefined")
    if dataset["climatology_rmse"].isnull().all():
        notes.append("no climatology given: ACC is undefined")
    lost = int(dataset.attrs["ensemble_members"] - dataset["members"].where(dataset["times"] > 0).min())
    if lost:
        notes.append(f"up to {lost} members are left out: their values are not finite")
    if dataset.attrs["missing_truth"]:
        notes.append(f"no truth at {span(dataset.attrs['missing_truth'])}: not scored")
    hidden = dataset.sizes["variable"] - len(shown)
    if hidden:
        notes.append(f"{hidden} more variables have scores: see the CSV or JSON")
    return notes


def _write(path: str | Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
