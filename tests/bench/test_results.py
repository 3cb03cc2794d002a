"""The results file: what is written is read again, and anything else gets one line."""

import dataclasses
import json

import pytest

from wxkernels.bench.results import Failure, Footprint, Part, Results, Row, read
from wxkernels.errors import UserError

ROW = Row(
    device="a machine", case="mlp", model="fourcastnet", op="mlp", shape="4x8x16", batch=1, dtype="float32",
    backend="native-int8", kind="ours", precision="int8", rounds=3, times_ms=[0.9, 1.0, 1.1],
    median_ms=1.0, p20_ms=0.9, p80_ms=1.1, baseline="eager",
    speedup=2.0, speedup_low=1.9, speedup_high=2.1, noisy=False, cold=True, against={"eager": 2.0},
    gflops=1.0, gbytes=1.0, floor_ms=None, floor_share=None, error=1e-3, command="wxkernels-bench mlp",
)  # fmt: skip
PART = Part("mlp", None, "mlp", "4x8", 1, "eager", "fc1", 1.0, 0.5, None, None, "wxkernels-bench profile")
FOOTPRINT = Footprint("mlp", None, "mlp", "4x8", 1, "eager", "resident", None, 1, 2, 3, 4, "bench memory")
RESULTS = Results("bench", {"device": "d"}, [ROW], [PART], [FOOTPRINT], [Failure("mlp", "peer", "why")])


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "a.json"
    RESULTS.write(path)
    assert read(path) == RESULTS
    assert path.read_text().count("\n") == 17  # a record a line, so that a change of one shows as one


def test_parts_of_before_their_percentiles_are_read(tmp_path):
    path = tmp_path / "a.json"
    results = dataclasses.replace(RESULTS, parts=[dataclasses.replace(PART, p20_ms=1.0, p80_ms=2.0)])
    results.write(path)
    assert read(path) == results
    content = json.loads(path.read_text())
    for name in ("p20_ms", "p80_ms"):
        del content["parts"][0][name]
    path.write_text(json.dumps(content))
    assert read(path) == RESULTS


def test_rows_of_several_processes_are_read_and_those_of_before_are_of_one(tmp_path):
    path = tmp_path / "a.json"
    several = dataclasses.replace(RESULTS, times=[dataclasses.replace(ROW, processes=3)])
    several.write(path)
    assert read(path) == several
    content = json.loads(path.read_text())
    del content["times"][0]["processes"]
    path.write_text(json.dumps(content))
    assert read(path) == RESULTS


def broken(content, change):
    content = json.loads(json.dumps(content))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=1), "has schema 1, this version reads schema 2; measure again"),
        (lambda c: c.pop("schema"), "has no schema, this version reads schema 2"),
        (lambda c: c.pop("memory"), ": memory is no list; measure again"),
        (lambda c: c.pop("conditions"), ": the file has no 'conditions'"),
        (lambda c: c.update(rows=[]), ": the file has 'rows', which is not known"),
        (lambda c: c["times"].append(3), r": times\[1\] is no object"),
        (lambda c: c["times"][0].pop("error"), r": times\[0\] has no 'error'"),
        (lambda c: c["times"][0].update(error="large"), r": times\[0\] has 'large' for 'error'"),
        (lambda c: c["times"][0].update(median_ms=float("nan")), r": times\[0\] has nan for 'median_ms'"),
        (lambda c: c["times"][0].update(times_ms=[1.0, None]), r": times\[0\] has \[1.0, None\] for"),
        (lambda c: c["times"][0].update(times_ms=[1.0]), r": times\[0\] has not 3 times above 0 for"),
        (lambda c: c["times"][0].update(times_ms=[1, 0, 1]), r": times\[0\] has not 3 times above 0 for"),
        (lambda c: c["times"][0].update(processes=2), r": times\[0\] has 3 rounds in 2 for 'processes'"),
        (lambda c: c["times"][0].update(processes=0), r": times\[0\] has 3 rounds in 0 for 'processes'"),
        (lambda c: c["times"][0].update(processes=None), r": times\[0\] has None for 'processes'"),
        (lambda c: c["times"][0].update(median_ms=10**400), r": times\[0\] has 1000"),
        (lambda c: c["times"][0].update(against={"eager": "2"}), r": times\[0\] has {'eager': '2'} for"),
        (lambda c: c["times"][0].update(batch=True), r": times\[0\] has True for 'batch'"),
        (lambda c: c["parts"][0].update(speed=1), r": parts\[0\] has 'speed', which is not known"),
    ],
)
def test_another_content_gets_one_line(tmp_path, change, message):
    path = tmp_path / "a.json"
    RESULTS.write(path)
    path.write_text(broken(json.loads(path.read_text()), change))
    with pytest.raises(
        UserError, match=r"a\.json" + (message if message[0] == ":" else f" {message}")
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\x00", "[" * 10**6])
def test_what_is_no_results_file_gets_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"a\.json (is not JSON; give a file|has no schema)"):
        read(path)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.json: No such file"):
        read(tmp_path / "none.json")
