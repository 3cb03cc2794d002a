"""Results as a run on a machine with known peaks would find them."""

import math

from wxkernels.bench.results import Failure, Footprint, Part, Results, Row

CONDITIONS = {
    "device": "a machine, 2 threads",
    "date": "2026-01-02 03:04 UTC",
    "peak_gflops": {"float32": 200, "bfloat16": 400, "int8": 800, "float16": 200},
    "copy_gbytes": 30.0,
    "triad_gbytes": 32.0,
    "torch": "2.13.0",
    "peers": {"torchao": "0.18.0"},
}
#: name, kind, precision, ms of a member, error
VARIANTS = (
    ("eager", "pytorch", "fp32", 180.0, 2e-7),
    ("compiled-bf16", "pytorch", "bf16", 100.0, 4e-3),
    ("openvino-bf16", "peer", "bf16", 90.0, 5e-3),
    ("native", "ours", "fp32", 60.0, 1e-7),
    ("native-int8", "ours", "int8", 25.0, 3e-3),
)


def row(name="native", kind="ours", precision="fp32", ms=60.0, error=1e-7, *, batch=1, **changed):
    """A row of the case spectral_filter, 100 ms for the fastest PyTorch; `changed` are fields of it."""
    speedup = 100.0 * batch / ms
    fields = {
        "device": CONDITIONS["device"],
        "case": "spectral_filter",
        "model": None,
        "op": "spectral_filter",
        "shape": f"{batch}x90x180x768",
        "batch": batch,
        "dtype": "float32",
        "backend": name,
        "kind": kind,
        "precision": precision,
        "rounds": 7,
        "times_ms": [ms] * 7,
        "median_ms": ms,
        "p20_ms": 0.97 * ms,
        "p80_ms": 1.04 * ms,
        "baseline": "compiled-bf16",
        "speedup": speedup,
        "speedup_low": 0.98 * speedup,
        "speedup_high": 1.03 * speedup,
        "noisy": False,
        "cold": True,
        "against": {
            other: other_ms * batch / ms
            for other, other_kind, _, other_ms, _ in VARIANTS
            if other_kind != "ours" and other != name
        },
        "gflops": 4000.0 * batch / ms,
        "gbytes": 100.0 * batch / ms,
        "floor_ms": 20.0 * batch,
        "floor_share": 20.0 * batch / ms,
        "error": error,
        "command": f"wxkernels-bench spectral_filter --batch {batch} --backend {name}",
    }
    return Row(**(fields | changed))


def rows(batch=1, **changed):
    """A row of each variant."""
    return [
        row(name, kind, precision, ms * batch, error, batch=batch, **changed)
        for name, kind, precision, ms, error in VARIANTS
    ]


def parts():
    return [
        Part("fourcastnet", None, "fourcastnet", "1x20x720x1440", 1, name, part, ms, ms / total, floor,
             None if floor is None else floor / ms, f"wxkernels-bench profile --backend {name}")
        for name, total in (("eager", 1000.0), ("patched-int8", 200.0))
        for part, ms, floor in (("filter", 0.4 * total, 0.1 * total), ("MLP", 0.5 * total, 0.2 * total),
                                ("other", 0.1 * total, None))
    ]  # fmt: skip


def results(times=None, **changed):
    """A run with everything that a run can have."""
    fields = {
        "command": "wxkernels-bench spectral_filter --batch 1 --batch 4",
        "conditions": CONDITIONS,
        "times": rows() + rows(batch=4) if times is None else times,
        "parts": parts(),
        "memory": [
            Footprint("fourcastnet", None, "fourcastnet", "1x20x720x1440", 1, "eager", "resident", None,
                      300 * 10**6, 400 * 10**6, 900 * 10**6, 1600 * 10**6, "wxkernels-bench memory")
        ],
        "failed": [Failure("spectral_filter", "openvino-int8", "RuntimeError: out of luck")],
    }  # fmt: skip
    return Results(**(fields | changed))


#: Numbers that JSON can hold and no measurement gives.
UNSOUND = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300, 10**400)
