"""What is left alone, and the reason that the report gives for it."""

import pytest
import torch
from torch import nn

import wxkernels
from tests import hosts
from wxkernels.patching import filters


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
        (lambda forward: lambda self, x: forward(self, x)[0], "a tensor of shape (2, 6, 15, 16)"),
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
    run = filters.run
    monkeypatch.setattr(filters, "run", lambda *args: run(*args) * (1 + 1e-5))
    found = reason(host.layer(16, num_blocks=2))
    assert "is above twice its own" in found
    assert "e-0" in found


def skipped(report):
    return {name: reason for name, _, reason in report.skipped}


def hooked(part):
    return lambda module: module.get_submodule(part).register_forward_hook(lambda *args: None)


def replaced(part, other):
    return lambda module: module.set_submodule(part, other)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda block: setattr(block, "double_skip", False), "it has one skip"),
        (replaced("mlp.act", nn.ReLU()), "mlp.act is ReLU(), not the exact GELU"),
        (replaced("mlp.act", nn.GELU("tanh")), "not the exact GELU"),
        (replaced("norm2", nn.RMSNorm(16)), "norm2 is a RMSNorm, not a LayerNorm"),
        (replaced("norm1", nn.LayerNorm(16, elementwise_affine=False)), "norm1.weight is a NoneType"),
        (replaced("mlp", nn.Identity()), "mlp: the class torch.nn.modules.linear.Identity is not known"),
        (replaced("mlp.fc2", nn.Identity()), "mlp.fc2 is a Identity, not a Linear"),
        (replaced("mlp.fc1", nn.Linear(16, 8)), "mlp.fc2.weight is (16, 64)"),
        (replaced("mlp.drop", nn.AlphaDropout(0.5)), "mlp.drop is a AlphaDropout"),
        (lambda block: delattr(block.mlp, "act"), "not the published ones"),
        (hooked("norm1"), "norm1 has a hook"),
        (hooked("filter"), "filter has a hook"),
        (hooked("mlp.fc1"), "mlp.fc1 has a hook"),
        (lambda block: setattr(block.mlp, "forward", torch.sin), "mlp has a hook or a forward of its own"),
        (lambda block: setattr(block, "forward", lambda x: x), "on this very object"),
    ],
)
@torch.no_grad()
def test_of_another_block_the_filter_alone_is_replaced(host, change, expected):
    block = host.block(16, num_blocks=2)
    change(block)
    block.eval()
    x = torch.randn(2, 6, 12, 16)
    try:
        original = block(x)
    except (AttributeError, RuntimeError):  # a block that cannot run is left alone too
        original = None
    report = wxkernels.patch(nn.ModuleDict({"block": block}))
    assert expected in skipped(report)["block"]
    assert [name for name, *_ in report.replaced] == ["block.filter"]
    if original is not None:
        torch.testing.assert_close(block(x), original, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_block_that_changes_after_the_patch_runs_its_original(host):
    block = host.block(16, num_blocks=2).eval()
    x = torch.randn(2, 6, 12, 16)
    wxkernels.patch(block)
    fired = []
    block.norm2.register_forward_hook(lambda *args: fired.append("norm2"))
    block(x)
    assert fired == ["norm2"]
    block.norm2._forward_hooks.clear()
    block.double_skip = False
    ours = block(x)
    wxkernels.unpatch(block)
    torch.testing.assert_close(ours, block(x), rtol=1e-5, atol=1e-5)


def test_a_subclass_of_a_block_and_of_a_network_is_left_alone(host, x):
    class Mine(host.block):
        pass

    report = wxkernels.patch(Mine(16, num_blocks=2))
    assert "it is a subclass of" in skipped(report)[""]
    assert [name for name, *_ in report.replaced] == ["filter"]

    class Net(host.network_class):
        def forward(self, x):
            return 2 * super().forward(x)

    network = Net(**host.numbers, patch_size=(8, 8), embed_dim=32, depth=2, num_blocks=4).eval()
    with torch.no_grad():
        expected = network(x)
        report = wxkernels.patch(network)
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    assert "it is a subclass of" in skipped(report)[""]
    assert [name for name, *_ in report.replaced] == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (hooked("head"), "head has a hook"),
        (hooked("patch_embed.proj"), "patch_embed.proj has a hook"),
        (replaced("head", nn.Sequential(nn.Linear(32, 192))), "head is a Sequential, not a Linear"),
        (replaced("head", nn.Linear(32, 190)), "head has 190 rows"),
        (replaced("pos_drop", nn.Identity()), "pos_drop is a Identity"),
        (lambda network: setattr(network.patch_embed.proj, "padding", (1, 1)), "has padding"),
        (replaced("patch_embed.proj", nn.Conv2d(3, 32, 4, 8)), "has kernel (4, 4), stride (8, 8)"),
        (
            lambda network: setattr(network, "pos_embed", nn.Parameter(torch.zeros(1, 70, 32))),
            "pos_embed is (1, 70, 32)",
        ),
        (
            lambda network: setattr(network, "forward_features", torch.sin),
            "forward_features was replaced",
        ),
        (lambda network: setattr(network, "_forward_features", torch.sin), "was replaced"),
        (lambda network: setattr(network, "patch_size", (5, 8)), "not whole patches of 5 x 8"),
    ],
)
def test_of_another_network_the_blocks_are_replaced(network, change, expected):
    change(network)
    report = wxkernels.patch(network)
    assert expected in skipped(report)[""]
    assert [name for name, *_ in report.replaced] == ["blocks.0", "blocks.1"]


@torch.no_grad()
def test_input_of_another_size_gets_the_original_error(network, x):
    def message(x):
        with pytest.raises((AssertionError, ValueError, RuntimeError)) as error:
            network(x)
        return str(error.value)

    others = (x[..., :-8], x[:, :2], x[0])
    expected = [message(other) for other in others]
    wxkernels.patch(network)
    assert [message(other) for other in others] == expected


def tampered_block(self, x):
    return self.mlp(self.norm2(x)) + self.filter(self.norm1(x))


def tampered_network(self, x):
    self.blocks = self.blocks[::-1]
    return type(self).published(self, x)


def shifted_network(self, x):
    return type(self).published(self, x) + self.pos_embed.std()


def test_a_tampered_block_and_network_fail_the_probe(host, network, monkeypatch):
    monkeypatch.setattr(host.network_class, "published", host.network_class.forward, raising=False)
    monkeypatch.setattr(host.block, "forward", tampered_block)
    for forward in (tampered_network, shifted_network):
        monkeypatch.setattr(host.network_class, "forward", forward)
        report = wxkernels.patch(network)
        reasons = skipped(report)
        assert set(reasons) == {"", "blocks.0", "blocks.1"}
        assert all("differs from the published layer" in reason for reason in reasons.values())
        assert [name for name, *_ in report.replaced] == ["blocks.0.filter", "blocks.1.filter"]


def test_our_own_network_is_left_alone():
    from wxkernels.models.afno import AFNONet

    ours = AFNONet(img_size=(16, 32), embed_dim=16, depth=1, num_blocks=2)
    reasons = skipped(wxkernels.patch(ours))
    assert reasons.keys() == {"", "blocks.0", "blocks.0.filter"}
    assert all("a layer of wxkernels" in reason for reason in reasons.values())


def test_nothing_known_in_the_model(caplog):
    report = wxkernels.patch(nn.Linear(2, 2))
    assert str(report) == "no layer that wxkernels knows was found"
    assert "nothing was replaced" in caplog.text
