"""The operations: what each computes is its reference; where it runs is chosen at call time."""

from wxkernels.ops.layer_norm import layer_norm
from wxkernels.ops.linear_fp8 import linear_fp8
from wxkernels.ops.linear_int8 import linear_int8
from wxkernels.ops.mlp import mlp
from wxkernels.ops.patch_embed import patch_embed
from wxkernels.ops.patch_head import patch_head
from wxkernels.ops.quantize_rows import quantize_rows
from wxkernels.ops.spectral_filter import spectral_filter

__all__ = [
    "layer_norm",
    "linear_fp8",
    "linear_int8",
    "mlp",
    "patch_embed",
    "patch_head",
    "quantize_rows",
    "spectral_filter",
]
