"""The specification of the MLP of a block in plain PyTorch. Every other backend is held to it."""

import torch
from torch import Tensor

from wxkernels.ops._reference import ACTIVATIONS, linear
from wxkernels.ops.layer_norm.reference import layer_norm_int8, layer_norm_rows, normalized
from wxkernels.ops.linear_fp8.reference import linear_fp8
from wxkernels.ops.linear_int8.reference import linear_int8


def unavailable() -> str | None:
    return None


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
    return None


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
    """y = x + fc2(act(fc1(LN(x)))), its products in the dtype of the weights, all else in that of sums.

    bfloat16 weights: LN(x) and the hidden layer are rounded to bfloat16. int8 weights: the rows of LN(x) are
    quantised (`layer_norm_int8`), the hidden layer is h = hidden_scale (q - z) with z = hidden_offset and
    q = clamp(round_half_even(act / hidden_scale + z), -127, 127); fc2 is exact in integers up to the scales:
    sum_k (q_k - z) w_kn = sum_k q_k w_kn - z sum_k w_kn.
    e4m3 weights: as int8, with h = hidden_scale q, q = e4m3(act / hidden_scale), beyond 448 as 448.
    A row of x with a NaN or an infinity gives a row of NaN. Differentiable with floating weights.
    """
    if fc1_scale is None or fc2_scale is None or hidden_scale is None:
        n = normalized(x, norm_weight, norm_bias, eps)
        hidden = ACTIVATIONS[activation](linear(n, fc1_weight, fc1_bias))
        return (x + linear(hidden, fc2_weight, fc2_bias)).to(x.dtype).contiguous()
    if fc1_weight.dtype == torch.float8_e4m3fn:
        n, n_scale = layer_norm_rows(x, norm_weight, norm_bias, eps, fc1_weight.dtype)
        layer = n, fc1_weight, fc1_scale, fc1_bias, n_scale, None, hidden_scale
        hidden = linear_fp8(*layer, activation, fc1_weight.dtype)
        return linear_fp8(hidden, fc2_weight, fc2_scale, fc2_bias, hidden_scale, x, None, "none", x.dtype)
    q, scale = layer_norm_int8(x, norm_weight, norm_bias, eps)
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
