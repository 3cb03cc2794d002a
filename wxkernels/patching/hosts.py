"""The modules of other packages that our ops can stand in for, declared once; `patch` and `auto` read it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Host:
    """One class of one package; `differs` tells what makes it another operation where it only looks alike.

    kind: "filter", "block" or "network", which are replaced; "mlp" or "patch_embed", which are parts of them.
    """

    package: str
    module: str
    name: str
    kind: str
    differs: str = ""


_OTHER_LAYOUT = "it takes channels first and holds its weights in another layout: another operation"
_MODULATED = "it scales and shifts before the ReLU and cuts modes by min(H, W): another operation"
_HOLDS_MODULATED = "its MLP and filter take a modulation as a second input: another operation"

_NVLABS = {
    "filter": "AFNO2D",
    "mlp": "Mlp",
    "block": "Block",
    "patch_embed": "PatchEmbed",
    "network": "AFNONet",
}
_NVIDIA = {
    "filter": "AFNO2DLayer",
    "mlp": "AFNOMlp",
    "block": "Block",
    "patch_embed": "PatchEmbed",
    "network": "AFNO",
}
_NVIDIA_2 = {"filter": "AFNO2DLayer", "mlp": "AFNOMlp", "patch_embed": "AFNOPatchEmbed"}


def _package(package: str, module: str, names: dict[str, str], differs: str = "") -> Iterator[Host]:
    for kind, name in names.items():
        yield Host(package, module, name, kind, differs)


TABLE = {
    (host.module, host.name): host
    for host in (
        *_package("NVlabs/FourCastNet", "networks.afnonet", _NVLABS),
        *_package("ai-models-fourcastnet", "ai_models_fourcastnet.afnonet", _NVLABS),
        *_package("nvidia-physicsnemo 2", "physicsnemo.nn.module.afno_layers", _NVIDIA_2),
        *_package("nvidia-physicsnemo", "physicsnemo.models.afno.afno", _NVIDIA),
        *_package("nvidia-modulus", "modulus.models.afno.afno", _NVIDIA),
        Host(
            "NVlabs/AFNO-transformer",
            "afno.afno2d",
            "AFNO2D",
            "filter",
            differs="it takes (B, N, C) and keeps all rows and the columns by W: another operation",
        ),
        Host(
            "nvidia-physicsnemo 2",
            "physicsnemo.nn.module.afno_layers",
            "ModAFNO2DLayer",
            "filter",
            _MODULATED,
        ),
        Host(
            "nvidia-physicsnemo 1", "physicsnemo.models.afno.modafno", "ModAFNO2DLayer", "filter", _MODULATED
        ),
        Host("nvidia-physicsnemo", "physicsnemo.models.afno.modafno", "Block", "block", _HOLDS_MODULATED),
        Host("nvidia-physicsnemo", "physicsnemo.models.afno.modafno", "ModAFNO", "network", _HOLDS_MODULATED),
        Host("nvidia-modulus", "modulus.models.afno.modafno", "ModAFNO2DLayer", "filter", _MODULATED),
        Host("nvidia-modulus", "modulus.models.afno.modafno", "Block", "block", _HOLDS_MODULATED),
        Host("nvidia-modulus", "modulus.models.afno.modafno", "ModAFNO", "network", _HOLDS_MODULATED),
        Host(
            "nvidia-physicsnemo",
            "physicsnemo.models.afno.distributed.layers",
            "DistributedAFNO2D",
            "filter",
            _OTHER_LAYOUT,
        ),
        Host(
            "nvidia-modulus",
            "modulus.models.afno.distributed.layers",
            "DistributedAFNO2D",
            "filter",
            _OTHER_LAYOUT,
        ),
        Host("makani", "makani.models.networks.afnonet_v2", "AFNO2D", "filter", _OTHER_LAYOUT),
    )
}


#: The forward that a class had before `wxkernels.auto` replaced it.
original_forwards: dict[type, Callable[..., Tensor]] = {}


def original(module: nn.Module) -> Callable[..., Tensor]:
    """The published forward of the class of `module`."""
    return original_forwards.get(type(module), type(module).forward)


def find(module: Any) -> Host | None:
    """The host whose very class `module` is an instance of."""
    cls = type(module)
    return TABLE.get((cls.__module__, cls.__qualname__))


def unknown(module: Any, kind: str) -> str | None:
    """Why the class of `module` is none that is replaced, or is a part, as `kind`; None if it is one."""
    cls = type(module)
    host = find(module)
    if host is not None and host.kind == kind:
        return host.differs or None
    if cls.__module__.partition(".")[0] == "wxkernels":
        return "it is a layer of wxkernels and runs on our op already"
    for base in cls.__mro__[1:]:
        if (base.__module__, base.__qualname__) in TABLE:
            return f"it is a subclass of {base.__module__}.{base.__qualname__} and may compute something else"
    return f"the class {cls.__module__}.{cls.__qualname__} is not known, and the name alone says nothing"


def not_plain(name: str, tensor: Any, shape: Sequence[int]) -> str | None:
    """Why `tensor` is no parameter that our ops read: a plain one, floating, of that shape."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"{name} is a {type(tensor).__name__}, not a plain tensor"
    if tensor.shape != tuple(shape) or not tensor.is_floating_point():
        return f"{name} is {tuple(tensor.shape)} {tensor.dtype}, expected {tuple(shape)} and a floating dtype"
    return None


def not_linear(name: str, layer: Any, shape: Sequence[int]) -> str | None:
    """Why `layer` is no nn.Linear with a weight of that shape."""
    if type(layer) is not nn.Linear:
        return f"{name} is a {type(layer).__name__}, not a Linear"
    return not_plain(f"{name}.weight", layer.weight, shape) or (
        None if layer.bias is None else not_plain(f"{name}.bias", layer.bias, shape[:1])
    )


def device_of(tensor: Tensor) -> torch.device:
    """Where a probe runs: the parameters' own device, or the CPU for a module without storage."""
    return torch.device("cpu") if tensor.device.type == "meta" else tensor.device
