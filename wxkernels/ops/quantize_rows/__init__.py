"""quantize_rows: symmetric int8, or e4m3, with a scale for each row."""

from functools import partial

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops import _checks
from wxkernels.ops._registration import register
from wxkernels.ops.quantize_rows import native, reference, triton

OP = backends.Op("quantize_rows", {"native": native, "triton": triton, "reference": reference})
OP_FP8 = backends.Op("quantize_rows_fp8", {"triton": triton, "reference": reference}, "quantize_rows")


def quantize_rows(x: Tensor, dtype: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """scale = max_k |x_k| / 127, q = clamp(round_half_even(x / scale), -127, 127); q * scale is near x.

    dtype torch.float8_e4m3fn: scale = max_k |x_k| / 448, q = x / scale in that dtype, half to even.
    x (..., K), any floating dtype and strides -> (q of x's shape, scale float32 of shape x.shape[:-1]). A row
    of zeros has scale 1; one with a NaN or an infinity has scale NaN and q = 0, in e4m3 NaN. Not
    differentiable. Raises ValueError for an argument of another shape or dtype.
    """
    _checks.rows("x", x, "K")
    _checks.floating(x=x)
    if dtype not in reference.LARGEST:
        raise ValueError(f"dtype: expected torch.int8 or torch.float8_e4m3fn, got {dtype}")
    ops = torch.ops.wxkernels
    return ops.quantize_rows(x) if dtype == torch.int8 else ops.quantize_rows_fp8(x)


def _fake(dtype: torch.dtype, x: Tensor) -> tuple[Tensor, Tensor]:
    q = torch.empty(x.shape, dtype=dtype, device=x.device)
    return q, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


register(OP, "(Tensor x) -> (Tensor, Tensor)", partial(_fake, torch.int8))
register(OP_FP8, "(Tensor x) -> (Tensor, Tensor)", partial(_fake, torch.float8_e4m3fn))
