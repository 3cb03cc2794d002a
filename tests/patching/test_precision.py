"""patch(precision=...): what runs in which precision, and that the model itself stays what it was."""

import copy
import logging
import pickle

import pytest
import torch
from torch import nn

import wxkernels
from tests import hosts
from wxkernels.errors import UserError
from wxkernels.patching import blocks, forward
from wxkernels.quantization.scheme import asked

LAYERS = [
    *("patch_embed", "pos_embed", "head"),
    *(f"blocks.{i}.{part}" for i in range(2) for part in ("filter", "mlp")),
]


@pytest.fixture(autouse=True)
def told_again():
    """Warnings that come once a process."""
    for tell in (forward._tell_as_given, forward._tell_changed):
        tell.cache_clear()


def precisions(report):
    return {layer: value for row in report.replaced for layer, value in row.precisions.items()}


def low(network, x, precision):
    return wxkernels.patch(network, precision=precision, calibration=[x])


def free(precision):
    """A name for all would be searched; this is obeyed."""
    return {"*": precision}


def change(network, x):
    """What the blocks change in the result: the scale of errors."""
    bare = copy.deepcopy(network)
    wxkernels.unpatch(bare)
    expected = bare(x)
    bare.blocks = nn.ModuleList()
    return (bare(x) - expected).square().mean().sqrt()


