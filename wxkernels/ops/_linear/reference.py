"""What the specifications of the quantised linear layers share."""

import torch
from torch import Tensor

from wxkernels.ops._reference import ACTIVATIONS


def epilogue_dtype(x: Tensor, residual: Tensor | None, out_dtype: torch.dtype) -> torch.dtype:
    """float64 where x, the residual or the result has it, else float32."""
    dtypes = (x.dtype, out_dtype, None if residual is None else residual.dtype)
    return torch.float64 if torch.float64 in dtypes else torch.float32


def epilogue(
    total: Tensor,
    x_scale: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
) -> Tensor:
    """act(x_scale * weight_scale * total + bias) + residual in the dtype of total (..., N).

    x_scale: one, or one for each row.
    """
    dtype = total.dtype
    if x_scale.dim() > 0:
        x_scale = x_scale.unsqueeze(-1)
    y = total * (x_scale.to(dtype) * weight_scale.to(dtype))
    if bias is not None:
        y = y + bias.to(dtype)
    y = ACTIVATIONS[activation](y)
    return y if residual is None else y + residual.to(dtype)
