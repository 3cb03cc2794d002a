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


def test_tiles_count_what_they_cover():
    tiles = _triton.Tiles({"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 16}, 4, 2)
    assert tiles.count(BLOCK_M=65, BLOCK_N=32) == 2
    assert tiles.count(BLOCK_M=0, BLOCK_N=5) == 0
