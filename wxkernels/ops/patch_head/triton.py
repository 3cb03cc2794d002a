"""Triton backend of the patch head (CUDA, ROCm): one launch, the product is written straight to its place.

Held to the reference in Triton's interpreter and compiled ahead of time by ci/aot.py; not run on a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wxkernels import _native
from wxkernels.ops import _triton
from wxkernels.ops.mlp.triton import Tiles

unavailable = _triton.unavailable


def unsupported(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if reason := _triton.unsupported(tokens=tokens, weight=weight):
        return reason
    _, h, w, _ = tokens.shape
    if max(h * w * len(weight), weight.numel()) >= _triton.MAX_OFFSET:
        return f"at {h} x {w} tokens and weight {tuple(weight.shape)} an offset passes 32 bits"
    return _triton.unsupported_device(tokens)


def patch_head(tokens: Tensor, weight: Tensor, bias: Tensor | None, patch_size: Sequence[int]) -> Tensor:
    """`reference.patch_head` on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU."""
    B, h, w, _ = tokens.shape
    p, q = patch_size
    y = torch.empty(B, len(weight) // (p * q), h * p, w * q, dtype=tokens.dtype, device=tokens.device)
    target = _triton.Target.of(tokens.device)
    _triton.run([launch(tokens, weight, bias, y, patch_size, target)], tokens.device)
    return y


def launch(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    patch_size: Sequence[int],
    target: _triton.Target,
) -> _triton.Launch:
    """The launch that writes y, contiguous."""
    B, h, w, K = tokens.shape
    p, q = patch_size
    x, weight = _triton.operands(_triton.rows(tokens), weight)
    N = len(weight)
    tiles = Tiles.of(target, weight.dtype, N, whole=K % 16 == q % 8 == 0)
    arguments = {
        "x": x,
        "weight": weight,
        "bias": _native.float32(bias),
        "y": y,
        "h": h,
        "w": w,
        "N": N,
        "K": K,
        "x_stride": x.stride(0),
    }
    extents, shape = {"BLOCK_M": h * w, "BLOCK_N": N}, ("h", "w", "N", "K")
    constants = {"P": p, "Q": q, "PRECISION": target.float32}
    return _triton.Launch("patch_head", "patch_head", extents, shape, arguments, constants, tiles, B)
