"""The specification of the patch embedding in plain PyTorch. Every other backend is held to it."""

from torch import Tensor

from wxkernels.ops._reference import linear, sum_dtype


def unavailable() -> str | None:
    return None


def unsupported(
    x: Tensor, weight: Tensor, bias: Tensor | None, pos_embed: Tensor | None, pos_scale: Tensor | None
) -> str | None:
    return None


def patch_embed(
    x: Tensor, weight: Tensor, bias: Tensor | None, pos_embed: Tensor | None, pos_scale: Tensor | None
) -> Tensor:
    """y[b, i, j, d] = sum_{c, r, s} weight[d, c, r, s] x[b, c, p i + r, q j + s] + bias[d] + pos[i w + j, d].

    That is Conv2d with kernel = stride = (p, q), channels last, plus the position of the token; pos is
    pos_embed, times pos_scale for each row where it is int8. The products are in the dtype of the weight
    (bfloat16: x is rounded to it), sums in float32, or float64 for float64 x.

    x (B, C, H, W), weight (D, C, p, q), bias (D,), pos_embed (1, h w, D), pos_scale (h w,) -> (B, h, w, D).
    Differentiable. Source: PatchEmbed of NVlabs/FourCastNet, networks/afnonet.py.
    """
    B, C, H, W = x.shape
    D, _, p, q = weight.shape
    h, w = H // p, W // q
    patches = x.to(sum_dtype(x)).reshape(B, C, h, p, w, q).permute(0, 2, 4, 1, 3, 5)
    # As a matrix product it takes a third of the convolution's time at 720 x 1440 on a CPU.
    y = linear(patches.reshape(B, h, w, C * p * q), weight.flatten(1), bias)
    if pos_embed is not None:
        pos = pos_embed.to(y.dtype)
        if pos_scale is not None:
            pos = pos * pos_scale.to(y.dtype).unsqueeze(-1)
        y = y + pos.view(1, h, w, D)
    return y.to(x.dtype).contiguous()
