"""The cases by name. A case declares its shapes, its inputs, its exact result, its work and its variants."""

from wxkernels.bench.cases import (
    fourcastnet,
    layer_norm,
    linear_int8,
    mlp,
    patch_embed,
    patch_head,
    spectral_filter,
)

CASES = {
    case.name: case
    for case in (
        spectral_filter.CASE,
        layer_norm.CASE,
        layer_norm.CASE_INT8,
        linear_int8.CASE,
        linear_int8.CASE_FP8,
        mlp.CASE,
        patch_embed.CASE,
        patch_head.CASE,
        fourcastnet.CASE,
    )
}
