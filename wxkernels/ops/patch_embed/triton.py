"""Triton backend of the patch embedding (CUDA, ROCm): one launch, whose product gathers the patches.

Held to the reference in Triton's interpreter and compiled ahead of time by ci/aot.py; not run on a GPU.
"""

import torch
from torch import Tensor

from wxkernels import _native
from wxkernels.ops import _triton
from wxkernels.ops.mlp.triton import Tiles

unavailable = _triton.unavailable


def unsupported(
    x: Tensor, weight: Tensor, bias: Tensor | None, pos_embed: Tensor | None, pos_scale: Tensor | None
) -> str | None:
    floating = pos_embed if pos_scale is None else None
    if reason := _triton.unsupported(x=x, weight=weight, pos_embed=floating):
        return reason
    _, C, H, W = x.shape
    D, _, p, q = weight.shape
    far = C * max(H * W, x.stride(1))
    if max(far, weight.numel(), (H // p) * (W // q) * D) >= _triton.MAX_OFFSET:
        return f"at x {tuple(x.shape)} and {D} channels an offset inside a sample passes 32 bits"
    return _triton.unsupported_device(x)


def patch_embed(
    x: Tensor, weight: Tensor, bias: Tensor | None, pos_embed: Tensor | None, pos_scale: Tensor | None
) -> Tensor:
    """`reference.patch_embed` on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU."""
    B, _, H, W = x.shape
    D, _, p, q = weight.shape
    y = torch.empty(B, H // p, W // q, D, dtype=x.dtype, device=x.device)
    target = _triton.Target.of(x.device)
    _triton.run([launch(x, weight, bias, pos_embed, pos_scale, y, target)], x.device)
    return y


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pos_embed: Tensor | None,
    pos_scale: Tensor | None,
    y: Tensor,
    target: _triton.Target,
) -> _triton.Launch:
    """The launch that writes y, contiguous."""
    x, weight = _triton.operands(x if x.stride(3) == 1 else x.contiguous(), weight)
    B, h, w, D = y.shape
    _, C, p, q = weight.shape
    # With 128 columns and int8 positions gfx942 spills.
    widest = 128 if target.backend == "cuda" else 64
    tiles = Tiles.of(target, weight.dtype, D, whole=D % 16 == q % 8 == 0, widest=widest)
    arguments = {
        "x": x,
        "weight": weight,
        "bias": _native.float32(bias),
        "pos": None if pos_embed is None else pos_embed.contiguous(),
        "pos_scale": _native.float32(pos_scale),
        "y": y,
        "h": h,
        "w": w,
        "N": D,
        "K": C * p * q,
        "x_stride_b": x.stride(0),
        "x_stride_c": x.stride(1),
        "x_stride_h": x.stride(2),
    }
    extents, shape = {"BLOCK_M": h * w, "BLOCK_N": D}, ("h", "w", "N", "K")
    constants = {"P": p, "Q": q, "PRECISION": target.float32}
    return _triton.Launch("patch_embed", "patch_embed", extents, shape, arguments, constants, tiles, B)
