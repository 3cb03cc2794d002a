"""The page: whole without JavaScript, nothing of the results runs, nothing is fetched."""

import dataclasses
import html.parser
import re
import sys

import pytest

from tests.bench.samples import CONDITIONS, UNSOUND, parts, results, row, rows
from wxkernels.bench import report
from wxkernels.errors import UserError

HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'"&{{ 7 * 7 }}</style>"""
VOID = {"meta", "link", "img", "br", "input"}


class Page(html.parser.HTMLParser):
    """What a page holds: elements with attributes, tables as rows of cells of text, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.text, self.open = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["td"], ["th"]):
            self.tables[-1][-1][-1] += data
        if "script" not in self.open and "style" not in self.open:
            self.text += data

    def columns(self, table, *heads):
        names, *lines = self.tables[table]
        return [[line[names.index(head)] for head in heads] for line in lines]

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture
def no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture(scope="module")
def text():
    pytest.importorskip("matplotlib")
    return report.render([results()])


def test_the_headline_is_the_strongest_claim_with_its_interval_and_errors(text):
    said = " ".join(Page(text).text.split())
    assert "spectral_filter: 4.00 times as fast as the fastest PyTorch" in said
    assert "native-int8 takes 25.0 ms, compiled-bf16 100 ms (95 % interval 3.92 to 4.12)" in said
    assert "the largest error is 3.0e-3 against 4.0e-3" in said
    assert (
        "Against openvino-bf16, the fastest of the other peers: 3.60 times as fast, its error 5.0e-3." in said
    )


@pytest.mark.usefixtures("no_matplotlib")
def test_every_row_is_in_a_table_with_its_units_in_the_heads():
    run = results()
    page = Page(report.render([run]))
    glance, times, against, by_part, memory, failed = range(len(page.tables))
    assert (
        page.columns(glance, "fastest of ours", "speed, x", "interval, x", "of floor, %")
        == [["native-int8", "4.00", "3.92 to 4.12", "80"]] * 2
    )
    assert page.columns(times, "variant", "batch", "median, ms", "speed, x", "error") == [
        [r.backend, str(r.batch), f"{r.median_ms:.0f}" if r.median_ms >= 100 else f"{r.median_ms:.1f}",
         f"{r.speedup:.2f}", f"{r.error:.1e}".replace("e-0", "e-")]
        for r in run.times
    ]  # fmt: skip
    assert page.columns(against, "variant", "native-int8, x")[1] == ["compiled-bf16", "4.00"]
    assert page.columns(by_part, "part", "median, ms", "of the step, %", "floor, ms")[:3] == [
        ["filter", "400", "40", "100"], ["MLP", "500", "50", "200"], ["other", "100", "10", ""],
    ]  # fmt: skip
    assert page.columns(memory, "file, MB", "peak, MB") == [["", "1600.0"]]
    assert page.columns(failed, "variant", "why it did not run") == [
        ["openvino-int8", "RuntimeError: out of luck"]
    ]
    for one in (*run.times, *run.parts, *run.memory):
        assert one.command in page.text
    assert {"wxkernels-bench spectral_filter --batch 1 --batch 4", "torchao 0.18.0", "2.13.0"} <= {
        word for word in (run.command, "torchao 0.18.0", "2.13.0") if word in page.text
    }


@pytest.mark.usefixtures("no_matplotlib")
def test_a_case_of_several_runs_is_told_apart_by_its_batches():
    sections = [
        Page(report.render(runs)).text for runs in ([results()], [results(rows()), results(rows(batch=4))])
    ]
    assert "spectral_filter, batch" not in sections[0]
    assert all(f"spectral_filter, batch {batch}" in sections[1] for batch in (1, 4))


@pytest.mark.usefixtures("no_matplotlib")
def test_noisy_rows_are_marked_in_words():
    page = Page(report.render([results([row(noisy=True), row("eager", "pytorch", cold=False)])]))
    assert page.columns(0, "variant", "notes") == [["native", "noisy"], ["eager", "warm"]]
    assert [a.get("class") for tag, a in page.elements if tag == "tr"][:3] == [None, "noisy", None]


@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_one_line_says_what_to_install():
    page = Page(report.render([results()]))
    assert "svg" not in {tag for tag, _ in page.elements}
    assert "No pictures: pictures need matplotlib: pip install 'wxkernels[plot]'" in page.text


def test_each_plot_is_inline_its_text_is_text_and_its_ids_are_its_own(text):
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("svg") == tags.count("figure") == tags.count("figcaption") == 5
    assert all(
        label in page.text for label in ("native-int8", "memory 32 GB/s", "p20 to p80", "25.0 ms, 4.00x")
    )
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    references = [value[1:] for value in page.attributes("href") if value.startswith("#")]
    references += re.findall(r"url\(#([^)]*)\)", text)
    assert set(references) <= set(ids)
    assert len(references) > 20


def test_nothing_is_fetched(text):
    page = Page(text)
    assert all(value.startswith(("#", "data:")) for value in page.attributes("href") + page.attributes("src"))
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "default-src 'none'" in page.attributes("content")[0]


def test_colours_are_those_of_the_page(text):
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert {"currentColor", "var(--ours)", "var(--pytorch)", "var(--peer)", "var(--paper)"} <= set(
        re.findall(r"currentColor|var\(--\w+\)", drawn)
    )
    assert not re.search("#000000|#ffffff|#0072b2", drawn)


def test_nothing_of_the_results_becomes_markup():
    pytest.importorskip("matplotlib")

    def hostile(item):
        return dataclasses.replace(
            item,
            **{f.name: HOSTILE for f in dataclasses.fields(item) if isinstance(getattr(item, f.name), str)},
        )

    plain = results(rows())
    bad = results(
        [hostile(r) for r in rows()]
        + [dataclasses.replace(r, backend=HOSTILE, op=HOSTILE, case="b") for r in rows()],
        command=HOSTILE,
        conditions=CONDITIONS | {"device": HOSTILE, HOSTILE: HOSTILE, "peers": {HOSTILE: [HOSTILE]}},
        parts=[hostile(part) for part in parts()],
        memory=[hostile(one) for one in plain.memory],
        failed=[hostile(one) for one in plain.failed],
    )
    page, same = Page(report.render([bad])), Page(report.render([plain]))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in same.elements}
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count(HOSTILE) > 20
    assert "49" not in page.columns(1, "variant")[0][0]


@pytest.mark.parametrize("number", UNSOUND)
@pytest.mark.usefixtures("no_matplotlib")
def test_numbers_that_no_measurement_gives_are_left_out(number):
    fields = (
        "median_ms",
        "speedup",
        "speedup_low",
        "speedup_high",
        "gflops",
        "floor_ms",
        "floor_share",
        "error",
    )
    odd = row(**dict.fromkeys(fields, number), against={"compiled-bf16": number, "eager": "?"})
    page = Page(report.render([results([odd, row("compiled-bf16", "pytorch")])]))
    assert "Nothing was compared with PyTorch" in page.text
    assert page.columns(0, "variant", "precision") == [["native", "fp32"], ["compiled-bf16", "fp32"]]


@pytest.mark.usefixtures("no_matplotlib")
def test_results_without_anything_make_a_page_that_says_so():
    page = Page(report.render([results([], conditions={}, parts=[], memory=[], failed=[])]))
    assert "Nothing was compared with PyTorch" in page.text
    assert page.tables == []
    Page(report.render([]))


def test_a_page_stays_small(text):
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert max(map(len, pictures)) < 30_000
    assert len(text) < 150_000


@pytest.mark.usefixtures("no_matplotlib")
def test_the_file_is_whole_or_not_there(tmp_path):
    report.write([results([row("half of a pair: \ud83d")])], tmp_path / "a.html")
    assert "half of a pair: ?" in (tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="no folder"):
        report.write([results()], tmp_path / "none" / "a.html")
    with pytest.raises(AttributeError):
        report.write([None], tmp_path / "b.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