@pytest.mark.parametrize(("precision", "largest"), [("bf16", 0.01), ("int8", 0.03), ("fp8", 0.08)])
@torch.inference_mode()
def test_result_report_and_size(network, x, precision, largest):
    expected, scale = network(x), change(network, x)
    state = copy.deepcopy(network.state_dict())
    report = low(network, x, free(precision))
    assert not report.skipped
    assert {row.name for row in report.replaced} == {"", "blocks.0", "blocks.1"}
    found = precisions(report)
    assert found == {layer: asked(layer, precision) for layer in LAYERS}

    error = (network(x) - expected).square().mean().sqrt()
    assert 0 < error < largest * scale
    assert 0 < report.error < (0.06 if precision == "fp8" else 0.02)
    for row in report.replaced:
        assert 100 * row.errors.ours < row.errors.rounded < largest
    assert report.size_before == sum(p.nbytes for p in network.parameters())
    assert report.size_after < {"bf16": 0.56, "int8": 0.45, "fp8": 0.45}[precision] * report.size_before
    *rows, last = str(report).splitlines()
    assert f"{precision}" in rows[-1]
    assert f"{report.size_after / 2**20:.2f} MiB in these precisions" in last

    assert list(network.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert len(list(network.modules())) == len(list(copy.deepcopy(network).modules()))
    wxkernels.unpatch(network)
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("precision", ["same", "bf16", "int8", "fp8"])
@torch.inference_mode()
def test_a_sample_is_the_same_in_every_batch(network, x, precision):
    low(network, x, free(precision))
    assert torch.equal(network(x), torch.cat([network(sample) for sample in x.split(1)]))


@torch.no_grad()
def test_bf16_needs_no_calibration_and_int8_does(network, x):
    wxkernels.patch(network)
    before = [module.__dict__.get("forward") for module in network.modules()]
    for precision in ("int8", "fp8", {"blocks.1.mlp": "int8"}):
        with pytest.raises(UserError, match=r"pass calibration=\[x\]"):
            wxkernels.patch(network, precision=precision)
    assert [module.__dict__.get("forward") for module in network.modules()] == before  # as it was
    report = wxkernels.patch(network, precision="bf16")
    assert set(precisions(report).values()) == {"bf16"}
    assert report.error is None
    wxkernels.patch(network, precision={"pos_embed": "int8"})  # has no scale to calibrate


@torch.no_grad()
def test_the_first_pattern_that_fits_decides(network, x):
    report = low(network, x, {"blocks.0.*": "bf16", "head": "same", "*.mlp": "int8", "pos*": "int8"})
    assert precisions(report) == {
        "patch_embed": "same",
        "pos_embed": "int8",
        "head": "same",
        "blocks.0.filter": "bf16",
        "blocks.0.mlp": "bf16",
        "blocks.1.filter": "same",
        "blocks.1.mlp": "int8",
    }
    assert "filter same, mlp int8" in str(report)
    assert precisions(low(network, x, {"*": "int8"}))["blocks.0.filter"] == "bf16"  # int8 is for MLPs
    assert set(precisions(low(network, x, {})).values()) == {"same"}


@torch.no_grad()
def test_the_search_moves_layers_to_a_finer_precision(network, x, monkeypatch):
    from wxkernels.quantization import calibration

    monkeypatch.setitem(calibration.BUDGETS, "int8", 1.0)
    wide = precisions(low(network, x, "int8"))
    assert wide["blocks.0.mlp"] == "int8"
    monkeypatch.setitem(calibration.BUDGETS, "int8", 1e-6)
    assert set(precisions(low(network, x, "int8")).values()) == {"same"}
    assert precisions(low(network, x, {"*": "int8"})) == wide  # chosen by name: obeyed


@pytest.mark.parametrize(
    ("precision", "calibration", "expected"),
    [
        ("fp4", None, "precision: expected 'same', 'bf16', 'int8', 'fp8' or a dict .* got 'fp4'"),
        ({"*": "half"}, None, "got 'half'"),
        (None, None, "got None"),
        ({"blocks.7.*": "bf16"}, None, r"'blocks.7.\*' fits none of the layers patch_embed, pos_embed, head"),
        ("int8", [3], "calibration: expected tensors .* got int"),
        ("int8", [torch.zeros(3, 48, 96)], "calibration: "),
        ("int8", [torch.zeros(1, 3, 48, 88)], "calibration: "),
        ("int8", [torch.full((1, 3, 48, 96), torch.nan)], "calibration: .* finite"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(network, precision, calibration, expected):
    with pytest.raises(UserError, match=expected) as error:
        wxkernels.patch(network, precision=precision, calibration=calibration)
    assert "\n" not in str(error.value)
    assert all("forward" not in module.__dict__ for module in network.modules())


@torch.no_grad()
def test_a_block_that_is_left_alone(host, network, x):
    network.blocks[0].double_skip = False
    expected = network(x)
    report = wxkernels.patch(network, precision="bf16")
    assert precisions(report)["blocks.0.filter"] == "bf16"
    assert "blocks.0.mlp" not in precisions(report)
    error = (network(x) - expected).abs().max()
    assert 0 < error < 0.02 * expected.abs().max()
    wxkernels.unpatch(network)
    with pytest.raises(UserError, match=r"blocks\.0 cannot: double_skip is False"):
        low(network, x, "int8")


@torch.no_grad()
def test_a_filter_and_a_block_alone(host):
    block = host.block(16, num_blocks=2).eval()
    x = torch.randn(2, 6, 12, 16)
    for module, layers in ((block.filter, {""}), (block, {"filter", "mlp"})):
        expected = module(x)
        report = wxkernels.patch(module, precision="bf16")
        assert precisions(report).keys() == layers
        assert set(precisions(report).values()) == {"bf16"}
        error = (module(x) - expected).abs().max()
        assert 0 < error < 0.02 * expected.abs().max()
        wxkernels.unpatch(module)
    expected = block(x)
    report = low(block, x, "int8")
    assert precisions(report) == {"filter": "bf16", "mlp": "int8"}
    assert 0 < (block(x) - expected).abs().max() < 0.02 * expected.abs().max()


@torch.no_grad()
def test_a_block_beside_the_network(host, network, x):
    pair = nn.ModuleDict({"network": network, "block": host.block(16, num_blocks=2)})
    found = precisions(low(pair, x, {"network.*": "int8", "block.*": "bf16"}))
    assert found["network.blocks.1.mlp"] == "int8"
    assert found["block.mlp"] == "bf16"
    with pytest.raises(UserError, match="int8 has to be calibrated"):
        low(pair, x, "int8")


def test_calibration_is_in_evaluation(host, x):
    network = host.network(drop_rate=0.5).train()
    network.head.eval()
    modes = [module.training for module in network.modules()]
    reports = [low(network, x, "int8") for _ in range(2)]
    assert reports[0].error == reports[1].error
    assert [module.training for module in network.modules()] == modes


@torch.no_grad()
def test_a_network_inside_another(x):
    afnonet = hosts.module("ai_models_fourcastnet.afnonet")
    backbone = hosts.load("ai-models-fourcastnet").network()
    network = afnonet.PrecipNet(backbone=backbone, in_chans=3, out_chans=3).eval()
    expected = network(x)
    report = low(network, x, {"backbone.blocks.0.*": "bf16", "*mlp": "int8"})
    found = precisions(report)
    assert found["backbone.blocks.0.mlp"] == "bf16"
    assert found["backbone.blocks.1.mlp"] == "int8"
    assert found["backbone.head"] == "same"
    assert (network(x) - expected).abs().max() < 0.1 * expected.abs().max()


def load_in_place(network, state):
    network.load_state_dict(state)


def load_by_assignment(network, state):
    network.load_state_dict(state, assign=True)


def edit(network, state):
    for name, parameter in network.named_parameters():
        parameter.copy_(state[name])


@pytest.mark.parametrize("load", [load_in_place, load_by_assignment, edit])
@torch.no_grad()
def test_copies_follow_the_parameters(network, x, load, caplog):
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.mul_(1.25)
    wxkernels.patch(other, precision="bf16")
    expected = other(x)
    wxkernels.patch(network, precision="bf16")
    assert not torch.equal(network(x), expected)
    for _ in range(2):  # the second time, storage of the first may be taken again
        load(network, {name: value.clone() for name, value in other.state_dict().items()})
        assert torch.equal(network(x), expected)
    assert not caplog.records
    low(network, x, free("int8"))
    load(network, {name: value.clone() for name, value in other.state_dict().items()})
    network(x)
    assert "changed or moved since it was calibrated" in caplog.text


@torch.no_grad()
def test_copies_follow_the_dtype(network, x):
    low(network, x, free("int8"))
    single = network(x)
    double = network.double()(x.double())
    assert double.dtype == torch.float64
    assert (double - single).abs().max() < 0.02 * single.abs().max()
    assert network.float()(x).dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@torch.inference_mode()
def test_copies_and_pickles_of_the_model(network, x, precision):
    low(network, x, free(precision))
    expected = network(x)
    size = len(pickle.dumps(network))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x), expected)
        assert len(pickle.dumps(other)) <= 1.01 * size  # what is converted does not travel
        for parameter in other.parameters():
            parameter.data = 1.5 * parameter.data
        assert not torch.equal(other(x), expected)
    assert torch.equal(network(x), expected)


def test_gradients_and_training_run_as_given(network, x, caplog):
    expected = network(x)
    expected.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    low(network, x, free("int8"))
    ours = network(x)
    ours.square().mean().backward()
    assert "runs as it was given" in caplog.text
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            network.get_parameter(name).grad, gradient, rtol=0, atol=1e-4 * scale + 1e-9
        )
    with torch.no_grad():
        assert not torch.allclose(network(x), expected, rtol=1e-4, atol=1e-5)
        network.train()
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dropout_is_active_in_training_alone(host, x):
    network = host.network(drop_rate=0.5)
    wxkernels.patch(network, precision="bf16")
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))
    network.eval()
    network.blocks[0].mlp.drop.train()  # as for an ensemble by dropout
    assert not torch.equal(network(x), network(x))


