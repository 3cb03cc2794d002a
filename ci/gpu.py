"""What ci/gpu.sh does in Python: see what is missing, write the record of the tests, print the table.

python ci/gpu.py needs | e4m3 | record OUT | table OUT
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import invalidate_caches, metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from wxkernels.bench.results import Row

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "wxkernels/verified.json"
TILES = "tiles.json"  # of ci/tune.py
WHEELS = ROOT / ".whl"
#: Packages by their modules.
NEEDS = {
    "torch": "torch",
    "triton": "triton",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "xarray": "xarray",
    "pandas": "pandas",
    "zarr": "zarr",
    "numcodecs": "numcodecs",
    "donfig": "donfig",
    "google_crc32c": "google-crc32c",
    "click": "click",
    "rich": "rich",
    "pytest": "pytest",
    "scikit_build_core": "scikit-build-core",
    "pybind11": "pybind11",
    "cutlass_library": "nvidia-cutlass",
    "ai_models_fourcastnet": "ai-models-fourcastnet",
    "einops": "einops",
}

Key = tuple[str, str]  # op, backend


def needs() -> None:
    """Install what is missing from wheels that were carried here; exit with what still is missing then."""
    for package in missing():
        install = ["install", "-q", "--no-index", "--no-deps", "--find-links", str(WHEELS), package]
        subprocess.run([sys.executable, "-m", "pip", *install], check=False, stderr=subprocess.DEVNULL)
    invalidate_caches()
    if packages := missing():
        names = " ".join(packages)
        sys.exit(
            f"error: {names} missing; where there is a network, in Python {sys.version_info.major}."
            f"{sys.version_info.minor}: pip wheel --no-deps -c constraints.txt -w .whl {names}"
        )
    if shutil.which("nvcc") is None:
        sys.exit("error: nvcc is missing: put that of a CUDA toolkit from 12.0 on PATH")
    import torch

    if not torch.cuda.is_available():
        sys.exit(f"error: torch {torch.__version__} finds no GPU; it takes a build of torch for CUDA")


def e4m3() -> None:
    """Exit with the reason where the GPU has no float8_e4m3fn."""
    import torch

    from wxkernels.ops._triton import Target, without_e4m3

    sys.exit(without_e4m3(Target.of(torch.device("cuda", 0))))


def missing() -> list[str]:
    return [package for module, package in NEEDS.items() if find_spec(module) is None]


def outcomes(report: Path) -> dict[Key, Counter[str]]:
    """How many tests passed, failed and were skipped, by op and backend: tests/ops/OP/test_BACKEND.py."""
    found: dict[Key, Counter[str]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        _, _, op, file, *_ = case.attrib["classname"].split(".")
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found.setdefault((op, file.removeprefix("test_")), Counter())[outcome] += 1
    return found


def errors(out: Path) -> dict[Key, dict[str, float]]:
    """By op and backend, then by case and dtype: the largest error measured, over the largest exact value."""
    found: dict[Key, dict[str, float]] = {}
    for row in times(out):
        if row.kind == "ours":
            mine = found.setdefault((row.op, row.backend.partition("-")[0]), {})
            size = f"{row.case} {row.dtype}"
            mine[size] = max(row.error, mine.get(size, 0.0))
    return found


def speeds(out: Path) -> dict[Key, float]:
    """By op and backend: the geometric mean of the measured speeds over PyTorch's.

    PyTorch's is the fastest eager variant that is no less precise: what runs where no kernel of ours does.
    """
    found: dict[Key, list[float]] = {}
    rows = list(times(out))
    for row in (row for row in rows if row.kind == "ours"):
        beside = [
            row.against[other.backend]
            for other in rows
            if other.problem == row.problem
            and other.backend.startswith("eager")
            and _bytes(other.precision) >= _bytes(row.precision)
        ]
        if beside:
            found.setdefault((row.op, row.backend.partition("-")[0]), []).append(min(beside))
    return {key: geometric_mean(values) for key, values in found.items()}


def _bytes(precision: str) -> int:
    import torch

    return getattr(torch, precision).itemsize


def times(out: Path) -> Iterator["Row"]:
    """What wxkernels-bench wrote."""
    from wxkernels.bench.results import read

    for path in sorted(out.glob("*.json")):
        if path.name not in (RECORD.name, TILES):
            yield from read(path).times


def records(
    out: Path, old: list[dict[str, Any]], architecture: str, where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The old records but those of what was tested now, and one for each backend whose tests all passed."""
    tested, measured, speed = outcomes(out / "tests.xml"), errors(out), speeds(out)
    kept = [r for r in old if r["architecture"] != architecture or (r["op"], r["backend"]) not in tested]
    new = [
        {
            "op": op,
            "backend": backend,
            "architecture": architecture,
            "tests": counts["passed"],
            "error": measured.get((op, backend), {}),
            "speedup": speed.get((op, backend)),
            **where,
        }
        for (op, backend), counts in tested.items()
        if counts["passed"] == counts.total()
    ]
    return sorted(kept + new, key=lambda r: (r["op"], r["backend"], r["architecture"]))


def record(out: Path) -> None:
    if not (out / "tests.xml").is_file():
        sys.exit(f"error: {out}/tests.xml is not there: the tests did not end")
    import torch

    import wxkernels
    from wxkernels.backends import device_architecture
    from wxkernels.io.files import whole_file

    device = torch.device("cuda", 0)
    where = {
        "device": torch.cuda.get_device_name(device),
        "versions": {
            "wxkernels": wxkernels.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "triton": metadata.version("triton"),
        },
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    old = json.loads(RECORD.read_text())["records"] if RECORD.is_file() else []
    found = records(out, old, device_architecture(device), where)
    for path in (RECORD, out / RECORD.name):
        with whole_file(path) as partial:
            partial.write_text(json.dumps({"records": found}, indent=1) + "\n")
    print(f"{RECORD} has {len(found)} records")


def table(out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110)
    if (out / "tests.xml").is_file():
        tests = Table("op", "backend", "passed", "failed", "skipped", title="tests on the GPU")
        for (op, backend), counts in outcomes(out / "tests.xml").items():
            tests.add_row(op, backend, *(str(counts[name]) for name in ("passed", "failed", "skipped")))
        console.print(tests)
    speeds = Table("op", "shape", "dtype", "backend", "ms", "x PyTorch", "error", title="times on the GPU")
    for row in times(out):
        numbers = f"{row.median_ms:.3g}", f"{row.speedup:.2f}", f"{row.error:.0e}"
        speeds.add_row(row.op, row.shape, row.dtype, row.backend, *numbers)
    console.print(speeds)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["needs"]:
            needs()
        case ["e4m3"]:
            e4m3()
        case ["record", out]:
            record(Path(out))
        case ["table", out]:
            table(Path(out))
        case _:
            sys.exit(__doc__)
