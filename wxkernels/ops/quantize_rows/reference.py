"""The specification of int8 and e4m3 rows in plain PyTorch. Every other backend is held to it."""

import torch
from torch import Tensor

from wxkernels.ops._reference import sum_dtype

#: Of each dtype; e4m3 has no infinity, and a NaN.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def unavailable() -> str | None:
    return None


def unsupported(x: Tensor) -> str | None:
    return None


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """scale = max_k |x_k| / 127 in float32, q = clamp(round_half_even(x / scale), -127, 127), row by row.

    A row whose scale would be 0 has scale 1 and q = 0; a row with a NaN or an infinity has scale NaN and
    q = 0, so that its products are NaN. x (..., K) floating -> q int8 like x, scale float32 x.shape[:-1].
    """
    return quantized_rows(x, torch.int8)


def quantize_rows_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """scale = max_k |x_k| / 448 in float32, q = e4m3(x / scale), row by row, with three bits after the first.

    Zeros as in `quantize_rows`; a row with a NaN or an infinity has scale NaN and q NaN.
    """
    return quantized_rows(x, torch.float8_e4m3fn)


def quantized_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = x.to(sum_dtype(x))
    scale = (x.abs().amax(-1) / LARGEST[dtype]).float()
    scale = torch.where(scale == 0, 1.0, torch.where(scale.isfinite(), scale, torch.nan))
    return quantized(x / scale.unsqueeze(-1), dtype), scale


def quantized(y: Tensor, dtype: torch.dtype) -> Tensor:
    """y in int8 or, where a NaN stays one and what is beyond 448 becomes 448, in e4m3; half to even."""
    return to_int8(y) if dtype == torch.int8 else y.clamp(-448, 448).to(dtype)


def to_int8(y: Tensor) -> Tensor:
    """clamp(round_half_even(y), -127, 127), and 0 for a NaN."""
    return y.nan_to_num(nan=0.0).round().clamp(-127, 127).to(torch.int8)
