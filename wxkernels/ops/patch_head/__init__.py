"""patch_head: tokens to fields, one linear layer a token, whose outputs are the points of its patch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops import _checks
from wxkernels.ops._registration import register
from wxkernels.ops.patch_head import native, reference, triton

OP = backends.Op("patch_head", {"native": native, "triton": triton, "reference": reference})


def patch_head(
    tokens: Tensor, weight: Tensor, patch_size: tuple[int, int], bias: Tensor | None = None
) -> Tensor:
    """y[b, c, p i + r, q j + s] = sum_d weight[(r q + s) C_out + c, d] tokens[b, i, j, d] + bias[...].

    A linear layer, then `b h w (p q c) -> b c (h p) (w q)`. tokens (B, h, w, D), any floating dtype and
    strides; patch_size (p, q); weight (p q C_out, D) and bias (p q C_out,) floating, bias may be None.
    Result (B, C_out, h p, w q) in the dtype of tokens. The products are in the dtype of the weight: bfloat16
    rounds tokens to it; float16 is multiplied in float32. Sums are float32, float64 for float64 tokens.
    Autocast changes nothing. Gradients are those of the reference. Raises ValueError for an argument of
    another shape or dtype. Source: the head of AFNONet of NVlabs/FourCastNet, networks/afnonet.py.
    """
    if tokens.dim() != 4 or tokens.shape[3] == 0:
        raise ValueError(f"tokens: expected (B, h, w, D) with D >= 1, got shape {tuple(tokens.shape)}")
    D = tokens.shape[3]
    if len(patch_size) != 2 or min(patch_size) < 1:
        raise ValueError(f"patch_size: expected (p, q), both >= 1, got {tuple(patch_size)}")
    p, q = patch_size
    if weight.dim() != 2 or weight.shape[1] != D or weight.shape[0] % (p * q):
        raise ValueError(
            f"weight: expected ({p} * {q} * C_out, {D}) from patch_size and tokens, got {tuple(weight.shape)}"
        )
    if bias is not None:
        _checks.shape("bias", bias, weight.shape[:1], "from weight")
    _checks.floating(tokens=tokens, weight=weight, bias=bias)
    _checks.device_of_first(tokens=tokens, weight=weight, bias=bias)
    return torch.ops.wxkernels.patch_head(tokens, weight, bias, patch_size)


def _fake(tokens: Tensor, weight: Tensor, bias: Tensor | None, patch_size: Sequence[int]) -> Tensor:
    B, h, w, _ = tokens.shape
    p, q = patch_size
    return torch.empty(B, weight.shape[0] // (p * q), h * p, w * q, dtype=tokens.dtype, device=tokens.device)


register(
    OP,
    "(Tensor tokens, Tensor weight, Tensor? bias, int[] patch_size) -> Tensor",
    _fake,
    batched=("tokens",),
)
