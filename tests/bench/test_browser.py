"""The report in headless Chromium. Skipped without it; ci/browser.sh installs it and lets nothing skip."""

import json
import shutil
from dataclasses import replace

import pytest

from tests.bench.samples import results, row, rows
from wxkernels.bench import report

pytest.importorskip("matplotlib")

FLAGS = (
    "--headless",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Rectangles [name, left, top, right, bottom] of the text of an SVG element.
TEXT_BOXES = """
return [...arguments[0].querySelectorAll("text")].map((text) => {
  const box = text.getBoundingClientRect();
  return [text.textContent, box.left, box.top, box.right, box.bottom, text.outerHTML.includes("rotate(")];
});
"""
#: The texts of a table's column.
COLUMN = """
const texts = (row) => [...row.cells].map((cell) => cell.innerText.trim());
const [head, ...rows] = [...arguments[0].rows].map(texts);
const place = head.findIndex((name) => name.replace(/ [↑↓]$/, "") === arguments[1]);
return rows.map((row) => row[place]);
"""
#: The smallest contrast of a text on the page with what is behind it, and that text.
CONTRAST = """
const luminance = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
    const c = part / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const opaque = (colour) => !/^rgba\\(.*, 0\\)$/.test(colour);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (opaque(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
let worst = [Infinity, "nothing"];
for (const element of document.body.querySelectorAll("*:not(script)")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own) continue;
  const style = getComputedStyle(element);
  const [a, b] = [element instanceof SVGElement ? style.fill : style.color, behind(element)].map(luminance);
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < worst[0]) worst = [contrast, element.textContent];
}
return worst;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="no selenium: pip install 'wxkernels[browser]'"
    )
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of results whose times, as words, would stand in another order."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    without_floor = row("a-without-floor", ms=9.5, floor_ms=None, floor_share=None, error=0.0, noisy=True)
    report.write([results([*rows(batch=4), without_floor, *rows()])], path)
    return path


@pytest.fixture
def opened(browser, page):
    """The page on a desktop, by day, with nothing in the logs from before."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    scheme(browser, "light")
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    return browser


def scheme(browser, name):
    features = [{"name": "prefers-color-scheme", "value": name}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def phone(browser):
    metrics = {"width": 375, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def plots(browser):
    return browser.find_elements("css selector", "figure svg")


def times_table(browser):
    return browser.find_elements("css selector", "main table")[1]


def cells(table, head):
    """The column's texts from above; one call, for each takes the browser a while."""
    return table.parent.execute_script(COLUMN, table, head)


def test_it_loads_without_a_word_on_the_console_and_asks_for_nothing_else(opened, page):
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert opened.get_log("browser") == []


def test_names_from_results_do_not_run(opened, tmp_path):
    hostile = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    path = tmp_path / "hostile.html"
    report.write([results([replace(r, backend=hostile, op=hostile) for r in rows()])], path)
    opened.get(path.as_uri())
    assert opened.execute_script("return window.ran") is None
    assert hostile in opened.find_element("css selector", "main").text
    assert opened.get_log("browser") == []


@pytest.mark.parametrize("small", [False, True], ids=["desktop", "phone"])
def test_every_plot_is_drawn_and_its_texts_neither_overlap_nor_are_cut_off(opened, small):
    if small:
        phone(opened)
    drawn = plots(opened)
    assert len(drawn) == 5
    for svg in drawn:
        name, size = svg.get_attribute("aria-label"), svg.rect
        assert size["width"] > 300, name
        assert size["height"] > 100, name
        assert len(svg.find_elements("css selector", "path")) > 10, name
        boxes = opened.execute_script(TEXT_BOXES, svg)
        assert len(boxes) > 8, name
        left, top, right, bottom = opened.execute_script(
            "const b = arguments[0].getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]", svg
        )
        for text, x0, y0, x1, y1, _ in boxes:
            inside = left - 1 <= x0 and x1 <= right + 1 and top - 1 <= y0 and y1 <= bottom + 1
            assert inside, f"{name}: {text!r}"
        level = [box for box in boxes if not box[-1]]
        for i, (text, x0, y0, x1, y1, _) in enumerate(level):
            for other, u0, v0, u1, v1, _ in level[:i]:
                apart = x1 <= u0 + 1 or u1 <= x0 + 1 or y1 <= v0 + 3 or v1 <= y0 + 3
                assert apart, f"{name}: {text!r} and {other!r}"


@pytest.mark.parametrize("head", ["median, ms", "batch", "error", "variant"])
def test_a_click_on_a_head_sorts_both_ways(opened, head):
    table = times_table(opened)
    before = cells(table, head)
    order = str if head == "variant" else float
    button = table.find_element("xpath", f".//th/button[.='{head}']")
    button.click()
    assert cells(table, head) == sorted(before, key=order) != before
    button.click()
    assert cells(table, head) == sorted(before, key=order, reverse=True)


def test_what_is_not_known_comes_last_both_ways(opened):
    table = times_table(opened)
    button = table.find_element("xpath", ".//th/button[.='floor, ms']")
    for _ in range(2):
        button.click()
        *known, last = cells(table, "floor, ms")
        assert last == ""
        assert "" not in known
    assert [
        one.get_attribute("aria-sort") for one in table.find_elements("css selector", "th[aria-sort]")
    ] == ["descending"]


@pytest.mark.parametrize("name", ["variant", "n" * 300])
def test_on_a_phone_tables_scroll_and_the_page_does_not(opened, tmp_path, name):
    phone(opened)
    path = tmp_path / "a.html"
    changed = {"op": name, "case": name, "shape": name, "device": name}
    report.write([results([replace(r, **changed) for r in rows()], command=f"bench {name}")], path)
    opened.get(path.as_uri())
    for details in opened.find_elements("css selector", "summary"):
        details.click()
    assert opened.execute_script("return document.documentElement.scrollWidth") == 375
    box = times_table(opened).find_element("xpath", "..")
    assert opened.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", box)
    assert opened.execute_script("arguments[0].scrollLeft = 50; return arguments[0].scrollLeft", box) == 50


def test_dark_mode_changes_the_colours_and_all_is_readable_in_both(opened):
    looks = {}
    for name in ("light", "dark"):
        scheme(opened, name)
        contrast, text = opened.execute_script(CONTRAST)
        assert contrast >= 4.5, f"{name}: {text!r}"
        body = opened.find_element("css selector", "body")
        label = plots(opened)[0].find_element("css selector", "text")
        bar = plots(opened)[0].find_element("css selector", "path[style*='--ours']")
        looks[name] = (
            body.value_of_css_property("background-color"),
            body.value_of_css_property("color"),
            label.value_of_css_property("fill"),
            bar.value_of_css_property("fill"),
        )
    for light, dark in zip(looks["light"], looks["dark"], strict=True):
        assert light != dark


def test_without_javascript_the_tables_are_there(opened, page):
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    opened.get(page.as_uri())
    assert opened.find_elements("css selector", "th button") == []
    table = times_table(opened)
    assert table.is_displayed()
    assert cells(table, "variant").count("native-int8") == 2
    assert len(plots(opened)) == 5
