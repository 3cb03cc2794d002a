"""Every variant of ours at the shapes of its model, held to the stored results of this device.

    pytest bench                     # all; -k mlp: one case
    pytest bench --device cuda --shape fourcastnet-26

What is held is the speed over the same baseline, which runs in turn with it: a slower machine is no failure,
and neither is noise. The same code differs from process to process: what is slower in this one is measured
again in fresh ones, and must be slower in these too.
"""

import dataclasses

import pytest
import torch

from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.compare import compare
from wxkernels.bench.engine import Turns, dtype_name, measure_in_processes, prepare, rotated
from wxkernels.bench.results import Results

PROCESSES = 3


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
        dataclasses.replace(one, times_ms=times[one.backend][1:], rounds=case.rounds, processes=1)
        for one in old.times
        if one.backend in times and one.problem == row.problem
    ]
    change = against(old, new)
    benchmark.extra_info["speedup"] = f"{change.new.median:.2f}"
    if change.verdict == "slower":
        again = against(old, afresh(case, size, [baseline, backend], row.device))
        speeds = f"{change.new} in this process and {again.new} in {PROCESSES} fresh ones"
        assert again.verdict != "slower", f"{change.old} became {speeds}, over {change.baseline}"


def before(stored, case, size, backend):
    """The row of this variant at this size, and the results that hold it."""
    wanted = (case.name, size.model, size.batch, dtype_name(size.dtype), backend)
    for results in stored:
        for row in results.times:
            if (row.case, row.model, row.batch, row.dtype, row.backend) == wanted:
                return results, row
    return None, None


def against(old, rows):
    [change] = compare(old, Results("pytest bench", old.conditions, rows))
    return change


def afresh(case, size, names, device):
    """Rows of fresh processes."""
    unknown = Ceilings(device, {}, None)
    rows, _ = measure_in_processes(
        case.problem, size, names, unknown, rounds=case.rounds, processes=PROCESSES
    )
    return rows
