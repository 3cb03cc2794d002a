"""What is claimed from results: who is compared with whom, and which claim stands at the head."""

from dataclasses import replace

import pytest

from tests.bench.samples import row, rows
from wxkernels.bench.claims import claims, strongest


def test_the_fastest_of_ours_stands_against_the_fastest_pytorch_and_peer_of_each_size():
    found = claims(rows() + rows(batch=4))
    assert [c.ours.batch for c in found] == [1, 4]
    assert {(c.ours.backend, c.pytorch.backend, c.peer.backend) for c in found} == {
        ("native-int8", "compiled-bf16", "openvino-bf16")
    }


def test_two_cases_of_one_op_at_one_size_stay_apart():
    found = claims([replace(r, case=case) for case in ("layer_norm", "layer_norm_int8") for r in rows()])
    assert [c.ours.case for c in found] == ["layer_norm", "layer_norm_int8"]


def test_without_ours_or_pytorch_nothing_is_claimed():
    assert claims([r for r in rows() if r.kind != "ours"]) == []
    assert claims([r for r in rows() if r.kind != "pytorch"]) == []
    assert strongest([]) is None


@pytest.mark.parametrize(
    ("changed", "headline", "interval"),
    [
        ({}, "1.67 times as fast as the fastest PyTorch", "95 % interval 1.63 to 1.72"),
        (
            {"rounds": 21, "processes": 3},
            "1.67 times as fast as the fastest PyTorch",
            "95 % interval of 3 processes 1.63 to 1.72",
        ),
        (
            {"rounds": 6, "processes": 3},
            "1.67 times as fast as the fastest PyTorch",
            "in all of 6 rounds of 3 processes 1.63 to 1.72",
        ),
        ({"rounds": 5}, "1.67 times as fast as the fastest PyTorch", "in all of 5 rounds 1.63 to 1.72"),
        (
            {"speedup": 0.5, "speedup_low": 0.4, "speedup_high": 0.6},
            "0.50 times as fast as the fastest PyTorch",
            "95 % interval 0.40 to 0.60",
        ),
        (
            {"speedup": 1.05, "speedup_low": 0.98, "speedup_high": 1.1},
            "as fast as the fastest PyTorch, within the noise",
            "95 % interval 0.98 to 1.10",
        ),
        (
            {"noisy": True, "speedup": 300.0, "speedup_low": 60.0, "speedup_high": 400.0},
            "faster than the fastest PyTorch, too noisy to say how much",
            "95 % interval 60.00 to 400",
        ),
        (
            {"noisy": True, "speedup": 0.5, "speedup_low": 0.3, "speedup_high": 0.9},
            "slower than the fastest PyTorch, too noisy to say how much",
            "95 % interval 0.30 to 0.90",
        ),
        (
            {"speedup_low": None, "speedup_high": None},
            "1.67 times as fast as the fastest PyTorch",
            "one round, so no interval is known",
        ),
    ],
)
def test_the_words_say_no_more_than_the_interval(changed, headline, interval):
    [claim] = claims([row(**changed), row("compiled-bf16", "pytorch", ms=100.0)])
    assert claim.headline == headline
    assert claim.interval == interval


def test_the_strongest_is_of_the_largest_case_by_the_lower_end_and_not_noisy():
    small = [
        replace(r, case="small", op="small", median_ms=r.median_ms / 100, speedup_low=50.0) for r in rows()
    ]
    certain = rows()
    wider = [replace(r, shape="1x91x180x768", speedup=9.0, speedup_low=1.1) for r in rows()]
    noisy = [replace(r, shape="1x92x180x768", speedup_low=9.0, noisy=True) for r in rows()]
    best = strongest(claims(small + certain + wider + noisy))
    assert (best.ours.op, best.ours.shape) == ("spectral_filter", "1x90x180x768")
    assert strongest(claims(noisy)).noisy
