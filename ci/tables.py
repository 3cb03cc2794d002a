"""Write the tables of README.md and docs/ from results files: python ci/tables.py bench/results/DEVICE

A table stands between <!-- measured: NAME, DEVICE --> and <!-- end -->, and is replaced by what
TABLES[NAME] makes of all results of the folder, and `forecast` of forecast.txt. Those of other devices stay.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from wxkernels.bench.results import Results, Row, read
from wxkernels.errors import UserError
from wxkernels.io.files import whole_file

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- measured: (\w+), ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
#: One step of the network in the README: labels, and the variants of which the fastest is shown.
STEP = {
    "PyTorch, eager, float32": ("eager",),
    "PyTorch, bf16 autocast, eager": ("eager-bf16",),
    "PyTorch, bf16 autocast, torch.compile": ("compiled-bf16", "compiled-bf16-freezing"),
    "torchao, int8, compiled": ("torchao-int8",),
    "PyTorch's X86 quantizer (oneDNN), int8, compiled": ("pt2e-int8",),
    "OpenVINO, bf16": ("openvino-bf16",),
    "wxkernels.patch, float32": ("patched-fp32",),
    "wxkernels.patch, bf16": ("patched-bf16",),
    "wxkernels.patch, int8": ("patched-int8",),
}

#: Whose floors are told: case, model, batch, variant of ours, and of whom (None: the fastest PyTorch).
FLOORS = (
    ("fourcastnet", "fourcastnet", 1, "patched-int8", None),
    ("fourcastnet", "fourcastnet", 4, "patched-int8", None),
    ("fourcastnet", "fourcastnet", 1, "patched-bf16", None),
    ("fourcastnet", "fourcastnet", 1, "patched-int8", "eager"),
    ("fourcastnet", "fourcastnet", 1, "patched-fp32", "eager"),
    ("linear_int8", "fourcastnet:fc1", 1, "native", "int_mm"),
    ("linear_int8", "fourcastnet:fc2", 1, "native", "int_mm"),
)

Lines = Iterator[str]


def main(folder: Path) -> None:
    results = [read(path) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise UserError(f"there are no results in {folder}: ci/bench.sh")

    printed = folder / "forecast.txt"

    def made(block: re.Match[str]) -> str:
        if block[2] != folder.name:
            return block[0]
        if block[1] == "forecast" and not printed.is_file():  # three minutes that not everyone takes
            return block[0]
        try:
            found = forecast(printed.read_text()) if block[1] == "forecast" else TABLES[block[1]](results)
            lines = "\n".join(found)
        except LookupError:
            raise UserError(f"{folder} has not all that {block[1]} shows: ci/bench.sh") from None
        return f"<!-- measured: {block[1]}, {block[2]} -->\n{lines}\n<!-- end -->"

    texts = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
    after = {
        path: BLOCK.sub(made, text) for path, text in texts.items()
    }  # all of them, before one is written
    for path, text in after.items():
        if text != texts[path]:
            with whole_file(path) as partial_path:
                partial_path.write_text(text)
            print(f"{path.relative_to(ROOT)}: other figures")


def machine(results: Sequence[Results]) -> Lines:
    """The device, its peaks as far as the runs differ, versions and dates."""
    headers = [run.conditions for run in results if "peak_gflops" in run.conditions]
    first = headers[0]
    yield (
        f"{first['device']}, {first['memory_gbytes']} GB of memory, {first['cache_mbytes']} MB of last level"
        f" cache; torch {first['torch']}; commit {_span([h['commit'] for h in headers])},"
        f" {_span([h['date'][:10] for h in headers])}."
    )
    names = ("float32", "bfloat16", "int8")
    peaks = (f"{name} {_span([h['peak_gflops'][name] for h in headers])}" for name in names)
    copy, triad = (_span([h[f"{name}_gbytes"] for h in headers]) for name in ("copy", "triad"))
    yield f"Peaks of the runs: {', '.join(peaks)} GFLOP/s; copy {copy}, triad {triad} GB/s."


def step(results: Sequence[Results]) -> Lines:
    """The README's table, and what follows from it."""
    rows = {row.backend: row for row in _rows(results, "fourcastnet") if _is(row, "fourcastnet", 1)}
    yield from _table("", "s a step", "error")
    for label, names in STEP.items():
        found = [rows[name] for name in names if name in rows]
        if found:
            row = min(found, key=lambda row: row.median_ms)
            yield _line(label, f"{row.median_ms / 1e3:.3g}", f"{row.error:.0e}")
    ours = rows["patched-int8"]
    faster = []
    for precision in ("bfloat16", "int8"):
        ratios = [ratio for peer, ratio in ours.against.items() if rows[peer].precision == precision]
        if ratios:
            faster.append(f"{min(ratios):.1f} times faster than the fastest peer in {precision}")
    floor = "" if ours.floor_ms is None else f"; the machine's floor for it is {ours.floor_ms / 1e3:.1f} s"
    yield ""
    yield f"In int8 it is {' and '.join(faster)}{floor}."


def layer(results: Sequence[Results]) -> Lines:
    """What the README says of the AFNO layer alone."""
    rows = [row for row in _rows(results, "spectral_filter") if _is(row, "fourcastnet", 1)]
    row = {(row.backend, row.dtype): row for row in rows}["native", "float32"]
    yield f"The AFNO layer alone takes {row.median_ms:.3g} ms in float32, {row.speedup:.1f} times less than"
    yield f"{row.baseline} PyTorch ([docs/spectral_filter.md](docs/spectral_filter.md))."


