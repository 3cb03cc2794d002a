"""Modules made of ops: the AFNO block, patch embedding and head, int8 and e4m3 linear layers."""

from wxkernels.nn.afno import AFNO2D, AFNOBlock, Mlp, PatchEmbed, PatchHead
from wxkernels.nn.linear import Fp8Linear, Int8Linear

__all__ = ["AFNO2D", "AFNOBlock", "Fp8Linear", "Int8Linear", "Mlp", "PatchEmbed", "PatchHead"]
