"""ci/tables.py: what stands between its markers, in README.md and docs/, is made of results files."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from tests.bench.test_results import FOOTPRINT, PART, ROW
from wxkernels.bench.results import Results
from wxkernels.errors import UserError

ROOT = Path(__file__).parents[2]
HEADER = {
    "device": "a machine", "memory_gbytes": 25.3, "cache_mbytes": 32.0, "torch": "2.13.0", "commit": "abc",
    "date": "2026-11-21 16:00 UTC", "copy_gbytes": 30.5, "triad_gbytes": 20.1,
    "peak_gflops": {"float32": 236, "bfloat16": 473, "int8": 945},
}  # fmt: skip
SECONDS = {"eager": 19.0, "compiled-bf16": 8.4, "compiled-bf16-freezing": 8.0, "pt2e-int8": 6.0,
           "patched-fp32": 10.0, "patched-int8": 2.0}  # fmt: skip


@pytest.fixture
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "ci" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps(batch=1):
    def precision(name):
        return "int8" if "int8" in name else "bfloat16" if "bf16" in name else "float32"

    return [
        dataclasses.replace(
            ROW, case="fourcastnet", backend=name, median_ms=1e3 * seconds * batch, batch=batch,
            precision=precision(name), shape=f"{batch}x20", floor_ms=1500.0,
            against={other: SECONDS[other] / seconds for other in SECONDS if other != name},
        )
        for name, seconds in SECONDS.items()
    ]  # fmt: skip


def test_the_markers_of_the_texts_are_known_and_closed(tables):
    found = []
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = path.read_text()
        blocks = tables.BLOCK.findall(text)
        assert len(blocks) == text.count("<!-- measured") == text.count("<!-- end -->")
        found += [(name, device) for name, device, _ in blocks]
    assert len(set(found)) == len(found)
    assert {name for name, _ in found} == {*tables.TABLES, "forecast"}
    assert all((ROOT / "bench" / "results" / device).is_dir() for _, device in found)


def test_a_step_shows_the_fastest_of_each_kind_and_what_follows(tables):
    lines = list(tables.step([Results("", HEADER, steps())]))
    assert "| PyTorch, bf16 autocast, torch.compile | 8 | 1e-03 |" in lines
    assert lines[-1] == (
        "In int8 it is 4.0 times faster than the fastest peer in bfloat16 and 3.0 times faster than the"
        " fastest peer in int8; the machine's floor for it is 1.5 s."
    )


def test_the_forecast_is_told_from_what_it_printed(tables):
    printed = (
        "calibrating int8 on the initial state\n40 member-steps in 120.4 s, 0.332 a second;"
        " 3.01 s a member-step, 2.75 s of it the model in int8; written: a.zarr\n160 s in all\n"
    )
    first, second, command = tables.forecast(printed)
    assert first.endswith("all 20 variables written, take")
    assert second == "120 s, 2.75 s a step in the model, after 40 s of set-up and calibration"
    assert command.startswith("(`wxkernels forecast ")
    with pytest.raises(LookupError):
        list(tables.forecast("error: no memory"))


def test_members_are_those_that_ran_with_all_numbers_of_them(tables):
    one, both = Results("", HEADER, steps()), Results("", HEADER, [*steps(2)[-1:], *steps()])
    assert list(tables.members([one, both])) == [
        "| members | 1 | 2 |",
        "| --- | --- | --- |",
        "| patched-int8 | 2 | 2 |",
    ]


def test_floors_tell_what_is_possible_and_what_was_measured(tables, monkeypatch):
    wanted = [
        ("fourcastnet", "fourcastnet", batch, "patched-int8", peer)
        for batch, peer in ((1, "eager"), (4, None))
    ]
    monkeypatch.setattr(tables, "FLOORS", wanted)
    rows = [dataclasses.replace(row, baseline="compiled-bf16-freezing") for row in steps() + steps(4)]
    assert list(tables.floors([Results("", HEADER, rows)]))[2:] == [
        "| fourcastnet, patched-int8 | eager | 12.67x | 9.50x |",
        "| fourcastnet, patched-int8, 4 members | compiled-bf16-freezing | 21.33x | 4.00x |",
    ]
    with pytest.raises(LookupError):
        list(tables.floors([Results("", HEADER, steps())]))


def test_texts_are_rewritten_between_the_markers_only(tables, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "a.md"
    other = "<!-- measured: mlp, b -->\nof another device\n<!-- end -->\n"
    readme.write_text(f"before\n<!-- measured: mlp, results -->\nold\n<!-- end -->\n{other}after\n")
    page.write_text(
        "".join(f"<!-- measured: {name}, results -->\n<!-- end -->\n" for name in ("parts", "memory"))
    )
    folder = tmp_path / "results"
    folder.mkdir()
    Results("", HEADER, [ROW], [PART], [FOOTPRINT]).write(folder / "a.json")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    for _ in range(2):
        tables.main(folder)
        text = readme.read_text()
        assert text.startswith("before\n<!-- measured: mlp, results -->\n| input |")
        assert text.endswith(f" |\n<!-- end -->\n{other}after\n")
        assert "old" not in text
        assert text.count(ROW.backend) == 1
    assert page.read_text().count("| eager |") == 2


def test_results_that_are_not_there_are_told(tables, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there are no results in"):
        tables.main(tmp_path)
    Results("", HEADER, [ROW]).write(tmp_path / "a.json")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"<!-- measured: step, {tmp_path.name} -->\n<!-- end -->\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    with pytest.raises(UserError, match="has not all that step shows"):
        tables.main(tmp_path)


def test_where_one_table_cannot_be_made_no_text_is_written(tables, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    Results("", HEADER, [ROW]).write(tmp_path / "a.json")
    block = f"<!-- measured: {{}}, {tmp_path.name} -->\n<!-- end -->\n"
    readme = tmp_path / "README.md"
    readme.write_text(block.format("mlp"))
    (tmp_path / "docs" / "a.md").write_text(block.format("step"))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    with pytest.raises(UserError, match="has not all that step shows"):
        tables.main(tmp_path)
    assert readme.read_text() == block.format("mlp")
