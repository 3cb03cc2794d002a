"""Triton backend of the layer norm (CUDA, ROCm): a row stays in registers from its mean to its rounding.

Held to the reference in Triton's interpreter and compiled ahead of time by ci/aot.py; not run on a GPU.
"""

import torch
from torch import Tensor

from wxkernels import _native
from wxkernels.ops import _triton
from wxkernels.ops.quantize_rows import triton as rows

unavailable = _triton.unavailable


def unsupported(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    return rows.unsupported(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """`reference.layer_norm` on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _triton.run([launch(x, weight, bias, y, None, eps, _triton.Target.of(x.device))], x.device)
    return y


def layer_norm_int8(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """`reference.layer_norm_int8`, in one launch."""
    return layer_norm_rows(x, weight, bias, eps, torch.int8)


def layer_norm_rows(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`reference.layer_norm_rows`, in one launch."""
    q = torch.empty(x.shape, dtype=dtype, device=x.device)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    _triton.run([launch(x, weight, bias, q, scale, eps, _triton.Target.of(x.device))], x.device)
    return q, scale


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    scale: Tensor | None,
    eps: float,
    target: _triton.Target,
) -> _triton.Launch:
    """The launch that writes y, int8 or e4m3 where there is a scale; y and scale contiguous."""
    x = _triton.rows(x)
    M, C = x.shape
    tiles = rows.Tiles.of(target, C, ("BLOCK_M", "BLOCK_C"))
    arguments = {
        "x": x,
        "weight": _native.float32(weight),
        "bias": _native.float32(bias),
        "y": y,
        "scale": scale,
        "eps": eps,
        "M": M,
        "C": C,
        "x_stride": x.stride(0),
    }
    return _triton.Launch("layer_norm", "layer_norm", {"BLOCK_M": M}, ("C",), arguments, {}, tiles)
