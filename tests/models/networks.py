"""Small networks with weights that make every part of them count."""

import torch
from torch import nn

from wxkernels.models import AFNONet

SMALL = {
    "img_size": (16, 32),
    "patch_size": (4, 4),
    "in_chans": 3,
    "out_chans": 3,
    "embed_dim": 24,
    "depth": 2,
    "num_blocks": 4,
}


def small(**changes: object) -> AFNONet:
    """A network of SMALL's sizes, seeded, whose filters pass the softshrink."""
    torch.manual_seed(0)
    return randomise(AFNONet(**{**SMALL, **changes}))


def randomise(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return net
