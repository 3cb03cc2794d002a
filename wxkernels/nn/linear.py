"""A linear layer with int8 weights."""

from typing import Self

from torch import Tensor, nn

from wxkernels import ops


class Int8Linear(nn.Module):
    """y = (weight_scale * weight) x + bias with rows of x cut to int8 as well: x (..., K) -> (..., N).

    Buffers weight int8 (N, K) and weight_scale float32 (N,), bias (N,) floating or None; none is trained.
    The result has the dtype of x. Mathematics and errors: `ops.linear_int8`.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)

    @classmethod
    def quantized(cls, weight: Tensor, bias: Tensor | None = None) -> Self:
        """From floating weights (N, K), each output channel with a scale of its own (`ops.quantize_rows`)."""
        q, scale = ops.quantize_rows(weight.detach())
        return cls(q, scale, None if bias is None else bias.detach())

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear_int8(x, self.weight, self.weight_scale, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, int8"
