"""Modules made of ops: the AFNO block, patch embedding and head, the int8 linear layer."""

from wxkernels.nn.afno import AFNO2D, AFNOBlock, Mlp, PatchEmbed, PatchHead
from wxkernels.nn.linear import Int8Linear

__all__ = ["AFNO2D", "AFNOBlock", "Int8Linear", "Mlp", "PatchEmbed", "PatchHead"]
