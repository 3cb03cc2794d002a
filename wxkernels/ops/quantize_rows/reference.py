"""The specification of int8 rows in plain PyTorch. Every other backend is held to it."""

import torch
from torch import Tensor

from wxkernels.ops._reference import sum_dtype


def unavailable() -> str | None:
    return None


def unsupported(x: Tensor) -> str | None:
    return None


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """scale = max_k |x_k| / 127 in float32, q = clamp(round_half_even(x / scale), -127, 127), row by row.

    A row whose scale would be 0 has scale 1 and q = 0; a row with a NaN or an infinity has scale NaN and
    q = 0, so that its products are NaN. x (..., K) floating -> q int8 like x, scale float32 x.shape[:-1].
    """
    x = x.to(sum_dtype(x))
    scale = (x.abs().amax(-1) / 127).float()
    scale = torch.where(scale == 0, 1.0, torch.where(scale.isfinite(), scale, torch.nan))
    return to_int8(x / scale.unsqueeze(-1)), scale


def to_int8(y: Tensor) -> Tensor:
    """clamp(round_half_even(y), -127, 127), and 0 for a NaN."""
    return y.nan_to_num(nan=0.0).round().clamp(-127, 127).to(torch.int8)
