"""Triton backend of int8 and e4m3 rows (CUDA, ROCm): a row stays in registers from maximum to rounding.

Held to the reference in Triton's interpreter and compiled ahead of time by ci/aot.py; not run on a GPU.
"""

import torch
from torch import Tensor

from wxkernels.ops import _triton

MAX_ROWS = 2**30  # their numbers are 32-bit
MAX_CHANNELS = 8192  # a longer row has no room in the registers of a program

unavailable = _triton.unavailable


class Tiles(_triton.Tiles):
    @classmethod
    def of(cls, target: _triton.Target, channels: int, names: tuple[str, str]) -> "Tiles":
        """Whole rows, 4096 numbers or one row a program, 16 a thread.

        By the width alone: what else a call holds must not change the order of a row's sums.
        """
        width = _triton.cover(channels)
        rows = max(1, 4096 // width)
        num_warps = rows * width // 16 // target.warp
        return cls(dict(zip(names, (rows, width), strict=True)), num_warps, 1)


def unsupported(x: Tensor) -> str | None:
    channels = x.shape[-1]
    if channels > MAX_CHANNELS or x.numel() // channels > MAX_ROWS:
        return f"x has {x.numel() // channels} rows of {channels}; it takes {MAX_ROWS} of {MAX_CHANNELS}"
    return _triton.unsupported(x=x) or _triton.unsupported_device(x)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.quantize_rows` on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU."""
    return _quantized_rows(x, torch.int8)


def quantize_rows_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.quantize_rows_fp8`."""
    return _quantized_rows(x, torch.float8_e4m3fn)


def _quantized_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    q = torch.empty(x.shape, dtype=dtype, device=x.device)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    _triton.run([launch(x, q, scale, _triton.Target.of(x.device))], x.device)
    return q, scale


def launch(x: Tensor, q: Tensor, scale: Tensor, target: _triton.Target) -> _triton.Launch:
    """The launch that writes q and scale, both contiguous."""
    x = _triton.rows(x)
    M, K = x.shape
    tiles = Tiles.of(target, K, ("BLOCK_M", "BLOCK_K"))
    arguments = {"x": x, "q": q, "scale": scale, "M": M, "K": K, "x_stride": x.stride(0)}
    return _triton.Launch("quantize_rows", "quantize_rows", {"BLOCK_M": M}, ("K",), arguments, {}, tiles)
