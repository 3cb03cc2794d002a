"""What the Triton backends of linear layers share: the launch of their one kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels import _native
from wxkernels.ops import _triton
from wxkernels.ops.quantize_rows import triton as rows


def unsupported(x: Tensor, weight: Tensor, residual: Tensor | None) -> str | None:
    """Why a quantised layer cannot go to the kernel; a floating x is quantised first."""
    M, N = x.numel() // x.shape[-1], len(weight)
    if M > rows.MAX_ROWS or N > _triton.MAX_STRIDE:
        return f"at {M} rows of x and {N} of weight an offset passes 32 bits"
    if x.dtype != weight.dtype and (reason := rows.unsupported(x)):
        return reason
    return _triton.unsupported(residual=residual) or _triton.unsupported_device(x)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    activation: str,
    target: _triton.Target,
    tiles: _triton.Tiles,
    *,
    x_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    out_scale: Tensor | None = None,
    start: Tensor | None = None,
    out_offset: int = 0,
) -> _triton.Launch:
    """The launch that writes y, contiguous: x (M, K) with unit stride over K, weight (N, K) contiguous.

    Both of one byte a number have scales. start (N,) int32 is what int8 sums begin with.
    """
    if weight.dtype.itemsize == 1:
        x, weight = _pieces(x), _pieces(weight)
    residual = None if residual is None else _triton.rows(residual)
    (M, K), N = x.shape, len(weight)
    arguments = {
        "x": x,
        "x_scale": _native.float32(x_scale),
        "weight": weight,
        "weight_scale": _native.float32(weight_scale),
        "bias": _native.float32(bias),
        "residual": residual,
        "out_scale": _native.float32(out_scale),
        "start": start,
        "out_offset": float(out_offset),
        "y": y,
        "M": M,
        "N": N,
        "K": K,
        "x_stride": x.stride(0),
        "x_scale_stride": 0 if x_scale is None or x_scale.dim() == 0 else 1,
        "r_stride": 0 if residual is None else residual.stride(0),
    }
    extents = {"BLOCK_M": M, "BLOCK_N": N}
    precision = target.float32 if weight.dtype == torch.float32 else "ieee"
    constants = {"ACTIVATION": activation, "PRECISION": precision}
    return _triton.Launch("_linear", "linear", extents, ("N", "K"), arguments, constants, tiles)


def _pieces(x: Tensor) -> Tensor:
    """x (rows, K), one byte a number, with each row in whole 16-byte pieces, as fast loads want them.

    Zeros behind K add nothing to a product. A copy, where K, the stride or the address is not a multiple.
    """
    if x.shape[1] % 16 or x.stride(0) % 16 or x.data_ptr() % 16:
        return F.pad(x.view(torch.uint8), (0, -x.shape[1] % 16)).view(x.dtype)
    return x
