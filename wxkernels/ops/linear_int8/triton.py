"""Triton backend of the int8 linear layer (CUDA, ROCm): one launch, two where x has to be cut to int8 first.

The product runs on the integer matrix units (mma, wgmma, mfma) with int32 sums, which are exact in any order;
the epilogue works number by number. So neither the tiles nor the other rows of a call change a result.
Weights are (N, K), contiguous over K, as these units want both operands.

Held to the reference in Triton's interpreter and compiled ahead of time by ci/aot.py; not run on a GPU.
"""

import torch
from torch import Tensor

from wxkernels.ops import _triton
from wxkernels.ops._linear import triton as _linear
from wxkernels.ops.quantize_rows import triton as rows

unavailable = _triton.unavailable


class Tiles(_triton.Tiles):
    """Chosen with ci/aot.py, not by timing: no spills on any target, and for fc1 of FourCastNet at most 128
    registers on sm_80 and sm_90: an SM takes two programs, one multiplies while the other is in its epilogue.
    """

    @classmethod
    def of(cls, target: _triton.Target, M: int, N: int) -> "Tiles":
        """128 x 128 where that makes enough programs for a GPU of 128 SMs, else 64 x 64.

        Rows of an N that is no multiple of 16 are read and written number by number, which costs registers.
        """
        large = N % 16 == 0 and -(-M // 128) * -(-N // 128) >= 128
        block, num_warps = (128, 8) if large else (64, 4)
        sizes = {"BLOCK_M": block, "BLOCK_N": block, "BLOCK_K": 64}
        return cls(sizes, num_warps, 4 if target.backend == "cuda" else 2)


def unsupported(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
) -> str | None:
    return _linear.unsupported(x, weight, residual)


def linear_int8(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
    activation: str,
    out_dtype: torch.dtype,
    x_offset: int = 0,
    out_offset: int = 0,
) -> Tensor:
    """`reference.linear_int8` on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU."""
    y = torch.empty(*x.shape[:-1], len(weight), dtype=out_dtype, device=x.device)
    if y.numel() == 0:
        return y
    if x_scale is None:
        x, x_scale = rows.quantize_rows(x)
    target = _triton.Target.of(x.device)
    start = -x_offset * weight.sum(-1, dtype=torch.int32) if x_offset != 0 else None
    parts = x, weight, weight_scale, bias, x_scale, residual, out_scale, y, activation, target
    _triton.run([launch(*parts, start, out_offset)], x.device)
    return y


def launch(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor,
    residual: Tensor | None,
    out_scale: Tensor | None,
    y: Tensor,
    activation: str,
    target: _triton.Target,
    start: Tensor | None = None,
    out_offset: int = 0,
) -> _triton.Launch:
    """The launch that writes y, contiguous, from int8 x; start (N,) int32 is what its sums begin with."""
    x = _triton.rows(x)
    return _linear.launch(
        x,
        weight.contiguous(),
        bias,
        residual,
        y,
        activation,
        target,
        Tiles.of(target, len(x), len(weight)),
        x_scale=x_scale,
        weight_scale=weight_scale,
        out_scale=out_scale,
        start=start,
        out_offset=out_offset,
    )
