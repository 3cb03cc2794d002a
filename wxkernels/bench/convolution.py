"""Patch embeddings for PyTorch peers, where a bfloat16 convolution is wrong.

On processors with AMX that of oneDNN is off by all of its result where its stride is its kernel (8 x 8
points of 20 fields, torch 2.13, OpenVINO 2026; pytorch/pytorch issues 163347 and 169688). Whoever runs a
network there has to compute it in another way, and so do the peers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wxkernels.bench.engine import WRONG


def by_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Conv2d with stride = kernel as one product: (B, C, H, W) to (B, D, h, w)."""
    B, C, H, W = x.shape
    D, _, p, q = weight.shape
    h, w = H // p, W // q
    patches = x.reshape(B, C, h, p, w, q).permute(0, 2, 4, 1, 3, 5).reshape(B, h * w, C * p * q)
    return F.linear(patches, weight.flatten(1), bias).transpose(1, 2).reshape(B, D, h, w)


def is_wrong(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether PyTorch's bfloat16 convolution, with stride = kernel, is another one than that in float32."""
    stride = weight.shape[2:]
    exact = F.conv2d(x, weight, bias, stride)
    found = F.conv2d(x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16(), stride)
    return not (found - exact).abs().max() <= WRONG * exact.abs().max()


def mend(network: nn.Module, x: Tensor) -> None:
    """Replace the convolutions of `network` that embed the patches of x (B, C, H, W), wrongly in bfloat16."""
    for parent in list(network.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and _embeds(conv, x):
                with torch.no_grad():
                    wrong = is_wrong(x[:1], conv.weight, conv.bias)
                if wrong:
                    setattr(parent, name, _Patches(conv))


def _embeds(conv: nn.Conv2d, x: Tensor) -> bool:
    plain = (conv.padding, conv.dilation, conv.groups) == ((0, 0), (1, 1), 1)
    return plain and conv.kernel_size == conv.stride and conv.in_channels == x.shape[1]


class _Patches(nn.Module):
    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return by_patches(x, self.weight, self.bias)
