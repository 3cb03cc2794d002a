"""The specification of the patch head in plain PyTorch. Every other backend is held to it."""

from collections.abc import Sequence

from torch import Tensor

from wxkernels.ops._reference import linear, sum_dtype


def unavailable() -> str | None:
    return None


def unsupported(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    return None


def patch_head(tokens: Tensor, weight: Tensor, bias: Tensor | None, patch_size: Sequence[int]) -> Tensor:
    """y[b, c, p i + r, q j + s] = sum_d weight[(r q + s) C_out + c, d] tokens[b, i, j, d] + bias[...].

    A linear layer, then `b h w (p q c) -> b c (h p) (w q)`: the channel is the fastest index. The products
    are in the dtype of the weight (bfloat16: tokens are rounded to it), sums in float32, or float64 for
    float64 tokens.

    tokens (B, h, w, D), weight (p q C_out, D), bias (p q C_out,) -> (B, C_out, h p, w q). Differentiable.
    Source: the head of AFNONet of NVlabs/FourCastNet, networks/afnonet.py.
    """
    B, h, w, _ = tokens.shape
    p, q = patch_size
    channels = len(weight) // (p * q)
    y = linear(tokens.to(sum_dtype(tokens)), weight, bias).to(tokens.dtype).view(B, h, w, p, q, channels)
    return y.permute(0, 5, 1, 3, 2, 4).reshape(B, channels, h * p, w * q).contiguous()
