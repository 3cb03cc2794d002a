"""Pictures: what is drawn, on which limits, with which words."""

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from wxkernels.errors import UserError
from wxkernels.verification import latitude_weights, plot_maps, plot_scores

START = np.datetime64("2018-01-01", "ns")
LEADS = np.arange(4) * np.timedelta64(6, "h").astype("timedelta64[ns]")


@pytest.fixture
def truth(make_fields) -> xr.DataArray:
    values = np.random.default_rng(0).standard_normal((4, 2, 9, 16)).astype(np.float32).cumsum(0)
    return make_fields(values, ("u10m", "t2m"))


@pytest.fixture
def members(truth) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal((4, 5, 2, 9, 16)).astype(np.float32)
    return truth.values[:, None] + 0.5 * noise.cumsum(0)  # (lead, member, variable, lat, lon)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved, coarsely for the sake of time."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs, dpi=40)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def stored(truth: xr.DataArray, members: np.ndarray) -> xr.DataArray:
    coords = {"ensemble": range(members.shape[1]), "time": START, "lead_time": LEADS}
    dims = ("lead_time", "ensemble", "variable", "lat", "lon")
    return xr.DataArray(members, {**coords, **{name: truth[name] for name in truth.dims[1:]}}, dims)


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of axis titles and labels whose boxes on the page overlap."""
    figure.canvas.draw()
    shown = [ax for ax in figure.axes if ax.get_visible()]
    texts = [text for ax in shown for text in (ax.title, ax.xaxis.label, ax.yaxis.label) if text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[i + 1 :] if one.overlaps(other)]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_scores_are_drawn_as_they_are(truth, members, score_steps, drawn, tmp_path, suffix):
    dataset = score_steps(truth, members, climatology=0 * truth[0])
    path = tmp_path / f"scores.{suffix}"
    plot_scores(dataset, path)
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"%PDF-", b"<?xml")
    axes = np.array(drawn[0].axes).reshape(3, 2)  # errors, ACC, ranks of two variables
    assert [ax.get_title() for ax in axes[0]] == ["2 metre temperature", "10 metre eastward wind"]
    assert axes[0, 1].get_ylabel() == "RMSE, spread, CRPS (m s$^{-1}$)"
    lines = {line.get_label(): line for line in axes[0, 0].lines}
    assert sorted(lines) == ["CRPS", "climatology", "ensemble mean", "persistence", "spread"]
    np.testing.assert_array_equal(
        lines["persistence"].get_ydata(), dataset["persistence_rmse"].sel(variable="t2m")
    )
    np.testing.assert_array_equal(lines["spread"].get_xdata(), [0, 6, 12, 18])
    assert axes[0, 0].get_xlabel() == "lead time (hours)"
    ranks = axes[2, 0].patches[-1].get_data().values
    np.testing.assert_allclose(ranks.mean(), 1)
    assert not overlaps(drawn[0])


def test_scores_of_one_member_without_climatology_have_one_row(truth, members, score_steps, drawn, tmp_path):
    plot_scores(score_steps(truth, members[:, :1]), tmp_path / "scores.png", ["u10m"])
    (ax,) = drawn[0].axes
    assert sorted(line.get_label() for line in ax.lines) == ["CRPS", "ensemble mean", "persistence"]


def test_maps_show_mean_truth_spread_and_error(truth, members, drawn, tmp_path):
    members = members + 3  # the error has one sign, its limits have two
    plot_maps(stored(truth, members), truth, "u10m", LEADS[2], tmp_path / "maps.png")
    maps = {ax.get_title(): ax for ax in drawn[0].axes if ax.get_title()}
    mean = members[2, :, 0].astype(np.float64).mean(0)
    error = mean - truth.values[2, 0]
    weights = latitude_weights(truth.lat.values)[:, None]
    name = f"error (RMSE {np.sqrt((weights * error**2).mean()):.3g} m s$^{{-1}}$)"
    assert sorted(maps) == sorted(["ensemble mean", "truth", "ensemble spread", name])
    for title, values in (
        ("ensemble mean", mean),
        ("truth", truth.values[2, 0]),
        ("ensemble spread", members[2, :, 0].std(0, ddof=1)),
        (name, error),
    ):
        np.testing.assert_allclose(maps[title].collections[0].get_array(), values, rtol=1e-5, atol=1e-5)
    limits = {title: ax.collections[0].get_clim() for title, ax in maps.items()}
    assert limits["ensemble mean"] == limits["truth"]
    assert limits[name][0] == -limits[name][1]
    assert limits["ensemble spread"][0] == 0
    words = drawn[0].get_suptitle()
    assert words == "10 metre eastward wind, lead time 12 h, valid 2018-01-01 12:00 UTC, 5 members"
    assert not overlaps(drawn[0])


def test_maps_line_up_a_truth_on_other_rows_and_longitudes(truth, members, drawn, tmp_path):
    moved = truth.assign_coords(lon=(truth.lon + 180) % 360 - 180 + 1e-5).sortby(["lon", "lat"])
    for one in (truth, moved):
        plot_maps(stored(truth, members), one, "t2m", LEADS[1], tmp_path / "maps.png")
    plain, lined_up = ([ax.collections[0].get_array() for ax in f.axes if ax.get_title()] for f in drawn)
    np.testing.assert_array_equal(plain, lined_up)


def test_maps_without_truth_or_spread(truth, members, drawn, tmp_path):
    forecast = stored(truth, members)
    plot_maps(forecast, truth.isel(time=[0]), "t2m", LEADS[1], tmp_path / "maps.png")
    plot_maps(forecast.isel(ensemble=[0]), truth, "t2m", LEADS[1], tmp_path / "maps.png")
    titles = [[ax.get_title().split(" (")[0] for ax in figure.axes if ax.get_title()] for figure in drawn]
    assert titles == [["ensemble mean", "ensemble spread"], ["forecast", "truth", "error"]]


def test_maps_of_a_store_of_statistics(truth, members, drawn, tmp_path):
    whole = stored(truth, members)
    parts = {"mean": whole.mean("ensemble"), "std": whole.std("ensemble", ddof=1)}
    statistics = xr.concat(parts.values(), "statistic").assign_coords(statistic=list(parts))
    for forecast in (whole, statistics):
        plot_maps(forecast, truth, "u10m", LEADS[2], tmp_path / "maps.png")
    plain, same = ([ax.collections[0].get_array() for ax in f.axes if ax.get_title()] for f in drawn)
    np.testing.assert_allclose(plain, same, atol=1e-5)


def test_pictures_leave_pyplot_alone(truth, members, score_steps, drawn, tmp_path):
    plot_scores(score_steps(truth, members), tmp_path / "scores.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_picture_is_whole_or_not_there(truth, members, score_steps, tmp_path, monkeypatch, error):
    (tmp_path / "scores.png").write_text("before")

    def half(figure, path, **options):
        Path(path).write_text("half")
        raise error

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        plot_scores(score_steps(truth, members), tmp_path / "scores.png")
    assert [file.name for file in tmp_path.iterdir()] == ["scores.png"]
    assert (tmp_path / "scores.png").read_text() == "before"


def test_faults_get_one_clear_line(truth, members, score_steps, tmp_path, monkeypatch):
    forecast, dataset = stored(truth, members), score_steps(truth, members)
    cases = {
        "variable q is not in the forecast; it holds u10m, t2m": lambda: plot_maps(
            forecast, truth, "q", LEADS[1], tmp_path / "maps.png"
        ),
        "lead time 7 h is not in the forecast; it holds 0 h, 6 h, 12 h, 18 h": lambda: plot_maps(
            forecast, truth, "t2m", np.timedelta64(7, "h"), tmp_path / "maps.png"
        ),
        "u10m is not finite anywhere": lambda: plot_maps(
            forecast * np.nan, truth, "u10m", LEADS[1], tmp_path / "maps.png"
        ),
        "no scores of q; there are u10m, t2m": lambda: plot_scores(dataset, tmp_path / "scores.png", ["q"]),
        "cannot write .*scores.xyz: Format 'xyz' is not supported": lambda: plot_scores(
            dataset, tmp_path / "scores.xyz"
        ),
    }
    for message, call in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'wxkernels\[plot\]'"):
        plot_scores(dataset, tmp_path / "scores.png")
