import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import xarray as xr

from tests.io.samples import GRID
from wxkernels.errors import UserError
from wxkernels.io import ForecastWriter, Output, open_forecast, to_netcdf

NAMES = ("t2m", "z500", "u500")
STEPS = np.arange(4) * np.timedelta64(6, "h")
FIELDS = np.random.default_rng(0).random((4, 3, 3, *GRID.shape), np.float32)  # (step, member, variable, H, W)


def writer(path, **changes):
    options = {
        "grid": GRID,
        "variables": NAMES,
        "time": np.datetime64("2018-01-01T06"),
        "lead_times": STEPS,
        "members": 3,
        "attrs": {
            "seed": np.int64(1),
            "checkpoint_sha256": "ab",
            "command": "wxkernels forecast",
            "versions": {"a": "1"},
        },
    }
    return ForecastWriter(path, **{**options, **changes})


def write(w, steps=range(4), complete=True):
    for step in steps:
        w.put(step, slice(0, 2), FIELDS[step, :2])
        w.put(step, [2], FIELDS[step, 2:])
    w.close(complete)


def test_a_run_comes_back_whole_and_described(tmp_path):
    write(writer(tmp_path / "f.zarr"))
    f = open_forecast(tmp_path / "f.zarr")
    assert f.dims == ("ensemble", "time", "lead_time", "variable", "lat", "lon")
    assert f.dtype == np.float32
    np.testing.assert_array_equal(f.values[:, 0].swapaxes(0, 1), FIELDS)
    assert f["lead_time"].values[0] == np.timedelta64(0)
    assert f["time"].values == [np.datetime64("2018-01-01T06")]
    assert f["variable"].values.tolist() == list(NAMES)
    assert f["units"].values.tolist() == ["K", "m2 s-2", "m s-1"]
    assert f["lat"].attrs["standard_name"] == "latitude"
    assert {n: f[n].attrs["axis"] for n in ("time", "lat", "lon")} == {"time": "T", "lat": "Y", "lon": "X"}
    assert f.attrs["seed"] == 1
    assert f.attrs["versions"] == {"a": "1"}
    assert f.attrs["complete"] is True


@pytest.mark.filterwarnings("error")
def test_xarray_opens_it_without_a_word(tmp_path):
    write(writer(tmp_path / "f.zarr"))
    with xr.open_zarr(tmp_path / "f.zarr") as opened:
        assert opened.attrs["complete"] is True
        np.testing.assert_array_equal(opened["forecast"][:, 0].values.swapaxes(0, 1), FIELDS)


def test_the_callers_buffer_may_change_after_put(tmp_path):
    w, buffer = writer(tmp_path / "f.zarr"), np.empty_like(FIELDS[0])
    for step in range(4):
        buffer[:] = FIELDS[step]
        w.put(step, slice(None), buffer)
        buffer[:] = -1
    w.close(True)
    np.testing.assert_array_equal(open_forecast(tmp_path / "f.zarr")[:, 0].values.swapaxes(0, 1), FIELDS)


def test_an_unfinished_store_is_never_taken_for_a_whole_one(tmp_path):
    write(writer(tmp_path / "f.zarr"), steps=[0, 1], complete=False)
    with pytest.raises(UserError, match=r"unfinished.*--resume"):
        open_forecast(tmp_path / "f.zarr")
    f = open_forecast(tmp_path / "f.zarr", allow_partial=True)
    np.testing.assert_array_equal(f[:, 0, :2].values.swapaxes(0, 1), FIELDS[:2])
    assert f[:, 0, 2:].isnull().all()  # not yet written
    with pytest.raises(UserError, match="unfinished"):
        to_netcdf(tmp_path / "f.zarr", tmp_path / "f.nc")
    assert not (tmp_path / "f.nc").exists()


