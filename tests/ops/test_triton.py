"""What the Triton backends share."""

import pytest
import torch

from wxkernels.ops import _triton


def test_rows_lie_where_they_are_unless_too_far_apart():
    whole = torch.empty(2**26, device="meta")
    near, far = (whole.as_strided((2, 5), (stride, 1)) for stride in (2**24, 2**24 + 1))
    assert _triton.rows(near).stride() == (2**24, 1)
    assert _triton.rows(far).stride() == (5, 1)


@pytest.mark.parametrize(("n", "covered"), [(1, 1), (2, 2), (3, 4), (96, 128), (128, 128), (129, 256)])
def test_cover(n, covered):
    assert _triton.cover(n) == covered


@pytest.mark.parametrize(
    ("backend", "arch", "reason"),
    [
        ("cuda", 80, "sm_80 has no e4m3; it takes sm_89 or newer"),
        ("hip", "gfx90a", "of e4m3 gfx90a has none"),
        ("hip", "gfx942", "of e4m3 gfx942 has its fnuz kind alone"),
    ],
)
def test_says_where_there_is_no_e4m3(backend, arch, reason):
    assert _triton.without_e4m3(_triton.Target(backend, arch)).endswith(reason)


@pytest.mark.parametrize("arch", [89, 90, 100])
def test_e4m3_is_on_newer_nvidia_gpus(arch):
    assert _triton.without_e4m3(_triton.Target("cuda", arch)) is None


def test_tiles_count_what_they_cover():
    tiles = _triton.Tiles({"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 16}, 4, 2)
    assert tiles.count(BLOCK_M=65, BLOCK_N=32) == 2
    assert tiles.count(BLOCK_M=0, BLOCK_N=5) == 0
