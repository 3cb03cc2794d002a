"""Triton backend of the MLP (CUDA, ROCm): layer norm, fc1 with its activation, fc2 with the skip.

Three launches; LN(x) and the hidden layer lie in memory between them, in the dtype of the operands. Floating
products are our own and not the vendor's: those choose their kernel, and with it the order of a row's sums,
by the number of rows, so that only sample by sample would the bits of a row not depend on the others; and
with the exact GELU, the skip or a rounding they would take passes over the hidden layer of their own.
float32 is multiplied as such (FMA on CUDA), or as three TF32 products where the user allows PyTorch TF32.

Held to the reference in Triton's interpreter; its kernels are compiled ahead of time by ci/aot.py; not run on
a GPU.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from wxkernels.ops import _triton
from wxkernels.ops._linear import triton as _linear
from wxkernels.ops._triton import Launch, Target
from wxkernels.ops.layer_norm import triton as norm
from wxkernels.ops.linear_fp8.triton import linear_fp8
from wxkernels.ops.linear_int8.triton import linear_int8

unavailable = _triton.unavailable


class Tiles(_triton.Tiles):
    """Chosen with ci/aot.py, not by timing: no spills on any of its targets, shared memory as in
    `spectral_filter`.
    """

    @classmethod
    def of(cls, target: Target, operand: torch.dtype, N: int, *, whole: bool, widest: int = 128) -> "Tiles":
        """By the layer alone: how many rows come must not change the order of their sums.

        whole: rows are read and written in whole 16-byte pieces. Number by number costs registers.
        """
        cuda = target.backend == "cuda"
        block_m, block_n, block_k = (128, widest, 64 if cuda else 32) if whole else (64, 64, 32)
        if operand == torch.float32:
            block_n, block_k = block_n // 2, 16
        sizes = {"BLOCK_M": block_m, "BLOCK_N": max(16, min(block_n, _triton.cover(N))), "BLOCK_K": block_k}
        return cls(sizes, 8 if whole else 4, 3 if cuda else 2)


def unsupported(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    fc1_scale: Tensor | None,
    fc2_scale: Tensor | None,
    hidden_scale: Tensor | None,
) -> str | None:
    if fc1_scale is None and (reason := _triton.unsupported(fc1_weight=fc1_weight)):
        return reason
    if len(fc1_weight) > _triton.MAX_STRIDE:
        return f"at a hidden layer of {len(fc1_weight)} an offset passes 32 bits"
    if reason := norm.unsupported(x, norm_weight, norm_bias):
        return reason
    return _triton.unsupported_e4m3(x) if fc1_weight.dtype == torch.float8_e4m3fn else None


def mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    fc1_scale: Tensor | None,
    fc2_scale: Tensor | None,
    hidden_scale: Tensor | None,
    hidden_offset: int,
    eps: float,
    activation: str,
) -> Tensor:
    """`reference.mlp` on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU.

    float16 weights are multiplied in float16 where x is float16 too: LN(x) and the hidden layer are rounded
    to it, as in a model in float16.
    """
    if fc1_scale is None or fc2_scale is None or hidden_scale is None:
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        layers = norm_weight, norm_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias
        _triton.run(launches(x, *layers, y, eps, activation, Target.of(x.device)), x.device)
        return y
    if fc1_weight.dtype == torch.float8_e4m3fn:
        n, n_scale = norm.layer_norm_rows(x, norm_weight, norm_bias, eps, fc1_weight.dtype)
        layer = n, fc1_weight, fc1_scale, fc1_bias, n_scale, None, hidden_scale
        hidden = linear_fp8(*layer, activation, fc1_weight.dtype)
        return linear_fp8(hidden, fc2_weight, fc2_scale, fc2_bias, hidden_scale, x, None, "none", x.dtype)
    q, scale = norm.layer_norm_int8(x, norm_weight, norm_bias, eps)
    hidden = linear_int8(
        q,
        fc1_weight,
        fc1_scale,
        fc1_bias,
        scale,
        None,
        hidden_scale,
        activation,
        torch.int8,
        out_offset=hidden_offset,
    )
    # int8 holds no NaN: the rows' scales carry it over the hidden layer.
    scale = torch.where(scale.isnan(), scale, hidden_scale)
    return linear_int8(
        hidden,
        fc2_weight,
        fc2_scale,
        fc2_bias,
        scale,
        x,
        None,
        "none",
        x.dtype,
        x_offset=hidden_offset,
    )


def launches(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    y: Tensor,
    eps: float,
    activation: str,
    target: Target,
) -> Iterator[Launch]:
    """The launches that write y, contiguous, with floating weights."""
    x = _triton.rows(x)
    _, fc1_weight = _triton.operands(x, fc1_weight)
    _, fc2_weight = _triton.operands(x, fc2_weight)
    n = torch.empty(x.shape, dtype=fc1_weight.dtype, device=x.device)
    hidden = torch.empty(len(x), len(fc1_weight), dtype=n.dtype, device=x.device)
    yield norm.launch(x, norm_weight, norm_bias, n, None, eps, target)
    for operand, weight, bias, residual, out, act in (
        (n, fc1_weight, fc1_bias, None, hidden, activation),
        (hidden, fc2_weight, fc2_bias, x, y, "none"),
    ):
        N, K = weight.shape
        tiles = Tiles.of(target, operand.dtype, N, whole=N % 16 == K % 16 == 0)
        yield _linear.launch(operand, weight, bias, residual, out, act, target, tiles)