def forecast(printed: str) -> Lines:
    """What the README says of a forecast at full size, from what `wxkernels forecast` printed."""
    found = re.search(r"member-steps in ([\d.]+) s.*\s([\d.]+) s of it the model in int8", printed)
    whole = re.search(r"^(\d+) s in all", printed, re.MULTILINE)
    if found is None or whole is None:
        raise LookupError(printed)
    seconds, step = float(found[1]), float(found[2])
    before = float(whole[1]) - seconds
    yield "Ten days of 6-hour steps at a quarter of a degree in int8, all 20 variables written, take"
    yield f"{seconds:.0f} s, {step:.3g} s a step in the model, after {before:.0f} s of set-up and calibration"
    yield "(`wxkernels forecast --random-weights fourcastnet --precision int8 --members 1 --steps 40`)."


def times(case: str, results: Sequence[Results]) -> Lines:
    """All rows of a case."""
    yield from _table("input", "variant", "ms", "speed", "95 %", "of its floor", "error")
    for (shape, dtype), some in groupby(_rows(results, case), key=lambda row: (row.shape, row.dtype)):
        for i, row in enumerate(some):
            known = row.speedup_low is not None and row.backend != row.baseline
            interval = f"{row.speedup_low:.2f} - {row.speedup_high:.2f}" if known else ""
            yield _line(
                "" if i else f"{shape} {dtype}",
                row.backend + (" (noisy)" if row.noisy else ""),
                f"{row.median_ms:.0f}" if row.median_ms >= 100 else f"{row.median_ms:.3g}",
                f"{row.speedup:.2f}x",
                interval,
                "" if row.floor_share is None else f"{row.floor_share:.0%}",
                f"{row.error:.1e}",
            )


def members(results: Sequence[Results]) -> Lines:
    """Seconds a member by the members in a step, of the run with the most numbers of them."""
    run = max(results, key=lambda run: len({row.batch for row in _rows([run], "fourcastnet")}))
    rows = [row for row in _rows([run], "fourcastnet") if row.model == "fourcastnet"]
    batches = sorted({row.batch for row in rows})
    found = {(row.backend, row.batch): row.median_ms / 1e3 / row.batch for row in rows}
    yield from _table("members", *map(str, batches))
    for backend in dict.fromkeys(row.backend for row in rows):
        if all((backend, batch) in found for batch in batches):
            yield _line(backend, *(f"{found[backend, batch]:.3g}" for batch in batches))


def floors(results: Sequence[Results]) -> Lines:
    """How much faster than a peer ours could be, were they at their floor, and how much they are."""
    yield from _table("ours", "against", "at its floor", "measured")
    for case, model, batch, backend, peer in FLOORS:
        found = _rows(results, case)
        rows = {row.backend: row for row in found if _is(row, model, batch)}
        row = rows[backend]
        other = rows[peer or row.baseline]
        if row.floor_ms is None:
            raise LookupError(backend)
        ours = f"{model}, {backend}" if batch == 1 else f"{model}, {backend}, {batch} members"
        measured = row.against[other.backend]
        yield _line(ours, other.backend, f"{other.median_ms / row.floor_ms:.2f}x", f"{measured:.2f}x")


def parts(results: Sequence[Results]) -> Lines:
    """The profile: milliseconds of each part, its share of the floor in brackets."""
    found = [part for run in results for part in run.parts]
    names = list(dict.fromkeys(part.part for part in found))
    yield from _table("ms (of floor)", *names)
    for backend, some in groupby(found, key=lambda part: part.backend):
        by_name = {part.part: part for part in some}
        cells = []
        for name in names:
            part = by_name[name]
            share = "" if part.floor_share is None else f" ({part.floor_share:.0%})"
            cells.append(f"{part.median_ms:.0f}{share}")
        yield _line(backend, *cells)


def memory(results: Sequence[Results]) -> Lines:
    yield from _table("MB", "checkpoint", "tensors", "process at start", "ready", "peak")
    for row in (row for run in results for row in run.memory):
        sizes = (row.parameters, row.start, row.ready, row.peak)
        file = "" if row.file is None else f"{row.file / 1e6:.0f}"
        yield _line(row.backend, file, *(f"{size / 1e6:.0f}" for size in sizes))


TABLES = {
    "machine": machine,
    "step": step,
    "layer": layer,
    "members": members,
    "floors": floors,
    "parts": parts,
    "memory": memory,
    **{
        case: partial(times, case)
        for case in (
            "fourcastnet",
            "mlp",
            "linear_int8",
            "patch_embed",
            "patch_head",
            "layer_norm",
            "layer_norm_int8",
            "spectral_filter",
        )
    },
}


def _rows(results: Sequence[Results], case: str) -> list[Row]:
    """By batch, and else in the order of the files."""
    found = [row for run in results for row in run.times if row.case == case]
    return sorted(found, key=lambda row: row.batch)


def _is(row: Row, model: str, batch: int) -> bool:
    return (row.model, row.batch) == (model, batch)


def _span(values: Sequence[Any]) -> str:
    """One value, or from the least to the largest."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _table(*columns: str) -> Lines:
    yield _line(*columns)
    yield _line(*["---"] * len(columns))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")
