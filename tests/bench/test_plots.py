"""The pictures: what is drawn where, that names never overlap, and names and numbers of any kind."""

import random
from dataclasses import replace
from itertools import combinations

import pytest

from tests.bench.samples import CONDITIONS, UNSOUND, parts, results, row, rows
from wxkernels.bench import drawing, plots
from wxkernels.errors import UserError

pytest.importorskip("matplotlib")


def figure_of(found, title):
    [plot] = [plot for plot in found if plot.title.startswith(title)]
    return plots.draw([plot])


def texts(figure):
    """All that is drawn: matplotlib keeps labels of ticks beyond the ends of an axis, too."""
    from matplotlib.text import Text

    beyond = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick, place in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=True):
            if not low <= place <= high:
                beyond |= {tick.label1, tick.label2}
    found = figure.findobj(Text)
    return [text for text in found if text.get_visible() and text.get_text().strip() and text not in beyond]


def points(ax):
    """Where the markers of variants stand."""
    found = [line for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    return [(x, y) for line in found for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_a_case_of_several_batches_has_all_its_plots():
    titles = [plot.title.partition(":")[0] for plot in plots.case_plots(rows() + rows(batch=4), CONDITIONS)]
    assert titles == ["Time", "Roofline", "Error and speed", "Scaling with batch"]


def test_bars_are_as_long_as_the_medians_the_fastest_above_ours_in_another_colour():
    from matplotlib.colors import to_hex

    [ax] = figure_of(plots.case_plots(rows(), CONDITIONS), "Time").axes
    fastest_first = sorted(rows(), key=lambda r: r.median_ms)
    assert [bar.get_width() for bar in ax.patches] == [r.median_ms for r in fastest_first]
    assert [label.get_text() for label in ax.get_yticklabels()] == [r.backend for r in fastest_first]
    assert ax.yaxis_inverted()
    for bar, shown in zip(ax.patches, fastest_first, strict=True):
        assert to_hex(bar.get_facecolor()) == drawing.COLOURS[shown.kind].lower()
    whiskers = [tuple(line.get_xdata()) for line in ax.lines]
    assert whiskers == [(r.p20_ms, r.p80_ms) for r in fastest_first]
    floors = {segment[0][0] for lines in ax.collections for segment in lines.get_segments()}
    assert floors == {20.0}


def test_a_floor_beyond_its_bar_does_not_cross_the_numbers():
    fast = [replace(r, floor_ms=2 * max(r.median_ms for r in rows())) for r in rows()]
    figure = figure_of(plots.case_plots(fast, CONDITIONS), "Time")
    [ax] = figure.axes
    assert {note.xy[0] for note in ax.texts} == {fast[0].floor_ms}
    assert ax.get_xlim()[1] > fast[0].floor_ms


def test_the_unit_is_that_of_the_longest_time():
    slow = [
        replace(r, median_ms=1e3 * r.median_ms, p20_ms=1e3 * r.p20_ms, p80_ms=1e3 * r.p80_ms) for r in rows()
    ]
    [ax] = figure_of(plots.case_plots(slow, CONDITIONS), "Time").axes
    assert ax.get_xlabel() == "time, s"
    assert [bar.get_width() for bar in ax.patches] == [25, 60, 90, 100, 180]


def test_the_roofline_has_the_peaks_of_the_run_and_a_point_for_each_variant():
    [ax] = figure_of(plots.case_plots(rows(), CONDITIONS), "Roofline").axes
    lines = [line.get_xydata() for line in ax.lines if line.get_linestyle() == "-"]
    *flat, slope = lines
    assert sorted(line[0][1] for line in flat) == [200, 400, 800]
    assert all(line[0][1] == line[1][1] == pytest.approx(32 * line[0][0]) for line in flat)
    assert all(y == pytest.approx(32 * x) for x, y in slope)
    assert slope[-1][1] == pytest.approx(800)
    assert sorted(points(ax)) == sorted((r.gflops / r.gbytes, r.gflops) for r in rows())
    shown = {text.get_text() for text in texts(ax.get_figure(root=True))}
    assert {"float32/float16 peak 200", "bfloat16 peak 400", "int8 peak 800", "memory 32 GB/s"} <= shown


@pytest.mark.parametrize(
    "lacking", [{"peak_gflops": {}}, {"peak_gflops": None}, {"copy_gbytes": None, "triad_gbytes": "?"}]
)
def test_without_what_the_machine_can_do_there_is_no_roofline(lacking):
    conditions = CONDITIONS | lacking
    assert not any(plot.title.startswith("Roofline") for plot in plots.case_plots(rows(), conditions))


def test_error_against_speed_has_an_exact_result_at_the_lower_edge():
    exact = [replace(r, error=0.0) if r.backend == "native" else r for r in rows()]
    [ax] = figure_of(plots.case_plots(exact, CONDITIONS), "Error").axes
    bottom = ax.get_ylim()[0]
    assert sorted(points(ax)) == sorted((r.speedup, r.error or bottom) for r in exact)
    assert 0 < bottom < min(r.error for r in exact if r.error)


def test_where_all_is_exact_there_is_no_plot_of_errors():
    exact = [replace(r, error=0.0) for r in rows()]
    assert not any(plot.title.startswith("Error") for plot in plots.case_plots(exact, CONDITIONS))


def test_scaling_with_batch_is_the_time_of_a_member():
    several = [r for batch in (8, 1, 2) for r in rows(batch, median_ms=10.0 * batch + 5)]
    [ax] = figure_of(plots.case_plots(several, CONDITIONS), "Scaling with batch: spectral_filter 1x90").axes
    assert set(points(ax)) == {(1, 15.0), (2, 12.5), (8, 10.625)}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "8"]


def test_scaling_with_resolution_joins_grids_of_equal_channels():
    sizes = ["1x90x180x768", "1x180x360x768", "1x90x180x256"]
    several = [row(shape=shape, ms=float(i + 1)) for i, shape in enumerate(sizes)]
    [ax] = figure_of(plots.case_plots(several, CONDITIONS), "Scaling with resolution").axes
    assert sorted(points(ax)) == [(90 * 180, 1), (180 * 360, 2)]


def test_layers_of_other_widths_are_no_resolutions():
    several = [row(op="linear_int8", shape=shape) for shape in ("16200x768x3072", "16200x3072x768")]
    assert not any(plot.title.startswith("Scaling") for plot in plots.case_plots(several, CONDITIONS))


def test_parts_add_up_to_the_step():
    [ax] = figure_of(plots.part_plots(parts()), "Time by part").axes
    ends = {}
    for bar in ax.patches:
        ends[bar.get_y()] = max(ends.get(bar.get_y(), 0), bar.get_x() + bar.get_width())
    assert sorted(ends.values()) == pytest.approx([0.2, 1.0])  # s
    floors = {segment[0][0] for lines in ax.collections for segment in lines.get_segments()}
    assert sorted(floors) == pytest.approx([0.06, 0.3])


@pytest.mark.parametrize("seed", range(3))
def test_no_text_overlaps_another_or_is_cut_off(seed):
    from matplotlib.legend import Legend
    from matplotlib.text import Text

    generator = random.Random(seed)
    spread = (0.1, 0.5, 3)[seed]  # decades of the times
    some = [
        row(
            f"variant-{i}-{'x' * generator.randrange(12)}",
            generator.choice(["ours", "pytorch", "peer"]),
            ms=100 * 10 ** generator.uniform(-spread, spread),
            error=10 ** generator.choice([-7, -2, generator.uniform(-7, -2)]),
        )
        for i in range(generator.randrange(2, 14))
    ]
    batches = [replace(r, batch=4, shape="4x90x180x768") for r in some]
    for plot in plots.case_plots(some + batches, CONDITIONS):
        figure = plots.draw([plot])
        figure.draw_without_rendering()
        # Of a name beside a point the text alone, without the line to the point.
        boxes = [(text.get_text(), Text.get_window_extent(text).padded(-1)) for text in texts(figure)]
        [legend] = figure.findobj(Legend)
        assert legend.get_window_extent().x0 >= 0, plot.title
        assert legend.get_window_extent().x1 <= figure.bbox.x1, plot.title
        for (one, a), (other, b) in combinations(boxes, 2):
            rotated = "GB/s" in one or "GB/s" in other  # its box is larger than it
            assert rotated or not a.overlaps(b), f"{plot.title}: {one!r} and {other!r}"
        for name, box in boxes:
            assert box.x0 >= 0, f"{plot.title}: {name!r}"
            assert box.x1 <= figure.bbox.x1, f"{plot.title}: {name!r}"
            assert box.y0 >= 0, f"{plot.title}: {name!r}"
            assert box.y1 <= figure.bbox.y1, f"{plot.title}: {name!r}"


def test_a_long_title_takes_a_second_line():
    [plot] = plots.part_plots([replace(part, shape="1x20x720x1440" * 4) for part in parts()])
    figure = plots.draw([plot])
    figure.draw_without_rendering()
    [title] = [text for text in texts(figure) if text.get_text().startswith("Time by part")]
    assert title.get_text().replace("\n", "").endswith("1440")
    assert title.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("level", [1e-7, 1e-4, 1e-2], ids=["below", "between", "above"])
def test_names_of_points_close_together_stay_beside_the_axes_in_their_order(level):
    from matplotlib.text import Annotation, Text

    ends = [row("lowest", error=1e-7), row("highest", error=1e-2)]
    close = [row(f"variant-{i}", ms=50.0 + i, error=level * 1.3**i) for i in range(8)]
    figure = figure_of(plots.case_plots([*ends, *close], CONDITIONS), "Error")
    figure.draw_without_rendering()
    [ax] = figure.axes
    names = {note.get_text(): Text.get_window_extent(note) for note in ax.findobj(Annotation)}
    line = names["lowest"].height
    assert all(ax.bbox.y0 - line <= box.y0 and box.y1 <= ax.bbox.y1 + line for box in names.values())
    by_height = sorted(names, key=lambda name: names[name].y0)
    assert [name for name in by_height if name.startswith("variant")] == [f"variant-{i}" for i in range(8)]


@pytest.mark.parametrize("number", UNSOUND)
def test_numbers_that_no_measurement_gives_are_not_drawn(number):
    fields = ("median_ms", "p80_ms", "speedup", "gflops", "gbytes", "floor_ms", "error")
    odd = [row(f"odd {field}", **{field: number}) for field in fields]
    plots.draw(plots.case_plots([row(), *odd], CONDITIONS)).draw_without_rendering()


@pytest.mark.parametrize("name", ["$\\frac{$", "a\x00b\ud800", "n" * 500, "", "日本"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_any_kind_are_drawn(tmp_path, name):
    odd = [row(name, "odd", op=name, shape=name, dtype=name), row()]
    plots.plot_results([results(odd, conditions=CONDITIONS | {"peak_gflops": {name: 1}})], tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").endswith("</svg>\n")


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_sheet_is_of_the_kind_of_its_name(tmp_path, suffix, start):
    plots.plot_results([results(rows())], tmp_path / f"a.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes().startswith(start)


def test_bad_input_gets_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nothing to draw"):
        plots.plot_results([results([], parts=[])], tmp_path / "a.png")
    with pytest.raises(UserError, match=r"cannot draw .*a\.nothing"):
        plots.plot_results([results(rows())], tmp_path / "a.nothing")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"need matplotlib: pip install 'wxkernels\[plot\]'"):
        plots.plot_results([results(rows())], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
