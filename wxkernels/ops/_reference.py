"""What the references share: the dtype of sums, a linear layer in the precision of its weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

#: GELU(z) = z Phi(z), exact (erf), or with the tanh approximation.
ACTIVATIONS = {
    "none": lambda z: z,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which sums run for an input x: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def operand(x: Tensor, weight: Tensor) -> Tensor:
    """x as it enters a product with `weight`: rounded to bfloat16 where that is the weight's dtype."""
    return x.to(torch.bfloat16).to(x.dtype) if weight.dtype == torch.bfloat16 else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias in the dtype of x: x (..., K), weight (N, K), bias (N,)."""
    return F.linear(operand(x, weight), weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
