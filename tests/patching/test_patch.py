"""patch and unpatch on the published code of every host that is installed, with random weights."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import wxkernels
from wxkernels import _native, backends, errors
from wxkernels.patching import hosts as known
from wxkernels.patching.forward import LEVELS, PatchedForward, stands_in

NAMES = ["", "blocks.0", "blocks.1"]


def filters(network):
    return [block.filter for block in network.blocks]


def is_patched(network):
    """Network, blocks, filters."""
    modules = [network, *network.blocks, *filters(network)]
    return [isinstance(module.__dict__.get("forward"), PatchedForward) for module in modules]


@torch.no_grad()
def test_a_patched_network_is_as_exact_as_the_original(network, x):
    original = network(x)
    report = wxkernels.patch(network)
    assert [name for name, *_ in report.replaced] == NAMES
    assert not report.skipped
    ours = network(x)
    exact = copy.deepcopy(network).double()(x.double())
    assert (ours - exact).abs().max() <= 2 * (original - exact).abs().max() + 1e-7
    for part in ("mlp", "filter"):  # they matter here; and one that was replaced later is not passed over
        for block in network.blocks:
            setattr(block, part, nn.Identity())
        assert (network(x) - exact).abs().max() > 100 * (ours - exact).abs().max()


def test_the_report_gives_the_errors_and_prints_as_a_table(network):
    report = wxkernels.patch(network)
    errors = report.replaced[0].errors
    assert 0 < errors.ours <= 2 * errors.original + 1e-7
    assert errors.original < 1e-5
    lines = str(report).splitlines()
    assert len(lines) == 5
    assert f"{errors.ours:.1e}" in lines[1]
    weights = sum(p.nbytes for p in network.parameters()) / 2**20
    assert lines[-1].startswith(f"weights: {weights:.2f} MiB as given")
    for module in (network, network.blocks[0], network.blocks[0].filter, network.blocks[0].mlp):
        assert known.TABLE[type(module).__module__, type(module).__name__]


@pytest.mark.parametrize(
    "settings",
    [
        {"hard_thresholding_fraction": 0.5},
        {"hard_thresholding_fraction": 0.1},
        {"sparsity_threshold": 0.0},
        {"hidden_size_factor": 2},
        {"num_blocks": 1},
    ],
    ids=str,
)
@torch.no_grad()
def test_every_setting_of_the_layer(host, settings):
    layer = host.layer(**{"hidden_size": 16, "num_blocks": 4, **settings})
    x = torch.randn(2, 24, 17, 16)
    original = layer(x)
    assert wxkernels.patch(layer).replaced
    torch.testing.assert_close(layer(x), original, rtol=1e-5, atol=1e-6)


def test_keys_types_and_parameters_stay(host, network):
    keys, parameters = list(network.state_dict()), [id(p) for p in network.parameters()]
    modules = list(network.modules())
    wxkernels.patch(network)
    assert list(network.state_dict()) == keys
    assert [id(p) for p in network.parameters()] == parameters
    assert all(now is then for now, then in zip(network.modules(), modules, strict=True))
    assert all(type(layer) is host.layer for layer in filters(network))
    other = host.network()
    other.load_state_dict(network.state_dict())


def test_unpatch_restores_the_very_objects(host, network, x):
    before = [dict(module.__dict__) for module in network.modules()]
    function, expected = host.layer.forward, network(x)
    wxkernels.patch(network)
    wxkernels.unpatch(network)
    wxkernels.unpatch(network)  # harmless
    assert host.layer.forward is function
    for module, attributes in zip(network.modules(), before, strict=True):
        assert module.__dict__.keys() == attributes.keys()
        assert all(module.__dict__[name] is value for name, value in attributes.items())
    assert torch.equal(network(x), expected)


def test_patching_twice_is_harmless_and_the_context_manager_undoes_its_own(network, x):
    with wxkernels.patch(network) as outer:
        held = filters(network)[0].forward
        with wxkernels.patch(network) as inner:
            assert len(outer.replaced) == len(inner.replaced) == 3
            assert torch.isfinite(network(x)).all()
        assert filters(network)[0].forward is held
    assert not any(is_patched(network))


@torch.no_grad()
def test_copies_and_pickles_bind_to_their_own_parameters(network, x):
    wxkernels.patch(network)
    expected = network(x)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    copies = [
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        torch.load(file, weights_only=False),
    ]
    for other in copies:
        assert all(is_patched(other))
        assert torch.equal(other(x), expected)
        for layer in filters(other):
            assert layer.forward.layer is layer
            layer.w2.mul_(2)
        for module in (other, *other.blocks):
            assert module.forward.layer is module
        assert not torch.equal(other(x), expected)
        assert torch.equal(network(x), expected)
        wxkernels.unpatch(other)
        assert not any(is_patched(other))
    assert all(is_patched(network))


@torch.no_grad()
def test_moved_after_patching(network, x):
    wxkernels.patch(network)
    single = network(x)
    double = network.to(torch.float64)(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)
    assert network.to("meta")(x.double().to("meta")).shape == x.shape


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "stands"), [(torch.float32, False), (torch.bfloat16, True)])
def test_on_other_devices_it_stands_in_where_kernels_run_in_half_precision(
    network, x, dtype, stands, monkeypatch
):
    network, x = network.eval().to("meta", dtype), x.to("meta", dtype)
    levels = [(LEVELS["network"], network), (LEVELS["block"], network.blocks[0])]
    assert not any(stands_in(level, module, x) for level, module in levels)
    monkeypatch.setattr(backends, "has_gpu_kernel", lambda op, device: device.type == "meta")
    assert [stands_in(level, module, x) for level, module in levels] == [stands, stands]
    monkeypatch.setattr(backends, "has_gpu_kernel", lambda op, device: op != "patch_head")
    assert [stands_in(level, module, x) for level, module in levels] == [False, stands]
    compiled = torch.compile(
        lambda x: 2 * x if stands_in(*levels[1], x) else x, fullgraph=True, backend="eager"
    )
    assert compiled(torch.ones(2, dtype=dtype, device="meta")).shape == (2,)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_works_where_the_original_fails(network, x, dtype):
    single = network(x)
    network.to(dtype)
    with pytest.raises(RuntimeError):
        network(x.to(dtype))
    assert wxkernels.patch(network).replaced  # its probe runs in float32
    half = network(x.to(dtype))
    assert half.dtype == dtype
    assert (half.float() - single).abs().max() < 0.03 * single.abs().max()


@torch.no_grad()
def test_autocast(network, x):
    single = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert wxkernels.patch(network).replaced
        low = network(x)
    assert (low.float() - single).abs().max() < 0.03 * single.abs().max()


def test_inference_mode_and_gradients(network, x):
    network(x).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    with torch.inference_mode():
        wxkernels.patch(network)
        network(x)
    network(x).square().mean().backward()
    assert any(name.endswith("filter.w1") for name in expected)
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            network.get_parameter(name).grad, gradient, rtol=0, atol=1e-4 * scale + 1e-9
        )


def test_hooks_fire_once_a_call_and_never_in_the_probe(network, x):
    fired = []
    layer = filters(network)[0]
    layer.register_forward_pre_hook(lambda module, args: fired.append("before"))
    layer.register_forward_hook(lambda module, args, output: fired.append("after"))
    wxkernels.patch(network)
    assert fired == []
    network(x)
    assert fired == ["before", "after"]


def test_the_probe_leaves_random_state_mode_and_weights_alone(network):
    network.train()
    state = torch.get_rng_state()
    weights = copy.deepcopy(network.state_dict())
    wxkernels.patch(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layer", "block", "network"])
def test_compile(host, kind):
    torch.compiler.reset()
    layer = host.network() if kind == "network" else getattr(host, kind)(16, num_blocks=2).eval()
    x = torch.randn(1, 3, 48, 96) if kind == "network" else torch.randn(1, 6, 12, 16)
    graphs = []

    def look(graph, inputs):
        graphs.append(graph.code)
        return graph

    compiled = torch.compile(layer, fullgraph=True, backend=look)
    before = compiled(x)
    wxkernels.patch(layer)
    torch.testing.assert_close(compiled(x), before)  # compiled before it was patched, it notices
    wxkernels.unpatch(layer)
    assert torch.equal(compiled(x), before)
    assert ["wxkernels.spectral_filter" in graph for graph in graphs] == [False, True]


@torch.no_grad()
def test_a_named_backend(network, x, monkeypatch):
    chosen = []
    choose = backends.Op.choose

    def spy(op, *tensors):
        chosen.append((op.name, choose(op, *tensors).__name__.rpartition(".")[2]))
        return choose(op, *tensors)

    monkeypatch.setattr(backends.Op, "choose", spy)
    expected = network(x)
    wxkernels.patch(network, backend="reference")
    del chosen[:]
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    ops = ("patch_embed", "spectral_filter", "mlp", "spectral_filter", "mlp", "patch_head")
    assert chosen == [(op, "reference") for op in ops]


def test_a_backend_that_cannot_run_raises_and_changes_nothing(network, monkeypatch):
    monkeypatch.setattr(_native, "core", None)
    monkeypatch.setattr(_native, "reason", "it was not built")
    with pytest.raises(errors.UserError, match="native cannot run here: it was not built"):
        wxkernels.patch(network, backend="native")
    with pytest.raises(errors.UserError, match="there is no backend 'fast'; choose one of native, "):
        wxkernels.patch(network, backend="fast")
    assert not any(is_patched(network))


def test_an_object_that_holds_a_model(network):
    class Runner:
        model = network

    assert len(wxkernels.patch(Runner()).replaced) == 3
    wxkernels.unpatch(Runner())
    assert not any(is_patched(network))
    with pytest.raises(errors.UserError, match=r"expected a torch\.nn\.Module .* got int"):
        wxkernels.patch(3)