def test_resume_goes_on_with_the_same_run_only(tmp_path):
    path = tmp_path / "f.zarr"
    write(writer(path, resume=True), steps=[0, 1], complete=False)  # nothing there yet: begins
    attrs = {"seed": 2, "checkpoint_sha256": "ab", "command": "other", "versions": {"a": "1"}}
    for changes, message in (
        ({"attrs": attrs}, "seed is 1 there and 2 here"),
        ({"members": 4}, "its ensemble differs"),
        ({"lead_times": STEPS[:3]}, "its lead_time differs"),
        ({"time": np.datetime64("2018-01-02")}, "its time differs"),
        ({"output": Output(variables=["t2m"])}, "its variable differs"),
        ({"output": Output(statistics_only=True)}, "dims statistic|dims ensemble"),
    ):
        with pytest.raises(UserError, match=message):
            writer(path, resume=True, **changes)
    write(writer(path, resume=True, attrs={**attrs, "seed": 1}), steps=[1, 2, 3])
    np.testing.assert_array_equal(open_forecast(path)[:, 0].values.swapaxes(0, 1), FIELDS)


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "f.zarr"
    write(writer(path), complete=False)
    with pytest.raises(UserError, match=r"unfinished.*--resume"):
        writer(path)
    write(writer(path, resume=True))
    with pytest.raises(UserError, match="holds a forecast"):
        writer(path)
    write(writer(path, members=1, overwrite=True), steps=[], complete=True)
    assert open_forecast(path).sizes["ensemble"] == 1
    (tmp_path / "thesis").mkdir()
    with pytest.raises(UserError, match="not a forecast store"):
        writer(tmp_path / "thesis", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.zarr", "thesis"]


@pytest.mark.parametrize(
    ("region", "lat", "lon"),
    [
        ((50, 10, -10, 70), [45, 22.5, 0], [22.5, 45, 67.5]),
        ((90, -30, 80, 30), [90], [337.5, 360, 382.5]),
        ((0, 150, -30, -150), [0, -22.5], [157.5, 180, 202.5]),
        ((90, -180, 90, 180), [90], np.roll(GRID.lon, -8) % 360 + 360 * (np.arange(16) >= 8)),
        ((10, 0, -10, 360), [0], GRID.lon),
    ],
)
def test_regions_across_the_seams(tmp_path, region, lat, lon):
    write(writer(tmp_path / "f.zarr", output=Output(region=region)))
    f = open_forecast(tmp_path / "f.zarr")
    assert f["lat"].values.tolist() == list(lat)
    assert f["lon"].values.tolist() == list(lon)
    rows = [GRID.lat.tolist().index(v) for v in lat]
    columns = [GRID.lon.tolist().index(v % 360) for v in lon]
    np.testing.assert_array_equal(f[:, 0].values.swapaxes(0, 1), FIELDS[..., rows, :][..., columns])


def test_chosen_variables_and_leads(tmp_path):
    output = Output(variables=["u500", "t2m"], lead_times=STEPS[[0, 3]])
    write(writer(tmp_path / "f.zarr", output=output))
    f = open_forecast(tmp_path / "f.zarr")
    assert f["variable"].values.tolist() == ["u500", "t2m"]
    np.testing.assert_array_equal(f[:, 0].values.swapaxes(0, 1), FIELDS[[0, 3]][:, :, [2, 0]])


def test_statistics_only(tmp_path):
    w = writer(tmp_path / "f.zarr", output=Output(statistics_only=True))
    for step in range(4):
        w.statistics(step, FIELDS[step].mean(0), FIELDS[step].std(0))
    with pytest.raises(ValueError, match="statistics only"):
        w.put(0, [0], FIELDS[0, :1])
    w.close(True)
    f = open_forecast(tmp_path / "f.zarr")
    np.testing.assert_array_equal(f.sel(statistic="mean")[0], FIELDS.mean(1))
    np.testing.assert_array_equal(f.sel(statistic="std")[0], FIELDS.std(1))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Output(variables=["tcwv"]), "no variable tcwv; it has t2m, z500, u500"),
        (Output(lead_times=[np.timedelta64(7, "h")]), "no lead time 7 h; it has 0 h, 6 h"),
        (Output(variables=["z500", "t2m", "z500"]), "output: variable z500 is given twice"),
        (Output(lead_times=np.array([0, 6, 6], "m8[h]")), "output: lead time 6 h is given twice"),
        (Output(region=(10, 3, 5, 4)), "holds no point"),
    ],
)
def test_a_choice_that_is_not_there(tmp_path, output, message):
    with pytest.raises(UserError, match=message):
        writer(tmp_path / "f.zarr", output=output)
    assert not list(tmp_path.iterdir())


def test_several_runs_in_one_store(tmp_path):
    write(writer(tmp_path / "all.zarr" / "monday"))
    write(writer(tmp_path / "all.zarr" / "tuesday", members=2), steps=[], complete=True)
    assert open_forecast(tmp_path / "all.zarr" / "tuesday").sizes["ensemble"] == 2
    with pytest.raises(UserError, match=r"several runs .monday, tuesday"):
        open_forecast(tmp_path / "all.zarr")
    assert xr.open_zarr(tmp_path / "all.zarr", group="monday", consolidated=False).sizes["ensemble"] == 3
    with pytest.raises(UserError, match="no such forecast"):
        open_forecast(tmp_path / "none.zarr")
    with pytest.raises(UserError, match="not a forecast store"):
        open_forecast(tmp_path)


def test_netcdf_is_cf_and_whole(tmp_path):
    write(writer(tmp_path / "f.zarr"))
    to_netcdf(tmp_path / "f.zarr", tmp_path / "f.nc")
    with xr.open_dataset(tmp_path / "f.nc", decode_timedelta=True) as data:
        assert data["z500"].dims == ("ensemble", "time", "lead_time", "lat", "lon")
        assert data["z500"].attrs["units"] == "m2 s-2"
        assert data["z500"].attrs["standard_name"] == "geopotential"
        assert data["lead_time"].values[1] == np.timedelta64(6, "h")
        for at, name in enumerate(NAMES):
            np.testing.assert_array_equal(data[name][:, 0].values.swapaxes(0, 1), FIELDS[:, :, at])
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UserError) as error:
        to_netcdf(tmp_path / "f.zarr", nowhere / "f.nc")
    assert str(error.value) == (
        f"cannot write {nowhere / 'f.nc'}: no folder {nowhere}; make it or choose another path"
    )
    assert not list(tmp_path.glob(".*"))


