"""quantize_rows: symmetric int8 with a scale for each row."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops import _checks
from wxkernels.ops._registration import register
from wxkernels.ops.quantize_rows import native, reference, triton

OP = backends.Op("quantize_rows", {"native": native, "triton": triton, "reference": reference})


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """scale = max_k |x_k| / 127, q = clamp(round_half_even(x / scale), -127, 127); q * scale is near x.

    x (..., K), any floating dtype and strides -> (q int8 of x's shape, scale float32 of shape x.shape[:-1]).
    A row of zeros has scale 1; one with a NaN or an infinity has scale NaN and q = 0. Not differentiable.
    Raises ValueError for an argument of another shape or dtype.
    """
    _checks.rows("x", x, "K")
    _checks.floating(x=x)
    return torch.ops.wxkernels.quantize_rows(x)


def _fake(x: Tensor) -> tuple[Tensor, Tensor]:
    q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    return q, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


register(OP, "(Tensor x) -> (Tensor, Tensor)", _fake)
