"""The time by part: what counts for which part, floors and shares, the trace, and the picture."""

import json
import time

import pytest
import torch
from torch import nn

from wxkernels import ops
from wxkernels.bench.ceilings import Ceilings
from wxkernels.bench.engine import Size, Work
from wxkernels.bench.plots import plot_parts
from wxkernels.bench.profile import (
    OTHER,
    Clock,
    Network,
    OpClock,
    Profiled,
    measure_parts,
    module_clock,
    write_trace,
)
from wxkernels.errors import UserError

CPU = torch.device("cpu")
CEILINGS = Ceilings("machine", {torch.float32: 1e9}, 1e9)


class Sleeper(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


def profiled(name="plain"):
    network = nn.Sequential(Sleeper(0.02), Sleeper(0.01), Sleeper(0.01))

    def call(inputs):
        time.sleep(0.01)
        return network(*inputs)

    parts = {"first": [network[0]], "rest": [network[1], network[2]]}
    work = {"first": Work({torch.float32: 1e7}, 0), "rest": Work({torch.float32: 0}, 5e6)}
    return Profiled(name, "ours", call, lambda clock: module_clock(clock, parts), work)


def network(*variants):
    size = Size(1, (1,), torch.float32, CPU, "pillow")
    return Network("sleep", "sleep", size, (1,), [torch.ones(1)], variants)


def parts_of(*variants, rounds=2):
    return measure_parts(network(*variants), CEILINGS, rounds=rounds)


def test_modules_are_added_up_by_part_and_the_rest_is_other():
    parts = {part.part: part for part in parts_of(profiled())}
    assert list(parts) == ["first", "rest", OTHER]
    assert all(part.backend == "plain" for part in parts.values())
    # Sleeping is never shorter than asked for.
    assert parts["first"].p80_ms >= parts["first"].median_ms >= parts["first"].p20_ms >= 20
    assert parts["rest"].median_ms >= 20
    assert parts[OTHER].median_ms >= 10
    assert sum(part.share for part in parts.values()) == pytest.approx(1)
    assert parts["first"].floor_ms == pytest.approx(10)
    assert parts["rest"].floor_ms == pytest.approx(5)
    assert parts["rest"].floor_share == pytest.approx(5 / parts["rest"].median_ms)
    assert parts[OTHER].floor_ms is None
    command = parts["first"].command
    assert command.startswith("wxkernels-bench profile sleep --shape pillow --batch 1 --threads ")
    assert command.endswith(" --rounds 2 --backend plain")


def test_a_trace_has_a_range_for_each_variant_and_part(tmp_path):
    path = tmp_path / "trace.json"
    write_trace(network(profiled("a"), profiled("b")), path)
    events = json.loads(path.read_text())["traceEvents"]
    ranges = [e["name"] for e in events if e.get("cat") == "user_annotation"]
    assert sorted(ranges) == sorted(["a", "b", *2 * ["first", "rest", "rest"]])
    [first] = [e for e in events if e["name"] == "a"]
    assert first["dur"] >= 5e4  # microseconds: what it sleeps


def test_hooks_do_not_stay():
    layer = nn.Linear(2, 2)
    with module_clock(Clock(CPU), {"part": [layer]}):
        assert layer._forward_hooks
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_operators_are_told_by_their_names():
    clock = Clock(CPU)
    x, weight, bias = torch.randn(3, 4), torch.ones(4), torch.zeros(4)
    with torch.inference_mode(), OpClock(clock, {"wxkernels::layer_norm": "norm"}):
        y = ops.layer_norm(x, weight, bias)
        once = clock.seconds["norm"]
        ops.quantize_rows(y)
        assert clock.seconds["norm"] == once > 0
        assert torch.equal(ops.layer_norm(x, weight, bias), y)
    assert clock.seconds["norm"] > once
    assert list(clock.seconds) == ["norm"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_of_the_kind_of_its_name(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"parts.{suffix}"
    plot_parts(parts_of(profiled("a"), profiled("b"), rounds=1), "sleeping", path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    if suffix == "svg":
        assert {b"sleeping", b"first", b"rest", b"other", b"floor"} <= {
            word for word in (b"sleeping", b"first", b"rest", b"other", b"floor") if word in content
        }


def test_a_picture_of_no_kind_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match=r"cannot draw .*parts\.nothing"):
        plot_parts(parts_of(profiled(), rounds=1), "sleeping", tmp_path / "parts.nothing")
    assert list(tmp_path.iterdir()) == []
