"""Every variant of ours at the shapes of its model, held to the stored results of this device.

    pytest bench                     # all; -k mlp: one case
    pytest bench --device cuda --shape fourcastnet-26

What is held is the speed over the same baseline, which runs in turn with it: a slower machine is no failure,
and neither is noise.
"""

import dataclasses

import pytest
import torch

from wxkernels.bench.compare import compare
from wxkernels.bench.engine import Turns, dtype_name, prepare, rotated
from wxkernels.bench.results import Results


def test_speed(benchmark, case, size, backend, stored):
    old, row = before(stored, case, size, backend)
    baseline = row.baseline if row else case.baselines[0]
    problem = case.problem(size, [baseline, backend])
    inputs = rotated(problem)
    prepared = {variant.name: prepare(variant, inputs)[0] for variant in problem.variants}
    turns, times = Turns(prepared, size.device), {baseline: [], backend: []}

    def time(name):
        times[name].append(1e3 * turns.seconds(name))

    def before_it():
        turns.settle(baseline)
        time(baseline)
        turns.settle(backend)

    rounds = {"rounds": case.rounds, "warmup_rounds": 1}
    with torch.inference_mode():
        turns.warm_up()
        benchmark.pedantic(time, [backend], setup=before_it, **rounds)
    if row is None:
        pytest.skip("measured, but nothing is stored to hold it to: ci/bench.sh")
    new = [
        dataclasses.replace(one, times_ms=times[one.backend][1:])
        for one in old.times
        if one.backend in times and (one.shape, one.dtype) == (row.shape, row.dtype)
    ]
    [change] = compare(old, Results("pytest bench", old.conditions, new))
    benchmark.extra_info["speedup"] = f"{change.new.median:.2f}"
    assert change.verdict != "slower", f"{change.old} became {change.new} over {change.baseline}"


def before(stored, case, size, backend):
    """The row of this variant at this size, and the results that hold it."""
    wanted = (case.name, size.model, size.batch, dtype_name(size.dtype), backend)
    for results in stored:
        for row in results.times:
            if (row.case, row.model, row.batch, row.dtype, row.backend) == wanted:
                return results, row
    return None, None
