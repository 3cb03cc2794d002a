"""The AFNO filter of the hosts: what it needs to be, what it computes, and how that is proven."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from wxkernels import ops
from wxkernels.ops.spectral_filter import reference
from wxkernels.patching import hosts
from wxkernels.patching.probe import Draw
from wxkernels.quantization import LayerScheme
from wxkernels.quantization.conversion import convert_filter

KIND = "filter"
OPS = "spectral_filter"
#: Names of the layers with a precision of their own; the filter itself is one.
LAYERS = ("",)

PARAMETERS = ("w1", "b1", "w2", "b2")
ATTRIBUTES = ("num_blocks", "block_size", "sparsity_threshold", "hard_thresholding_fraction")
#: (B, H, W): more columns than kept, more rows than columns; odd and even sizes.
GRIDS = ((2, 6, 15), (1, 11, 4))


def is_candidate(layer: nn.Module) -> bool:
    """Whether a person would take `layer` for an AFNO filter: by a class name, or by its parameter names."""
    if any("AFNO2D" in base.__name__ for base in type(layer).__mro__):
        return True
    parameters = dict(layer.named_parameters(recurse=False))
    return set(parameters) == set(PARAMETERS) and parameters["w1"].dim() == 4


def unfit(layer: Any) -> str | None:
    """Why the attributes or parameters of `layer`, a host's class, are not those of the published layer."""
    for name in (*ATTRIBUTES, *PARAMETERS):
        if not hasattr(layer, name):
            return f"it has no {name}"
    nb, bs = layer.num_blocks, layer.block_size
    hidden = layer.w1.shape[-1]
    shapes = {"w1": (2, nb, bs, hidden), "b1": (2, nb, hidden), "w2": (2, nb, hidden, bs), "b2": (2, nb, bs)}
    for name, shape in shapes.items():
        if reason := hosts.not_plain(name, getattr(layer, name), shape):
            return reason
    if not 0 < layer.hard_thresholding_fraction <= 1:
        return (
            f"hard_thresholding_fraction is {layer.hard_thresholding_fraction}, expected above 0, at most 1"
        )
    if not layer.sparsity_threshold >= 0:
        return f"sparsity_threshold {layer.sparsity_threshold} is negative"
    return None


def absorbed(layer: Any) -> list[nn.Module]:
    """Submodules whose own forward is not called."""
    return []


def run(layer: Any, x: Tensor, weights: Any, norm: nn.LayerNorm | None = None) -> Tensor:
    """What a recognised layer computes: x (B, H, W, C) -> the same shape and dtype.

    weights: the layer itself, or its copy in another precision. With a norm the first half of a block.
    """
    return ops.spectral_filter(
        x,
        weights.w1,
        weights.b1,
        weights.w2,
        weights.b2,
        sparsity_threshold=weights.sparsity_threshold,
        hard_thresholding_fraction=weights.hard_thresholding_fraction,
        norm_weight=None if norm is None else norm.weight,
        norm_bias=None if norm is None else norm.bias,
        eps=1e-6 if norm is None else norm.eps,
    )


def takes(layer: Any, x: Tensor) -> bool:
    """Whether `run` has an answer for x; otherwise the original gives its own error."""
    return True


def convert(layer: Any, schemes: Mapping[str, LayerScheme]) -> nn.Module:
    """The weights of `layer` in the precision of schemes[""]."""
    return convert_filter(layer, schemes[""].precision)


def parameters(layer: Any) -> list[Tensor]:
    """What `convert` reads."""
    return [getattr(layer, name) for name in PARAMETERS]


def signature(layer: Any) -> tuple[Any, ...]:
    """What a probe of a recognised layer depends on: two layers of one signature share its result."""
    settings = (getattr(layer, name) for name in ATTRIBUTES)
    return (type(layer), layer.w1.shape, hosts.device_of(layer.w1), *settings)


def stand_in(layer: Any, draw: Draw) -> Any:
    """A layer of the same class and settings, with weights of its own."""
    return draw.stand_in(layer, **draw_weights(layer, draw))


def draw_weights(layer: Any, draw: Draw) -> dict[str, Tensor]:
    """Weights such that what reaches the softshrink is about three times its threshold: another one shows."""
    fan_in, hidden = layer.w1.shape[-2:]
    size = 3 * layer.sparsity_threshold or 1.0
    scale = {"w1": fan_in**-0.5, "b1": 1.0, "w2": size * hidden**-0.5, "b2": size}
    return {name: draw(getattr(layer, name).shape, scale[name]) for name in PARAMETERS}


def cases(layer: Any, draw: Draw) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(x, exact result in float64, what of it the errors do not count against) for a stand-in."""
    for x in inputs(layer, draw):
        yield x, exact(layer, x.double()), x


def inputs(layer: Any, draw: Draw) -> Iterator[Tensor]:
    """(B, H, W, C) of GRIDS."""
    rows = math.ceil(1 / layer.hard_thresholding_fraction)  # so many times H keep a mode at any fraction
    for B, H, W in GRIDS:
        yield draw((B, rows * H, W, layer.num_blocks * layer.block_size))


def exact(layer: Any, x: Tensor) -> Tensor:
    """AFNO2D(x) in float64."""
    w1, b1, w2, b2 = (getattr(layer, name).double() for name in PARAMETERS)
    return reference.spectral_filter(
        x, w1, b1, w2, b2, layer.sparsity_threshold, layer.hard_thresholding_fraction, None, None, 0.0
    )


def trial(layer: Any, x: Tensor, precisions: Mapping[str, str]) -> dict[str, LayerScheme]:
    """The schemes that a probe with input x holds a stand-in to."""
    return {"": LayerScheme(precisions[""])}
