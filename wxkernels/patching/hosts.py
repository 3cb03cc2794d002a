"""The layers of other packages that our op can stand in for, declared once; `patch` and `auto` read it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wxkernels import ops

PARAMETERS = ("w1", "b1", "w2", "b2")
ATTRIBUTES = ("num_blocks", "block_size", "sparsity_threshold", "hard_thresholding_fraction")


@dataclass(frozen=True)
class Host:
    """One class of one package; `differs` tells what makes it another operation where it only looks alike."""

    package: str
    module: str
    name: str
    differs: str = ""


_OTHER_LAYOUT = "it takes channels first and holds its weights in another layout: another operation"
_MODULATED = "it scales and shifts before the ReLU and cuts modes by min(H, W): another operation"

TABLE = {
    (host.module, host.name): host
    for host in (
        Host("NVlabs/FourCastNet", "networks.afnonet", "AFNO2D"),
        Host("ai-models-fourcastnet", "ai_models_fourcastnet.afnonet", "AFNO2D"),
        Host("nvidia-physicsnemo 2", "physicsnemo.nn.module.afno_layers", "AFNO2DLayer"),
        Host("nvidia-physicsnemo 1", "physicsnemo.models.afno.afno", "AFNO2DLayer"),
        Host("nvidia-modulus", "modulus.models.afno.afno", "AFNO2DLayer"),
        Host(
            "NVlabs/AFNO-transformer",
            "afno.afno2d",
            "AFNO2D",
            differs="it takes (B, N, C) and keeps all rows and the columns by W: another operation",
        ),
        Host("nvidia-physicsnemo 2", "physicsnemo.nn.module.afno_layers", "ModAFNO2DLayer", _MODULATED),
        Host("nvidia-physicsnemo 1", "physicsnemo.models.afno.modafno", "ModAFNO2DLayer", _MODULATED),
        Host("nvidia-modulus", "modulus.models.afno.modafno", "ModAFNO2DLayer", _MODULATED),
        Host(
            "nvidia-physicsnemo",
            "physicsnemo.models.afno.distributed.layers",
            "DistributedAFNO2D",
            _OTHER_LAYOUT,
        ),
        Host("nvidia-modulus", "modulus.models.afno.distributed.layers", "DistributedAFNO2D", _OTHER_LAYOUT),
        Host("makani", "makani.models.networks.afnonet_v2", "AFNO2D", _OTHER_LAYOUT),
    )
}

#: Module names that hold a class which can be replaced.
REPLACEABLE = {host.module: host.name for host in TABLE.values() if not host.differs}


def run(layer: Any, x: Tensor) -> Tensor:
    """What a recognised layer computes, by our op: x (B, H, W, C) -> the same shape and dtype."""
    return ops.spectral_filter(
        x,
        layer.w1,
        layer.b1,
        layer.w2,
        layer.b2,
        sparsity_threshold=layer.sparsity_threshold,
        hard_thresholding_fraction=layer.hard_thresholding_fraction,
    )


def is_candidate(layer: nn.Module) -> bool:
    """Whether a person would take `layer` for an AFNO filter: by a class name, or by its parameter names."""
    if any("AFNO2D" in base.__name__ for base in type(layer).__mro__):
        return True
    parameters = dict(layer.named_parameters(recurse=False))
    return set(parameters) == set(PARAMETERS) and parameters["w1"].dim() == 4


def refusal(layer: nn.Module) -> str | None:
    """Why `run` cannot stand in for `layer`; None if class, attributes and parameter shapes are a host's."""
    cls = type(layer)
    host = TABLE.get((cls.__module__, cls.__qualname__))
    if host is None:
        return _unknown(cls)
    if host.differs:
        return host.differs
    return unfit(layer)


def unfit(layer: Any) -> str | None:
    """Why the attributes or parameters of `layer`, a host's class, are not those of the published layer."""
    for name in (*ATTRIBUTES, *PARAMETERS):
        if not hasattr(layer, name):
            return f"it has no {name}"
    nb, bs = layer.num_blocks, layer.block_size
    hidden = layer.w1.shape[-1]
    shapes = {"w1": (2, nb, bs, hidden), "b1": (2, nb, hidden), "w2": (2, nb, hidden, bs), "b2": (2, nb, bs)}
    for name, shape in shapes.items():
        weight = getattr(layer, name)
        if type(weight) not in (Tensor, nn.Parameter):
            return f"{name} is a {type(weight).__name__}, not a plain tensor"
        if weight.shape != shape or not weight.is_floating_point():
            return f"{name} is {tuple(weight.shape)} {weight.dtype}, expected {shape} and a floating dtype"
    if not 0 < layer.hard_thresholding_fraction <= 1:
        return (
            f"hard_thresholding_fraction is {layer.hard_thresholding_fraction}, expected above 0, at most 1"
        )
    if not layer.sparsity_threshold >= 0:
        return f"sparsity_threshold {layer.sparsity_threshold} is negative"
    return None


def signature(layer: Any) -> tuple[Any, ...]:
    """What a probe of a recognised layer depends on: two layers of one signature share its result."""
    settings = (getattr(layer, name) for name in ATTRIBUTES)
    return (type(layer), layer.w1.shape, device_of(layer), *settings)


def _unknown(cls: type) -> str:
    if cls.__module__.partition(".")[0] == "wxkernels":
        return "it is a layer of wxkernels and runs on our op already"
    for base in cls.__mro__[1:]:
        if (base.__module__, base.__qualname__) in TABLE:
            return f"it is a subclass of {base.__module__}.{base.__qualname__} and may compute something else"
    return f"the class {cls.__module__}.{cls.__qualname__} is not known, and the name alone says nothing"


def device_of(layer: Any) -> torch.device:
    """Where a probe of `layer` runs: its own device, or the CPU for a layer without storage."""
    device = layer.w1.device
    return torch.device("cpu") if device.type == "meta" else device
