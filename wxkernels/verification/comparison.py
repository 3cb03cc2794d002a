"""How the same forecast differs between precisions: in its scores, member by member, and in its spread."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from wxkernels.io.files import whole_file
from wxkernels.verification.report import key_variables, lead_text, thinned
from wxkernels.verification.scorer import describe
from wxkernels.verification.weights import Convention, latitude_weights

SCORES = ("rmse", "crps", "acc")
#: How much worse than fp32 a precision may score at any lead: RMSE and CRPS relative, ACC absolute.
BOUNDS = {
    "bf16": {"rmse": 0.001, "crps": 0.001, "acc": 0.001},
    "int8": {"rmse": 0.005, "crps": 0.005, "acc": 0.002},
}
_SHOWN_LEADS = 4
_MEANING = {
    "rmse": "error of the ensemble mean",
    "crps": "fair CRPS",
    "acc": "anomaly correlation of the ensemble mean about climatology",
    "rmse_change": "rmse / rmse of the first precision - 1",
    "crps_change": "crps / crps of the first precision - 1",
    "acc_change": "acc - acc of the first precision",
    "spread": "square root of the mean unbiased ensemble variance",
    "difference": "root mean square difference between a member and the same member of the first precision",
    "drift": "mean over members and area of that difference",
}


class Twins:
    """Spread, and the difference of members from those of another ensemble with the same initial states.

    s = sqrt <var x>, d = sqrt <mean (x - r)^2>, b = <mean (x - r)>: mean and unbiased variance over members,
    <.> over area (`latitude_weights`), squares averaged over initial times before the root; float64. A member
    that is not finite in either ensemble is left out.
    """

    def __init__(
        self, lead_times: np.ndarray, variables: Sequence[str], lat: np.ndarray, weights: Convention
    ):
        self._leads, self._variables = lead_times, tuple(variables)
        rows = torch.from_numpy(latitude_weights(np.asarray(lat, dtype=np.float64), weights))
        self._weights = (rows / rows.sum())[:, None]  # (H, 1)
        # variance, squared difference, difference; (3, lead, variable)
        self._sums = torch.zeros(3, len(lead_times), len(variables), dtype=torch.float64)
        self._times = np.zeros(len(lead_times))

    def update(self, step: int, members: Tensor, reference: Tensor) -> None:
        """members, reference (M, C, H, W) in physical units; the first channels are the variables."""
        weights = self._weights.to(members.device) / members.shape[-1]
        for channel in range(len(self._variables)):
            x, r = members[:, channel], reference[:, channel]
            live = (x.isfinite() & r.isfinite()).flatten(1).all(1)
            x, r = x[live].double(), r[live].double()
            variance = x.var(0) if len(x) > 1 else torch.full_like(weights, torch.nan)
            terms = (variance, (x - r).square().mean(0), (x - r).mean(0))
            for row, term in enumerate(terms):
                self._sums[row, step, channel] += (term * weights).sum().cpu()
        self._times[step] += 1

    def result(self) -> xr.Dataset:
        """spread, difference and drift (lead_time, variable), float64; NaN at leads without an update."""
        with np.errstate(invalid="ignore"):
            variance, square, drift = self._sums.numpy() / self._times[:, None]
        dims = ("lead_time", "variable")
        data = {"spread": np.sqrt(variance), "difference": np.sqrt(square), "drift": drift}
        coords = {"lead_time": self._leads, "variable": list(self._variables)}
        return xr.Dataset({name: (dims, values) for name, values in data.items()}, coords)


def compared(scores: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Scores of several precisions and their changes against the first: (precision, lead_time, variable).

    scores: by precision, each with spread, difference and drift (`Twins`), and rmse, crps and acc where there
    was a truth. A change is 0 where both scores are 0.
    """
    together = xr.concat(list(scores.values()), "precision", combine_attrs="override")
    together = together.assign_coords(precision=list(scores))
    for name in SCORES:
        if name in together:
            first = together[name].isel(precision=0, drop=True)
            change = together[name] - first
            together[f"{name}_change"] = (
                change if name == "acc" else (change / first).where(change != 0, change)
            )
    for key, array in together.data_vars.items():
        relative = key in ("acc", "rmse_change", "crps_change", "acc_change")
        array.attrs = {
            "long_name": _MEANING[str(key)],
            "units": "1" if relative else "units of the variable",
        }
    return together


def worst(dataset: xr.Dataset, precision: str, score: str) -> tuple[float, str, np.timedelta64]:
    """The change for the worse that is largest over leads and variables, its variable and its lead.

    NaN where the score is nowhere defined.
    """
    change = dataset[f"{score}_change"].sel(precision=precision)
    loss = (-change if score == "acc" else change).where(dataset["lead_time"] > np.timedelta64(0))
    if not loss.notnull().any():
        return np.nan, "", np.timedelta64("NaT", "ns")
    column = loss.max("variable").argmax("lead_time")
    found = change.isel(lead_time=column).isel(variable=loss.isel(lead_time=column).argmax("variable"))
    return float(found), str(found["variable"].values), np.timedelta64(found["lead_time"].item(), "ns")


def bounds(dataset: xr.Dataset, precision: str) -> dict[str, float]:
    """How much worse `precision` may score; empty where it has no bounds or the first is not fp32."""
    return BOUNDS.get(precision, {}) if dataset["precision"].values[0] == "fp32" else {}


