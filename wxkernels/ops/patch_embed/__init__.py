"""patch_embed: fields to tokens, one linear layer a patch, plus the tokens' positions."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops import _checks
from wxkernels.ops._registration import register
from wxkernels.ops.patch_embed import native, reference, triton

OP = backends.Op("patch_embed", {"native": native, "triton": triton, "reference": reference})


def patch_embed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pos_embed: Tensor | None = None,
    *,
    pos_scale: Tensor | None = None,
) -> Tensor:
    """y[b, i, j, d] = sum_{c, r, s} weight[d, c, r, s] x[b, c, p i + r, q j + s] + bias[d] + pos[i w + j, d].

    Conv2d with kernel = stride = (p, q), channels last, plus positions. x (B, C, H, W), any floating dtype
    and strides, H = h p, W = w q; weight (D, C, p, q) and bias (D,) floating, bias may be None; pos_embed
    (1, h w, D) floating, or int8 with pos_scale (h w,), whose product it then is. Result (B, h, w, D) in the
    dtype of x. The products are in the dtype of the weight: bfloat16 rounds x to it; float16 is multiplied in
    float32. Sums are float32, float64 for float64 x. Autocast changes nothing.
    Gradients are those of the reference; with int8 pos_embed there are none. Raises ValueError for an
    argument of another shape or dtype. Source: PatchEmbed of NVlabs/FourCastNet, networks/afnonet.py.
    """
    if x.dim() != 4:
        raise ValueError(f"x: expected (B, C, H, W), got shape {tuple(x.shape)}")
    _, C, H, W = x.shape
    if weight.dim() != 4 or weight.shape[1] != C or 0 in weight.shape:
        raise ValueError(f"weight: expected (D, {C}, p, q) for x (B, {C}, H, W), got {tuple(weight.shape)}")
    D, _, p, q = weight.shape
    if H % p or W % q:
        raise ValueError(f"x: expected whole patches of {p} x {q}, got {H} x {W} points")
    if bias is not None:
        _checks.shape("bias", bias, (D,), "from weight")
    tokens = (H // p) * (W // q)
    if pos_embed is not None:
        _checks.shape("pos_embed", pos_embed, (1, tokens, D), "from x and weight")
    if pos_embed is not None and pos_embed.dtype == torch.int8:
        if pos_scale is None:
            raise ValueError("pos_scale: expected a scale for int8 pos_embed, got None")
        _checks.shape("pos_scale", pos_scale, (tokens,), "from pos_embed")
    else:
        _checks.floating(pos_embed=pos_embed)
        if pos_scale is not None:
            raise ValueError("pos_scale: expected None without int8 pos_embed, got a tensor")
    _checks.floating(x=x, weight=weight, bias=bias, pos_scale=pos_scale)
    _checks.device_of_first(x=x, weight=weight, bias=bias, pos_embed=pos_embed, pos_scale=pos_scale)
    return torch.ops.wxkernels.patch_embed(x, weight, bias, pos_embed, pos_scale)


def _fake(x: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
    B, _, H, W = x.shape
    D, _, p, q = weight.shape
    return torch.empty(B, H // p, W // q, D, dtype=x.dtype, device=x.device)


register(
    OP,
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? pos_embed, Tensor? pos_scale) -> Tensor",
    _fake,
)
