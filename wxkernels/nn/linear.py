"""Linear layers with weights of one byte each."""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from wxkernels import ops


class _QuantizedLinear(nn.Module):
    """y = (weight_scale * weight) x + bias with rows of x cut to the weight's dtype: (..., K) -> (..., N).

    Buffers weight (N, K) and weight_scale float32 (N,), bias (N,) floating or None; none is trained. The
    result has the dtype of x.
    """

    dtype: ClassVar[torch.dtype]
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
        q, scale = ops.quantize_rows(weight.detach(), cls.dtype)
        return cls(q, scale, None if bias is None else bias.detach())

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def extra_repr(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"in_features={self.in_features}, out_features={self.out_features}, {dtype}"


class Int8Linear(_QuantizedLinear):
    """The layer in int8; mathematics and errors: `ops.linear_int8`."""

    dtype = torch.int8

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear_int8(x, self.weight, self.weight_scale, self.bias)


class Fp8Linear(_QuantizedLinear):
    """The layer in float8_e4m3fn; mathematics and errors: `ops.linear_fp8`."""

    dtype = torch.float8_e4m3fn

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear_fp8(x, self.weight, self.weight_scale, self.bias)
