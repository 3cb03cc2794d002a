"""Triton backend of the e4m3 linear layer (CUDA): one launch, two where x has to be cut to e4m3 first.

Sums are float32. Their order is that of the layer's tiles, which do not depend on how many rows come: so the
other rows of a call do not change a result.

Held to the reference in Triton's interpreter and compiled ahead of time by ci/aot.py; not run on a GPU.
"""

import torch
from torch import Tensor

from wxkernels.ops import _triton
from wxkernels.ops._linear import triton as _linear
from wxkernels.ops.quantize_rows import triton as rows

unavailable = _triton.unavailable


class Tiles(_triton.Tiles):
    """Chosen with ci/aot.py, not by timing: no spills on any of its targets."""

    @classmethod
    def of(cls, N: int) -> "Tiles":
        """By the layer alone; rows of an N that is no multiple of 16 are written number by number."""
        block, num_warps = (128, 8) if N % 16 == 0 else (64, 4)
        return cls({"BLOCK_M": block, "BLOCK_N": block, "BLOCK_K": 128}, num_warps, 3)


def unsupported(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
) -> str | None:
    return _linear.unsupported(x, weight, residual) or _triton.unsupported_e4m3(x)


def linear_fp8(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    residual: Tensor | None,
    out_scale: Tensor | None,
    activation: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """`reference.linear_fp8` on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU."""
    y = torch.empty(*x.shape[:-1], len(weight), dtype=out_dtype, device=x.device)
    if y.numel() == 0:
        return y
    if x_scale is None:
        x, x_scale = rows.quantize_rows_fp8(x)
    target = _triton.Target.of(x.device)
    parts = x, weight, weight_scale, bias, x_scale, residual, out_scale, y, activation, target
    _triton.run([launch(*parts)], x.device)
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
) -> _triton.Launch:
    """The launch that writes y, contiguous, from e4m3 x."""
    return _linear.launch(
        _triton.rows(x),
        weight.contiguous(),
        bias,
        residual,
        y,
        activation,
        target,
        Tiles.of(len(weight)),
        x_scale=x_scale,
        weight_scale=weight_scale,
        out_scale=out_scale,
    )
