"""Triton backend of the int8 MLP (CUDA, ROCm): layer norm to int8, fc1 with GELU to int8, fc2 with the skip.

Three launches; between them LN(x) and the hidden layer are int8 in memory. Floating weights are left to the
reference, whose products are the vendor's.

Held to the reference in Triton's interpreter; its kernels are compiled ahead of time by ci/aot.py; not run on
a GPU.
"""

import torch
from torch import Tensor

from wxkernels.ops import _triton
from wxkernels.ops.layer_norm import triton as norm
from wxkernels.ops.linear_int8.triton import linear_int8

unavailable = _triton.unavailable


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
    if fc1_weight.dtype != torch.int8:
        dtype = str(fc1_weight.dtype).removeprefix("torch.")
        return f"it multiplies int8 weights alone, and fc1_weight is {dtype}"
    return norm.unsupported(x, norm_weight, norm_bias)


def mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    fc1_scale: Tensor,
    fc2_scale: Tensor,
    hidden_scale: Tensor,
    hidden_offset: int,
    eps: float,
    activation: str,
) -> Tensor:
    """`reference.mlp` with int8 weights on a GPU, or with TRITON_INTERPRET=1, for tests, on a CPU."""
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
