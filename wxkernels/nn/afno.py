"""Parts of an AFNO network: each runs in the precision of its weights and keeps the dtype of its input."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from wxkernels import ops
from wxkernels.nn.linear import Fp8Linear, Int8Linear


class AFNO2D(nn.Module):
    """The spectral filter with its weights: x (B, H, W, C) -> (B, H, W, C), its own input included.

    w1, b1, w2, b2 and the two numbers: `ops.spectral_filter`.
    """

    def __init__(
        self,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        *,
        sparsity_threshold: float = 0.01,
        hard_thresholding_fraction: float = 1.0,
    ):
        super().__init__()
        self.w1, self.b1, self.w2, self.b2 = map(_parameter, (w1, b1, w2, b2))
        self.sparsity_threshold = sparsity_threshold
        self.hard_thresholding_fraction = hard_thresholding_fraction

    @classmethod
    def create(cls, dim: int, num_blocks: int, *, hidden_size_factor: int = 1, **options: Any) -> Self:
        """A filter of `dim` channels with the published initial values, normal with deviation 0.02."""
        bs = dim // num_blocks
        hidden = bs * hidden_size_factor
        shapes = (
            (2, num_blocks, bs, hidden),
            (2, num_blocks, hidden),
            (2, num_blocks, hidden, bs),
            (2, num_blocks, bs),
        )
        return cls(*(0.02 * torch.randn(shape) for shape in shapes), **options)

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """AFNO2D(x); with a norm, n = norm(x), AFNO2D(n) + x: the first half of a block."""
        return ops.spectral_filter(
            x,
            self.w1,
            self.b1,
            self.w2,
            self.b2,
            sparsity_threshold=self.sparsity_threshold,
            hard_thresholding_fraction=self.hard_thresholding_fraction,
            norm_weight=None if norm is None else norm.weight,
            norm_bias=None if norm is None else norm.bias,
            eps=1e-6 if norm is None else norm.eps,
        )


class Mlp(nn.Module):
    """y = x + fc2(gelu(fc1(norm(x)))) with the exact (erf) GELU: the second half of a block.

    fc1 and fc2 both floating, both int8 or both e4m3. The latter two need hidden_scale, one float32 element,
    a buffer: the scale of the hidden layer; hidden_offset is its zero point in int8.
    """

    hidden_scale: Tensor | None

    def __init__(
        self,
        fc1: nn.Linear | Int8Linear | Fp8Linear,
        fc2: nn.Linear | Int8Linear | Fp8Linear,
        hidden_scale: Tensor | None = None,
        hidden_offset: int = 0,
    ):
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2
        self.register_buffer("hidden_scale", hidden_scale)
        self.hidden_offset = hidden_offset

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return ops.mlp(
            x,
            norm.weight,
            norm.bias,
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
            eps=norm.eps,
            fc1_scale=getattr(self.fc1, "weight_scale", None),
            fc2_scale=getattr(self.fc2, "weight_scale", None),
            hidden_scale=self.hidden_scale,
            hidden_offset=self.hidden_offset,
        )


class AFNOBlock(nn.Module):
    """t = filter(norm1(x)) + x; y = fc2(gelu(fc1(norm2(t)))) + t, on x (B, H, W, C); two ops."""

    def __init__(self, norm1: nn.LayerNorm, filter: AFNO2D, norm2: nn.LayerNorm, mlp: Mlp):
        super().__init__()
        self.norm1, self.filter, self.norm2, self.mlp = norm1, filter, norm2, mlp

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.filter(x, self.norm1), self.norm2)


class PatchEmbed(nn.Module):
    """Convolution with stride = kernel = patch (p, q), plus positions: x (B, C_in, H, W) -> (B, h, w, C)."""

    def __init__(self, in_chans: int, dim: int, patch_size: tuple[int, int]):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor, pos_embed: Tensor | None = None, pos_scale: Tensor | None = None) -> Tensor:
        """pos_embed (1, h * w, C), floating, or int8 with pos_scale (h * w,)."""
        return ops.patch_embed(x, self.proj.weight, self.proj.bias, pos_embed, pos_scale=pos_scale)


class PatchHead(nn.Linear):
    """A linear layer without bias, its outputs the points of a patch: (B, h, w, C) -> (B, C_out, H, W)."""

    def __init__(self, dim: int, out_chans: int, patch_size: tuple[int, int]):
        p, q = patch_size
        super().__init__(dim, out_chans * p * q, bias=False)
        self.patch_size = patch_size

    def forward(self, tokens: Tensor) -> Tensor:
        return ops.patch_head(tokens, self.weight, self.patch_size)


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