def test_the_queue_is_bounded(tmp_path, monkeypatch):
    """A slow disk makes `put` wait; it does not fill the memory."""
    w = writer(tmp_path / "f.zarr", members=1, lead_times=np.arange(20) * np.timedelta64(6, "h"))
    gate, written = threading.Event(), []

    class SlowArray:
        def __setitem__(self, key, value):
            gate.wait(30)
            written.append(key)

    monkeypatch.setattr(w, "_array", SlowArray())
    producer = threading.Thread(target=lambda: [w.put(s, [0], FIELDS[0, :1]) for s in range(20)])
    producer.start()
    producer.join(0.3)
    assert producer.is_alive()
    gate.set()
    producer.join(30)
    w.flush()
    assert [key[2] for key in written] == list(range(20))
    w.close(False)


def test_an_error_of_the_thread_surfaces_and_nothing_hangs(tmp_path, monkeypatch):
    w = writer(tmp_path / "f.zarr")

    class FullDisk:
        def __setitem__(self, key, value):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(w, "_array", FullDisk())
    w.put(0, slice(None), FIELDS[0])  # queued, so this one cannot know yet
    with pytest.raises(UserError, match="No space left on device; free space"):
        w.flush()
    with pytest.raises(UserError, match="No space left"):
        w.put(1, slice(None), FIELDS[1])
    with pytest.raises(UserError, match="No space left"):
        w.close(True)
    assert open_forecast(tmp_path / "f.zarr", allow_partial=True).attrs["complete"] is False


def test_a_path_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*; check the path") as error:
        writer(tmp_path / "file" / "f.zarr")
    assert "\n" not in str(error.value)


def test_fields_of_another_shape_are_refused(tmp_path):
    w = writer(tmp_path / "f.zarr")
    with pytest.raises(ValueError, match="expected shape"):
        w.put(0, [0, 1], FIELDS[0])
    w.close(False)


KILLED = """
import os, sys
from pathlib import Path
from tests.io.test_writer import FIELDS, writer
w = writer(Path(sys.argv[1]))
w.put(0, slice(None), FIELDS[0])
w.flush()
for _ in range(50):
    w.put(1, slice(None), FIELDS[1])
os.kill(os.getpid(), 9)
"""


def test_a_killed_writer_leaves_what_was_flushed_and_can_resume(tmp_path):
    path = tmp_path / "f.zarr"
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], cwd=root, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == -9
    f = open_forecast(path, allow_partial=True)
    np.testing.assert_array_equal(f[:, 0, 0], FIELDS[0])
    write(writer(path, resume=True), steps=[1, 2, 3])
    np.testing.assert_array_equal(open_forecast(path)[:, 0].values.swapaxes(0, 1), FIELDS)


def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_what_killed_runs_left_is_swept_and_nothing_else(tmp_path, options):
    path, ended, living = tmp_path / "f.zarr", dead(), os.getppid()
    write(writer(path), steps=[0], complete=False)
    chunks, digits = path / "forecast" / "c", "0123456789abcdef" * 2
    ours = [
        path / f"zarr.{digits}.partial",
        chunks / f"0.{digits}.partial",
        tmp_path / f".f.zarr.{ended}.partial" / "zarr.json",
        tmp_path / f".f.zarr.{ended}.old" / "zarr.json",
        tmp_path / f".f.zarr.{os.getpid()}.partial" / "zarr.json",  # numbers of processes come again
    ]
    others = [
        tmp_path / f".f.zarr.{living}.partial" / "zarr.json",
        tmp_path / f".g.zarr.{ended}.partial" / "zarr.json",
        tmp_path / f".fxzarr.{ended}.partial" / "zarr.json",
        tmp_path / ".f.zarr.mine.partial" / "zarr.json",
        tmp_path / f"f.zarr.{ended}.partial" / "zarr.json",
        tmp_path / f"zarr.{digits}.partial",
        tmp_path / f".f.zarr.{ended + 1 if ended + 1 != living else ended + 2}.partial",  # no folder
    ]
    in_store = [path / "thesis.partial", path / f"thesis.{digits}.partial", chunks / "0.12.partial"]
    for file in (*ours, *others, *in_store):
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    with pytest.raises(UserError):
        writer(path)  # refused, so nothing is touched
    assert all(file.exists() for file in (*ours, *others, *in_store))
    writer(path, **options).close(False)
    assert not [file for file in ours if file.exists() or (file.parent.name.startswith(f".f.zarr.{ended}")
                and file.parent.exists())]  # fmt: skip
    assert all(file.exists() for file in others)
    assert all(file.exists() for file in in_store) == ("resume" in options)


def test_a_finished_store_is_known_when_resumed(tmp_path):
    path = tmp_path / "f.zarr"
    write(writer(path), steps=[0], complete=False)
    resumed = writer(path, resume=True)
    assert resumed.finished is None
    resumed.close(True, {"run": {"seed": 1}})
    again = writer(path, resume=True)
    assert again.finished["run"] == {"seed": 1}
    again.close(False)
    assert open_forecast(path).attrs["complete"] is True