@torch.no_grad()
def test_autocast_rounds_as_in_the_original(network, x):
    single = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        original = network(x)
        wxkernels.patch(network)
        ours = network(x)
    assert ours.dtype == original.dtype == torch.bfloat16
    scale = change(network, x)
    error, expected = ((y.float() - single).square().mean().sqrt() for y in (ours, original))
    assert 1e-4 * scale < error < 2 * expected


@torch.no_grad()
def test_compiled(network, x):
    torch.compiler.reset()
    low(network, x, free("bf16"))
    compiled = torch.compile(network, backend="eager")
    assert torch.equal(compiled(x), network(x))
    network.head.weight.mul_(2)  # a graph would not see it
    assert torch.equal(compiled(x), network(x))


@torch.no_grad()
def test_an_error_that_is_not_rounding_keeps_the_original(network, x, monkeypatch):
    expected = network(x)
    trial = blocks.trial

    def clipped(block, x, precisions):
        found = trial(block, x, precisions)
        found["mlp"].__dict__["hidden_scale"] *= 0.02
        return found

    monkeypatch.setattr(blocks, "trial", clipped)
    report = low(network, x, {"*.mlp": "int8"})
    reasons = {name: reason for name, _, reason in report.skipped}
    assert reasons.keys() == {"blocks.0", "blocks.1"}
    assert "in int8 on the probe is above 0.1" in reasons["blocks.0"]
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    assert set(precisions(report).values()) == {"same"}


@torch.no_grad()
def test_hooks_on_blocks_fire_and_on_parts_bring_the_original_back(network, x, caplog):
    caplog.set_level(logging.WARNING)
    expected = network(x)
    low(network, x, free("bf16"))
    fired = []
    network.blocks[0].register_forward_hook(lambda *args: fired.append("block"))
    network(x)
    network.blocks[0].mlp.register_forward_hook(lambda *args: fired.append("mlp"))
    network(x)
    assert fired == ["block", "mlp", "block"]
    assert "without hooks on its parts" in caplog.text
    network.blocks[1].mlp.register_forward_hook(lambda *args: None)
    network.head.register_forward_hook(lambda *args: None)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
