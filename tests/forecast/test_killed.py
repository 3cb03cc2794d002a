"""kill -9 at any moment, and what a resumed run makes of it."""

import multiprocessing
import random
from pathlib import Path

import pytest

from tests.forecast import killable
from wxkernels.errors import UserError
from wxkernels.io import open_forecast

# Children of a server that has imported everything: each starts in milliseconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.forecast.killable"])


def attempt(path: Path, **options) -> bool:
    """Whether a run into `path` in another process ends well; otherwise it was killed."""
    process = processes.Process(target=killable.forecast, args=(path,), kwargs=options)
    process.start()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by name."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of an uninterrupted run, and how many functions it calls."""
    path, calls = tmp_path_factory.mktemp("whole") / "f.zarr", processes.Value("q")
    assert attempt(path, resume=False, moment="a call", count=10**9, seen=calls)
    return contents(path), calls.value


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random(tmp_path, whole, seed):
    files, calls = whole
    path, moments = tmp_path / "f.zarr", random.Random(seed)
    kills = 0
    while kills < 8 and not attempt(path, resume=True, moment="a call", count=moments.randint(1, calls // 3)):
        kills += 1
    assert kills > 1
    assert attempt(path, resume=True)
    assert contents(path) == files
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]


@pytest.mark.parametrize(
    ("moment", "count"),
    [
        ("half a restart file", 1),
        ("half a restart file", 7),
        ("restart file not in place", 6),
        ("restart file in place", 1),
        ("restart file in place", 6),
        ("chunk not in place", 30),  # some are coordinates; there are 51 of the forecast
        ("store not marked", 1),
        ("restart file not removed", 2),  # it is also removed at the start
    ],
)
def test_killed_at(tmp_path, whole, moment, count):
    path = tmp_path / "f.zarr"
    assert not attempt(path, resume=False, moment=moment, count=count)
    if moment == "restart file not removed":
        assert open_forecast(path).shape[0] == killable.MEMBERS
    else:
        with pytest.raises(UserError, match="unfinished"):
            open_forecast(path)
    assert attempt(path, resume=True)
    assert contents(path) == whole[0]
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]


def test_a_store_made_anew_is_not_resumed_from_an_old_restart_file(tmp_path):
    path, restart = tmp_path / "f.zarr", tmp_path / "f.zarr.restart"
    assert not attempt(path, resume=False, moment="restart file in place", count=5)
    old = restart.read_bytes()
    path.rename(tmp_path / "old.zarr")
    assert not attempt(path, resume=False, moment="restart file in place", count=1)
    restart.write_bytes(old)
    process = processes.Process(target=refused, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0


def refused(path: Path) -> None:
    with pytest.raises(UserError, match="store"):
        killable.forecast(path, resume=True)
