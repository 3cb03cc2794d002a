"""The packages whose models we patch: each test runs their own published code, or skips with the reason."""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

#: Those that differ in code; "nvlabs" can be loaded too and has the code of the first.
NAMES = ("ai-models-fourcastnet", "physicsnemo", "modulus")

_libraries = []  # a library's operators live as long as the object


def make_importable() -> None:
    """Let the hosts' networks be imported beside a CPU torch.

    They take two names from timm, which imports torchvision, whose wheel needs a CUDA torch: where it is
    installed its operators are defined, and where timm still cannot be imported a module of two stands in.
    """
    if not _libraries and importlib.util.find_spec("torchvision") is not None:
        try:
            library = torch.library.Library("torchvision", "DEF")
        except RuntimeError:  # a torchvision that fits this torch has defined them
            pass
        else:
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
    try:
        importlib.import_module("timm.models.layers")
    except ImportError:
        for name in [n for n in sys.modules if n.partition(".")[0] == "timm"]:  # what a failed import left
            del sys.modules[name]
        layers = ModuleType("timm.models.layers")
        layers.__dict__.update(DropPath=nn.Identity, trunc_normal_=nn.init.trunc_normal_)
        timm = {"timm": ModuleType("timm"), "timm.models": ModuleType("timm.models"), layers.__name__: layers}
        sys.modules.update(timm)


def module(name: str) -> ModuleType:
    """Import a host's module; the test is skipped where it is not installed."""
    make_importable()
    return pytest.importorskip(
        name,
        reason=f"{name} or what it needs is not installed (ci/hosts.sh installs all hosts)",
        exc_type=ImportError,
    )


@dataclass
class Host:
    """The classes of a host and a way to build its network, small and with random weights."""

    name: str
    layer: type[nn.Module]
    block: type[nn.Module]
    network_class: type[nn.Module]
    numbers: dict[str, Any]

    def network(self, **changes: Any) -> nn.Module:
        """(B, 3, 48, 96) -> the same shape: 6 x 12 tokens of 32 channels, two blocks."""
        sizes = {"patch_size": (8, 8), "embed_dim": 32, "depth": 2, "num_blocks": 4}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = self.network_class(**self.numbers, **{**sizes, **changes}).eval()
            for block in network.blocks:  # as published, filter and MLP hardly add to the stream of tokens
                for parameter in block.parameters():
                    if parameter.dim() == 1:
                        parameter.data.add_(0.3 * torch.randn_like(parameter))
                    else:
                        parameter.data.mul_(10)
        return network


def load(name: str) -> Host:
    """One of NAMES, or "nvlabs"."""
    ours = {"in_chans": 3, "out_chans": 3, "img_size": (48, 96)}
    nvidia = {"in_channels": 3, "out_channels": 3, "inp_shape": [48, 96]}
    if name == "ai-models-fourcastnet":
        afnonet = module("ai_models_fourcastnet.afnonet")
        return Host(name, afnonet.AFNO2D, afnonet.Block, afnonet.AFNONet, ours)
    if name == "nvlabs":
        afnonet = _nvlabs()
        return Host(name, afnonet.AFNO2D, afnonet.Block, afnonet.AFNONet, ours)
    if name == "physicsnemo":
        layers = module("physicsnemo.nn.module.afno_layers")
        afno = module("physicsnemo.models.afno.afno")
        return Host(name, layers.AFNO2DLayer, afno.Block, afno.AFNO, nvidia)
    afno = module("modulus.models.afno.afno")
    return Host(name, afno.AFNO2DLayer, afno.Block, afno.AFNO, nvidia)


def _nvlabs() -> ModuleType:
    """`networks.afnonet` is in no registry: the copy in ai-models-fourcastnet, loaded under that name."""
    name = "networks.afnonet"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, module("ai_models_fourcastnet.afnonet").__file__)
        sys.modules.setdefault("networks", ModuleType("networks"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