def print_comparison(
    dataset: xr.Dataset, console: Console | None = None, variables: Sequence[str] | None = None
) -> None:
    """Print the scores of each precision at about four leads, the change against the first, and the worst.

    Fits 80 columns. variables: which to show, at most four by default; the worst is that of all.
    """
    console = console or Console()
    shown = key_variables(dataset, variables)
    there = [name for name in SCORES if name in dataset and dataset[name].notnull().any()]
    table = Table(
        title=f"Scores by precision, changes against {dataset['precision'].values[0]}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("variable", no_wrap=True)
    table.add_column("lead", justify="right", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for name in there:
        table.add_column(name.upper(), justify="right", no_wrap=True)
        table.add_column("change" if name == "acc" else "change\n%", justify="right", no_wrap=True)
    rest = () if there else ("spread", "difference", "drift")
    for name in rest:
        table.add_column(name, justify="right", no_wrap=True)
    for variable in shown:
        of_variable = dataset.sel(variable=variable)
        label = [variable, describe(variable)[1]]
        for lead in thinned(dataset["lead_time"].values, _SHOWN_LEADS):
            for row, precision in enumerate(str(name) for name in dataset["precision"].values):
                at = of_variable.sel(lead_time=lead, precision=precision)
                cells = [label.pop(0) if label else "", "" if row else lead_text(lead), precision]
                for name in there:
                    change = float(at[f"{name}_change"])
                    cells.append(_number(at[name], ".4f" if name == "acc" else ".4g"))
                    shown_change = _number(change, "+.4f") if name == "acc" else _number(100 * change, "+.2f")
                    cells.append("" if row == 0 else shown_change)
                for name in rest:
                    cells.append("" if row == 0 and name != "spread" else _number(at[name], ".3g"))
                table.add_row(*cells)
        table.add_section()
    console.print(table)
    for line in (*_summary(dataset, there), *_notes(dataset, shown, there)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def change_text(change: float, score: str) -> str:
    """A change with its sign: of ACC in points, of the others in per cent."""
    if np.isnan(change):
        return "-"
    return f"{change:+.4f}" if score == "acc" else f"{100 * change:+.2f} %"


def to_table_file(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a row for each precision, lead and variable: .csv, or .json with attributes. Replaces path."""
    path = Path(path)
    hours = dataset["lead_time"].values / np.timedelta64(1, "h")
    flat = dataset.drop_vars([n for n in dataset.coords if n not in dataset.dims]).assign_coords(
        lead_time=hours
    )
    frame = flat.rename(lead_time="lead_time_hours").to_dataframe().reset_index()
    if path.suffix == ".csv":
        text = frame.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    else:
        rows = [
            {str(k): None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
            for row in frame.to_dict("records")
        ]
        about = {str(name): array.attrs for name, array in dataset.data_vars.items()}
        text = json.dumps({**dataset.attrs, "columns": about, "rows": rows}, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _summary(dataset: xr.Dataset, there: Sequence[str]) -> list[str]:
    """For each precision: the worst change of each score and its bound, and how far its members are off."""
    lines = []
    first, *others = (str(name) for name in dataset["precision"].values)
    for precision in others:
        limits, parts = bounds(dataset, precision), []
        for name in there:
            change, variable, lead = worst(dataset, precision, name)
            part = f"{name.upper()} {change_text(change, name)} ({variable}, {lead_text(lead)}"
            if name in limits:
                sign = -1 if name == "acc" else 1
                kept = sign * change <= limits[name]
                part += f"; bound {change_text(sign * limits[name], name)}: {'kept' if kept else 'BROKEN'}"
            parts.append(part + ")")
        if parts:
            lines.append(f"{precision}, the worst of all leads and variables: {', '.join(parts)}")
        lines += _growth(dataset, first, precision)
    return lines


def _growth(dataset: xr.Dataset, first: str, precision: str) -> list[str]:
    spread = dataset["spread"]
    if not spread.notnull().any():
        return []
    later = dataset.sel(lead_time=dataset["lead_time"] > np.timedelta64(0))
    ratio = (later["spread"].sel(precision=precision) / later["spread"].sel(precision=first) - 1).values
    share = (later["difference"].sel(precision=precision) / later["spread"].sel(precision=first)).max(
        "variable"
    )
    drift = abs(later["drift"].sel(precision=precision) / later["spread"].sel(precision=first)).values
    ends = ", ".join(
        f"{100 * float(share.sel(lead_time=lead)):.2g} % at {lead_text(lead)}"
        for lead in share["lead_time"].values[[0, -1]]
    )
    return [
        f"{precision} against {first}: a member differs from its twin by {ends} of the spread; the spread"
        f" changes by {100 * np.nanmin(ratio):+.2f} to {100 * np.nanmax(ratio):+.2f} %, the area mean by up"
        f" to {100 * np.nanmax(drift):.2g} % of the spread"
    ]


def _notes(dataset: xr.Dataset, shown: Sequence[str], there: Sequence[str]) -> list[str]:
    notes = []
    if not there:
        notes.append("no truth given: no scores")
    else:
        scored = dataset["rmse"].notnull().any(("precision", "variable")).values
        if not scored.all():
            last = dataset["lead_time"].values[scored][-1]
            notes.append(f"truth at {scored.sum()} of {len(scored)} leads, to {lead_text(last)}")
        if "acc" not in there:
            notes.append("no climatology given: ACC is undefined")
    hidden = dataset.sizes["variable"] - len(shown)
    if hidden:
        notes.append(f"{hidden} more variables are compared: see --scores")
    return notes


def _number(value: Any, spec: str) -> str:
    return "-" if np.isnan(float(value)) else format(float(value), spec)
