"""The published network, from a package that carries a copy of it, without that package's needs."""

import importlib
import importlib.util
import sys
from types import ModuleType
from unittest import mock

import pytest
from torch import nn


def afnonet() -> ModuleType:
    """`ai_models_fourcastnet.afnonet`; the test is skipped, with the reason, where it is not installed."""
    for package in ("ai_models_fourcastnet", "einops"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install --no-deps ai-models-fourcastnet einops)")
    # timm would bring in torchvision, whose CUDA build fails beside a CPU torch; two of its names are used.
    layers = ModuleType("timm.models.layers")
    layers.__dict__.update(DropPath=nn.Identity, trunc_normal_=nn.init.trunc_normal_)
    models = ModuleType("timm.models")
    timm = {"timm": ModuleType("timm"), "timm.models": models, "timm.models.layers": layers}
    with mock.patch.dict(sys.modules, timm):
        return importlib.import_module("ai_models_fourcastnet.afnonet")
