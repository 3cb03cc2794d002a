"""Pictures of scores and of forecast maps, written to files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from wxkernels.errors import UserError
from wxkernels.io.files import whole_file
from wxkernels.verification.comparison import SCORES, bounds
from wxkernels.verification.report import key_variables, lead_text
from wxkernels.verification.scorer import aligned, describe
from wxkernels.verification.weights import latitude_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with every kind of colour vision; the line styles do it in grey.
_ENSEMBLE = {"color": "#0072B2", "linestyle": "-", "label": "ensemble mean"}
_PERSISTENCE = {"color": "#D55E00", "linestyle": "-.", "label": "persistence"}
_LINES: dict[str, dict[str, Any]] = {
    "rmse": _ENSEMBLE,
    "spread": {"color": "#0072B2", "linestyle": "--", "label": "spread"},
    "crps": {"color": "#009E73", "linestyle": "-", "marker": "o", "markersize": 2.5, "label": "CRPS"},
    "persistence_rmse": _PERSISTENCE,
    "climatology_rmse": {"color": "#555555", "linestyle": ":", "label": "climatology"},
}
_ACC_LINES: dict[str, dict[str, Any]] = {"acc": _ENSEMBLE, "persistence_acc": _PERSISTENCE}
_VARIABLE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_PRECISION_LINES: tuple[Any, ...] = ("--", "-")
_RANK_COLOURS = ("#56B4E9", "#0072B2", "#000000")
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "figure.titlesize": 11,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 200,
}


def plot_scores(dataset: xr.Dataset, path: str | Path, variables: Sequence[str] | None = None) -> None:
    """Draw scores against lead time, a column of panels a variable, to a file (PNG, PDF, SVG by its name).

    Rows: RMSE of the ensemble mean, persistence and climatology with spread and CRPS, in the variable's
    units; ACC where there was a climatology; from three members on, rank histograms at three lead times (1 is
    calibrated). variables: at most four by default. Raises UserError for a variable without scores and for a
    missing matplotlib.
    """
    shown = key_variables(dataset, variables)
    rows = [_draw_errors]
    if dataset["acc"].notnull().any():
        rows.append(_draw_acc)
    if dataset.attrs["ensemble_members"] >= 3:
        rows.append(_draw_ranks)
    with _matplotlib().rc_context(_STYLE):
        figure = _figure(max(2.9 * len(shown), 5.0), 2.1 * len(rows) + 0.9)
        axes = figure.subplots(len(rows), len(shown), squeeze=False)
        for column, name in enumerate(shown):
            scores = dataset.sel(variable=name)
            axes[0, column].set_title(scores["long_name"].item())
            for row, draw in enumerate(rows):
                draw(axes[row, column], scores)
                axes[row, column].spines[["top", "right"]].set_visible(False)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5 if len(shown) > 2 else 3)
        _save(figure, path)


def plot_maps(
    forecast: xr.DataArray,
    truth: xr.DataArray | None,
    variable: str,
    lead: np.timedelta64,
    path: str | Path,
) -> None:
    """Draw maps of ensemble mean, truth, spread and error of one variable at one lead time to a file.

    forecast (ensemble or statistic, lead_time, variable, lat, lon) with coordinate time, or with dimension
    time, of which the first is drawn; truth (time, variable, lat, lon), rows and columns of the forecast
    among its own. Spread is left out for one member, truth and error where the truth lacks the valid time or
    the variable.
    Raises UserError for a variable or lead time that is not there and for a missing matplotlib.
    """
    forecast = forecast.isel(time=0) if "time" in forecast.dims else forecast
    lead = np.timedelta64(lead, "ns")
    _require(variable, forecast["variable"].values, "variable")
    _require(lead, forecast["lead_time"].values, "lead time")
    valid_time = np.datetime64(forecast["time"].item(), "ns") + lead
    long_name, units = describe(variable)
    panels = _panels(forecast.sel(lead_time=lead), truth, variable, valid_time)
    limits = _limits([values for _, values, kind in panels if kind == "field"])
    lat, lon = panels[0][1]["lat"].values, panels[0][1]["lon"].values
    aspect = 1 / max(np.cos(np.deg2rad(lat.mean())), 0.2)  # of a degree: tall over wide
    rows, columns, width = (2, 2, 4.9) if len(panels) == 4 else (1, len(panels), 3.9)  # inches
    with _matplotlib().rc_context(_STYLE):
        tall = min((width - 1.1) * aspect * np.ptp(lat) / np.ptp(lon), 6.0)
        figure = _figure(width * columns, rows * (tall + 0.45) + 0.4)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for ax, (title, values, kind) in zip(axes.flat, panels, strict=True):
            _draw_map(figure, ax, values, kind, limits, _units(units))
            ax.set_aspect(aspect)
            ax.set_title(title)
        when = str(valid_time.astype("datetime64[m]")).replace("T", " ")
        count = f", {forecast.sizes['ensemble']} members" if forecast.sizes.get("ensemble", 1) > 1 else ""
        figure.suptitle(f"{long_name}, lead time {lead_text(lead)}, valid {when} UTC{count}")
        _save(figure, path)


def plot_comparison(dataset: xr.Dataset, path: str | Path, variables: Sequence[str] | None = None) -> None:
    """Draw how precisions differ from the first against lead time to a file; dataset: `compared`.

    Panels: the change of RMSE, CRPS and ACC with their bounds, as far as truth goes; members against their
    twins beside the spread, the change of the spread, and that of the area mean. A colour a variable, a line
    style a precision. variables: at most four by default. Raises UserError for a variable that is not there
    and for a missing matplotlib.
    """
    shown = key_variables(dataset, variables)
    scores = [name for name in SCORES if name in dataset and dataset[name].notnull().any()]
    spread = bool(dataset["spread"].notnull().any())
    panels: list[tuple[xr.Dataset, Callable[..., None]]] = []
    for name in scores:
        there = dataset[name].notnull().any(("precision", "variable")).values
        scored = dataset.isel(lead_time=slice(int(np.flatnonzero(there)[-1]) + 1))
        panels.append((scored, partial(_draw_change, score=name)))
    panels.append((dataset, partial(_draw_difference, spread=spread)))
    if spread:
        panels += [(dataset, _draw_spread_change), (dataset, _draw_drift)]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with _matplotlib().rc_context(_STYLE):
        figure = _figure(3.6 * columns, 2.7 * rows + 0.7)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (of_panel, draw) in zip(axes, panels, strict=False):
            draw(ax, of_panel, shown)
            _lead_axis(ax, of_panel)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in axes[len(panels) :]:
            ax.remove()
        figure.legend(
            handles=_comparison_legend(dataset, shown, bool(scores)), loc="outside upper center", ncols=8
        )
        _save(figure, path)


def _draw_change(ax: Axes, dataset: xr.Dataset, shown: Sequence[str], score: str) -> None:
    factor = 1 if score == "acc" else 100
    changes = dataset[f"{score}_change"] * factor
    later = dataset["lead_time"].values > np.timedelta64(0)
    _draw_precisions(ax, dataset, shown, changes.where(xr.DataArray(later, dims="lead_time")))
    for number, precision in enumerate(dataset["precision"].values[1:]):
        limit = bounds(dataset, precision).get(score)
        if limit is not None:
            line = _PRECISION_LINES[number % len(_PRECISION_LINES)]
            ax.axhline(
                (-limit if score == "acc" else limit) * factor, color="#000000", linewidth=1, linestyle=line
            )
    ax.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    ax.set_ylabel(f"change of {score.upper()}" + ("" if score == "acc" else " (%)"))


def _draw_difference(ax: Axes, dataset: xr.Dataset, shown: Sequence[str], spread: bool) -> None:
    # variables of different units in one panel: in units of the first ensemble's last spread
    scale = dataset["spread" if spread else "difference"].isel(lead_time=-1)
    scale = scale.isel(precision=0) if spread else scale.max("precision")
    relative = dataset["difference"] / scale
    _draw_precisions(ax, dataset, shown, relative.where(relative > 0))
    if spread:
        for colour, name in zip(_VARIABLE_COLOURS, shown, strict=False):
            values = (dataset["spread"].isel(precision=0) / scale).sel(variable=name).values
            ax.plot(_leads(dataset)[0], values, color=colour, linestyle=":", linewidth=1.2)
    ax.set_yscale("log")
    ax.set_ylabel("difference of a member / last spread" if spread else "difference / its last")


def _draw_spread_change(ax: Axes, dataset: xr.Dataset, shown: Sequence[str]) -> None:
    first = dataset["spread"].isel(precision=0)
    _draw_precisions(ax, dataset, shown, 100 * (dataset["spread"] / first - 1))
    ax.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    ax.set_ylabel("change of the spread (%)")


def _draw_drift(ax: Axes, dataset: xr.Dataset, shown: Sequence[str]) -> None:
    first = dataset["spread"].isel(precision=0)
    _draw_precisions(ax, dataset, shown, 100 * dataset["drift"] / first)
    ax.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    ax.set_ylabel("change of the area mean / spread (%)")


def _draw_precisions(ax: Axes, dataset: xr.Dataset, shown: Sequence[str], values: xr.DataArray) -> None:
    for line, precision in zip(_PRECISION_LINES, dataset["precision"].values[1:], strict=False):
        for colour, name in zip(_VARIABLE_COLOURS, shown, strict=False):
            at = values.sel(precision=precision, variable=name).values
            ax.plot(_leads(dataset)[0], at, color=colour, linestyle=line, linewidth=1.3)


def _comparison_legend(dataset: xr.Dataset, shown: Sequence[str], scores: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    first, *others = dataset["precision"].values
    handles = [
        Line2D([], [], color=colour, label=name)
        for colour, name in zip(_VARIABLE_COLOURS, shown, strict=False)
    ]
    handles += [
        Line2D([], [], color="#555555", linestyle=line, label=f"{name} against {first}")
        for line, name in zip(_PRECISION_LINES, others, strict=False)
    ]
    if scores and any(bounds(dataset, name) for name in others):
        handles += [
            Line2D([], [], color="#000000", linewidth=1, linestyle=line, label=f"bound of {name}")
            for line, name in zip(_PRECISION_LINES, others, strict=False)
            if bounds(dataset, name)
        ]
    if dataset["spread"].notnull().any():
        handles.append(Line2D([], [], color="#555555", linestyle=":", label=f"spread of {first}"))
    return handles


def _panels(
    fields: xr.DataArray, truth: xr.DataArray | None, variable: str, valid_time: np.datetime64
) -> list[tuple[str, xr.DataArray, str]]:
    """Title, values (lat, lon) and kind (field, spread, error) of each map."""
    fields = fields.sel(variable=variable).astype(np.float64)
    spread = None
    if "statistic" in fields.dims:
        mean, spread = fields.sel(statistic="mean"), fields.sel(statistic="std")
    elif fields.sizes.get("ensemble", 1) > 1:
        mean, spread = fields.mean("ensemble"), fields.std("ensemble", ddof=1)
    else:
        mean = fields.squeeze("ensemble") if "ensemble" in fields.dims else fields
    mean = mean.transpose("lat", "lon")
    if not mean.notnull().any():
        raise UserError(
            f"{variable} is not finite anywhere at this lead time (every member stopped, or not written)"
        )
    panels = [("forecast" if spread is None else "ensemble mean", mean, "field")]
    if truth is not None and valid_time in truth["time"].values and variable in truth["variable"].values:
        lined_up = aligned(truth, [variable], mean["lat"].values, mean["lon"].values, "truth")
        observed = mean.copy(data=lined_up.sel(time=valid_time).values[0])
        error = mean - observed
        weights = xr.DataArray(latitude_weights(mean["lat"].values), dims="lat")
        rmse = np.sqrt(float((error**2).weighted(weights).mean()))
        title = f"error (RMSE {rmse:.3g} {_units(describe(variable)[1])})"
        panels += [("truth", observed, "field"), (title, error, "error")]
    if spread is not None:
        panels.insert(2, ("ensemble spread", spread.transpose("lat", "lon"), "spread"))
    return panels


def _draw_errors(ax: Axes, scores: xr.Dataset) -> None:
    _draw_lines(ax, scores, _LINES)
    ax.set_ylim(bottom=0)
    units = _units(scores["units"].item())
    ax.set_ylabel(f"RMSE, spread, CRPS ({units})" if units else "RMSE, spread, CRPS")


def _draw_acc(ax: Axes, scores: xr.Dataset) -> None:
    _draw_lines(ax, scores, _ACC_LINES)
    ax.set_ylim(top=1.03)
    ax.set_ylabel("ACC")


def _draw_lines(ax: Axes, scores: xr.Dataset, lines: dict[str, dict[str, Any]]) -> None:
    for key, style in lines.items():
        if scores[key].notnull().any():
            ax.plot(_leads(scores)[0], scores[key].values, **style)
    _lead_axis(ax, scores)


def _leads(scores: xr.Dataset) -> tuple[np.ndarray, str]:
    """Lead times as they are drawn, and their unit."""
    hours = scores["lead_time"].values / np.timedelta64(1, "h")
    return (hours / 24, "days") if hours[-1] > 72 else (hours, "hours")


def _lead_axis(ax: Axes, scores: xr.Dataset) -> None:
    leads, unit = _leads(scores)
    ax.set_xlim(0, max(leads[-1], 1e-9))
    ax.set_xlabel(f"lead time ({unit})")
    ax.locator_params(axis="x", integer=True, steps=[1, 2, 3, 6, 10])


def _draw_ranks(ax: Axes, scores: xr.Dataset) -> None:
    counts = scores["rank_histogram"]
    counts = counts.isel(
        lead_time=np.flatnonzero((counts.sum("rank") > 0) & (counts["lead_time"].values > 0))
    )
    if not counts.sizes["lead_time"]:
        return
    bins = counts.sizes["rank"]
    picks = np.unique(np.linspace(0, counts.sizes["lead_time"] - 1, 3).round().astype(int))
    for pick, colour in zip(picks, _RANK_COLOURS, strict=False):
        at = counts.isel(lead_time=pick)
        share = at.values / at.values.sum() * bins
        ax.stairs(
            share,
            np.arange(bins + 1) - 0.5,
            color=colour,
            linewidth=1.4,
            label=lead_text(at["lead_time"].values),
        )
    ax.axhline(1, color="#999999", linewidth=0.8, zorder=0)
    ax.set_xlim(-0.5, bins - 0.5)
    ax.set_ylim(0, 1.25 * ax.get_ylim()[1])  # room for the legend
    ax.set_xlabel("rank of the truth")
    ax.set_ylabel("frequency / uniform")
    ax.locator_params(axis="x", integer=True)
    ax.legend(fontsize=8, handlelength=1, columnspacing=1, ncols=3, loc="upper center")


def _draw_map(
    figure: Figure,
    ax: Axes,
    values: xr.DataArray,
    kind: str,
    limits: tuple[float, float],
    units: str,
) -> None:
    if kind == "error":
        colours, (low, high) = "RdBu_r", _limits([values], symmetric=True)
    elif kind == "spread":
        colours, (low, high) = "magma_r", (0.0, _limits([values])[1])
    else:
        # a field of both signs, as wind is, gets a map whose middle is zero
        colours, (low, high) = "PuOr_r" if limits[0] == -limits[1] else "viridis", limits
    image = ax.pcolormesh(
        values["lon"],
        values["lat"],
        values,
        cmap=colours,
        vmin=low,
        vmax=high,
        shading="nearest",
        rasterized=True,
    )
    bar = ax.inset_axes((1.02, 0, 0.03, 1))  # unlike a bar beside the axes it is as tall as the map
    figure.colorbar(image, cax=bar, extend="max" if kind == "spread" else "both", label=units)
    ax.set_ylim(max(ax.get_ylim()[0], -90), min(ax.get_ylim()[1], 90))
    ax.locator_params(axis="x", steps=[1, 2, 3, 6, 10])
    ax.locator_params(axis="y", steps=[1, 2, 3, 6, 10])
    ax.xaxis.set_major_formatter(lambda degrees, _: _longitude(degrees))
    ax.yaxis.set_major_formatter(lambda degrees, _: _latitude(degrees))
    ax.label_outer()


def _limits(fields: list[xr.DataArray], *, symmetric: bool = False) -> tuple[float, float]:
    # The outermost 0.5 % are left to the arrows of the colour bar.
    low, high = (
        float(v) for v in np.nanpercentile(np.stack([field.values for field in fields]), (0.5, 99.5))
    )
    if symmetric or (low < 0 < high and min(-low, high) > 0.2 * max(-low, high)):
        low, high = -max(-low, high), max(-low, high)
    return low, max(high, low + 1e-12)


def _longitude(degrees: float) -> str:
    east = (degrees + 180) % 360 - 180
    return f"{abs(east):g}°" + ("" if east in (0, -180) else "E" if east > 0 else "W")


def _latitude(degrees: float) -> str:
    return f"{abs(degrees):g}°" + ("" if degrees == 0 else "N" if degrees > 0 else "S")


def _units(units: str) -> str:
    """Units with their exponents raised: m s-1 -> m s$^{-1}$."""
    return re.sub(r"(?<=[A-Za-z])(-?\d+)", r"$^{\1}$", "" if units == "1" else units)


def _require(wanted: Any, have: np.ndarray, what: str) -> None:
    if wanted not in have:
        texts = [lead_text(one) if what == "lead time" else str(one) for one in (wanted, *have)]
        raise UserError(f"{what} {texts[0]} is not in the forecast; it holds {', '.join(texts[1:])}")


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise UserError("pictures need matplotlib: pip install 'wxkernels[plot]'") from None
    return matplotlib


def _figure(width: float, height: float) -> Figure:
    # A figure of its own, not pyplot's: no global state, no display, and safe in threads.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path) -> None:
    kind = Path(path).suffix[1:] or "png"
    with whole_file(path) as partial:
        try:
            figure.savefig(partial, format=kind)
        except ValueError as error:
            raise UserError(f"cannot write {path}: {error}") from None
