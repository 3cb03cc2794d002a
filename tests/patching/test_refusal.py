"""What is left alone, and the reason that the report gives for it."""

import pytest
import torch
from torch import nn

import wxkernels
from tests import hosts
from wxkernels.patching import hosts as known


def reason(model):
    report = wxkernels.patch(model)
    assert not report.replaced
    assert "left alone" in str(report)
    assert all("forward" not in module.__dict__ for module in model.modules())
    (skipped,) = report.skipped
    return skipped.reason


class Lookalike(nn.Module):
    """Parameters and attributes of the AFNO layer, but one real product over tokens."""

    def __init__(self):
        super().__init__()
        self.num_blocks, self.block_size = 2, 8
        self.sparsity_threshold, self.hard_thresholding_fraction = 0.01, 1
        shapes = {"w1": (2, 2, 8, 8), "b1": (2, 2, 8), "w2": (2, 2, 8, 8), "b2": (2, 2, 8)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        return x + torch.relu(x)


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("afno.afno2d", "AFNO2D", "takes (B, N, C)"),
        ("physicsnemo.nn.module.afno_layers", "ModAFNO2DLayer", "scales and shifts"),
        ("makani.models.networks.afnonet_v2", "AFNO2D", "channels first"),
        ("someone.layers", "AFNO2D", "someone.layers.AFNO2D is not known"),
        ("someone.layers", "FourierMixer", "someone.layers.FourierMixer is not known"),
        ("wxkernels.models.afno", "AFNO2D", "a layer of wxkernels"),
        (
            "networks.afnonet",
            "AFNO2D",
            "differs from the published layer by",
        ),  # the name is right, the code is not
    ],
)
def test_lookalikes(module, name, expected):
    cls = type(name, (Lookalike,), {"__module__": module, "__qualname__": name})
    assert expected in reason(nn.Sequential(cls()))


@pytest.mark.parametrize("name", ["physicsnemo", "modulus"])
def test_the_modulated_layer_of_the_host_itself(name):
    path = {"physicsnemo": "physicsnemo.nn.module.afno_layers", "modulus": "modulus.models.afno.modafno"}[
        name
    ]
    layer = hosts.module(path).ModAFNO2DLayer(16, 8, num_blocks=2)
    report = wxkernels.patch(layer)
    assert not report.replaced
    assert "scales and shifts" in report.skipped[0].reason


def test_a_subclass_is_left_alone(host):
    class Mine(host.layer):
        def forward(self, x):
            return super().forward(x) * 2

    assert "it is a subclass of" in reason(Mine(16, num_blocks=2))


def test_a_forward_set_on_the_object_is_left_alone(host):
    layer = host.layer(16, num_blocks=2)
    mine = layer.forward = lambda x: x
    report = wxkernels.patch(layer)
    assert not report.replaced
    assert "on this very object" in report.skipped[0].reason
    wxkernels.unpatch(layer)
    assert layer.forward is mine


def test_wrong_shapes_attributes_and_kinds_of_weights(host):
    def changed(**attributes):
        layer = host.layer(16, num_blocks=2)
        for name, value in attributes.items():
            setattr(layer, name, value)
        return reason(layer)

    assert "w2 is (2, 2, 4, 8)" in changed(w2=nn.Parameter(torch.zeros(2, 2, 4, 8)))
    assert "expected (2, 4, 8, 8)" in changed(num_blocks=4)
    assert "hard_thresholding_fraction is 1.5" in changed(hard_thresholding_fraction=1.5)
    assert "sparsity_threshold -1 is negative" in changed(sparsity_threshold=-1)
    layer = host.layer(16, num_blocks=2)
    del layer.block_size
    assert "it has no block_size" in reason(layer)


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (lambda forward: lambda self, x: forward(self, x) - x, "differs from the published layer"),
        (lambda forward: lambda self, x: forward(self, x.mT).mT, "fails on the probe"),
        (lambda forward: lambda self, x: forward(self, x.transpose(1, 2)).transpose(1, 2), "differs from"),
        (
            lambda forward: lambda self, x: forward(self, x) * float("nan"),
            "differs from the published layer by nan",
        ),
        (lambda forward: lambda self, x: forward(self, x)[0], "shape of its input"),
    ],
    ids=["no residual", "raises", "other axis", "nan", "other shape"],
)
def test_a_tampered_forward_fails_the_probe(host, monkeypatch, tamper, expected):
    monkeypatch.setattr(host.layer, "forward", tamper(host.layer.forward))
    layer = host.layer(16, num_blocks=2)
    assert expected in reason(layer)
    assert wxkernels.patch(layer, probe=False).replaced[0].errors is None  # the probe is what held it back


def test_a_slightly_changed_threshold_fails_the_probe(host, monkeypatch):
    forward = host.layer.forward

    def tampered(self, x):
        self.sparsity_threshold *= 1.1
        try:
            return forward(self, x)
        finally:
            self.sparsity_threshold /= 1.1

    monkeypatch.setattr(host.layer, "forward", tampered)
    assert "differs from the published layer" in reason(host.layer(16, num_blocks=2))


def test_an_inexact_op_fails_the_probe_and_the_numbers_are_told(host, monkeypatch):
    run = known.run
    monkeypatch.setattr(known, "run", lambda layer, x: run(layer, x) * (1 + 1e-5))
    found = reason(host.layer(16, num_blocks=2))
    assert "is above twice its own" in found
    assert "e-0" in found


def test_nothing_known_in_the_model(caplog):
    report = wxkernels.patch(nn.Linear(2, 2))
    assert str(report) == "no layer that wxkernels knows was found"
    assert "nothing was replaced" in caplog.text
