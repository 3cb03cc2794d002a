"""Properties of the search: what it promises, what it leaves alone, what it survives."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import hosts
from tests.models.networks import small
from wxkernels import backends
from wxkernels.models import AFNONet
from wxkernels.ops.mlp import native
from wxkernels.quantization import apply, calibrate, layer_names
from wxkernels.quantization.measurement import nbytes


def states(count=3, channels=3, seed=0):
    torch.manual_seed(seed)
    return list(torch.randn(count, 1, channels, 16, 32))


def converted(net, scheme):
    net = copy.deepcopy(net)
    apply(net, scheme)
    return net


def rms(tensors):
    return torch.cat([t.flatten() for t in tensors]).double().square().mean().sqrt().item()


@torch.no_grad()
def measured(net, scheme, xs):
    """The network's error, run anew: of each variable the sum of 20 errors, any two as from two states."""
    quantized, xs = converted(net, scheme), xs if len(xs) > 1 else [*xs, net(xs[0])]
    d = torch.cat([quantized(x) - net(x) for x in xs]).double()
    change = torch.cat([net(x) - x for x in xs]).double().square().mean((0, 2, 3))
    squares = d.square().mean((0, 2, 3))
    pairs = [(d[i] * d[j]).mean((1, 2)) for i in range(len(d)) for j in range(len(d)) if i != j]
    common = torch.stack(pairs).mean(0).clamp(min=0)
    return ((squares + 19 * common) / change).max().sqrt().item()


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_the_error_is_that_of_the_converted_network(precision):
    net, xs = small(), states()
    scheme = calibrate(net, xs, precision=precision, budget=1.0)
    assert not scheme.kept
    assert 0 < scheme.error < 0.2
    assert scheme.error == pytest.approx(measured(net, scheme, xs), rel=0.05)
    assert measured(net, scheme, states(seed=5)) == pytest.approx(scheme.error, rel=0.5)


@torch.no_grad()
def test_of_one_state_the_next_is_taken_too():
    net, (x,) = small(), states(1)
    alone = calibrate(net, [x], precision="int8", budget=1.0)
    both = calibrate(net, [x, net(x)], precision="int8", budget=1.0)
    together = calibrate(net, [torch.cat([x, net(x)])], precision="int8", budget=1.0)
    assert alone == both == together


def test_the_worst_variable_counts():
    """One variable changes a tenth as much as before: what rounding adds to it counts ten times."""
    net, xs = small(), states()
    free = calibrate(net, xs, precision="bf16", budget=1.0)
    with torch.no_grad():
        for x in xs:
            x[:, 1] = net(x)[:, 1] + 0.1 * torch.randn(16, 32)  # of a network that hardly looks at it
            net.patch_embed.proj.weight[:, 1] = 0
    assert calibrate(net, xs, precision="bf16", budget=1.0).error > 3 * free.error


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.01])
def test_the_budget_is_kept(share):
    net, xs = small(depth=3), states()
    free = calibrate(net, xs, precision="int8", budget=10.0)
    scheme = calibrate(net, xs, precision="int8", budget=share * free.error)
    assert scheme.kept
    assert scheme.error <= scheme.budget
    assert measured(net, scheme, xs) <= 1.05 * scheme.budget
    assert free.size_after < scheme.size_after


def test_no_budget_at_all_gives_the_network_back():
    net, xs = small(), states()
    scheme = calibrate(net, xs, precision="int8", budget=1e-12)
    assert {layer.precision for layer in scheme.layers.values()} == {"fp32"}
    assert scheme.error == 0
    with torch.no_grad():
        assert torch.equal(converted(net, scheme)(xs[0]), net(xs[0]))


def test_the_worst_layer_moves_first():
    """One MLP adds a hundred times what the others add, and so does its error."""
    net, xs = small(depth=3), states()
    with torch.no_grad():
        for i, block in enumerate(net.blocks):
            block.mlp.fc2.weight.mul_(10.0 if i == 1 else 0.1)
    free = calibrate(net, xs, precision="int8", budget=10.0)
    errors = {name: layer.error for name, layer in free.layers.items() if name.endswith("mlp")}
    assert max(errors, key=errors.get) == "blocks.1.mlp"
    scheme = calibrate(net, xs, precision="int8", budget=0.95 * free.error)
    assert list(scheme.kept) == ["blocks.1.mlp"]


def test_what_is_too_coarse_in_fp8_is_int8():
    net, xs = small(depth=3), states()
    mlps = [name for name in layer_names(net) if name.endswith("mlp")]
    int8 = calibrate(net, xs, precision="int8", budget=10.0)
    scheme = calibrate(net, xs, precision="fp8", budget=1.2 * int8.error)
    assert "int8" in {scheme.layers[name].precision for name in mlps} <= {"fp8", "int8"}
    assert scheme.error <= scheme.budget


def test_overrides_come_first_and_stay():
    net, xs = small(), states()
    overrides = {"blocks.0.mlp": "fp32", "blocks.*": "int8", "head": "fp32"}
    scheme = calibrate(net, xs, precision="bf16", overrides=overrides, budget=1e-9)
    found = {name: layer.precision for name, layer in scheme.layers.items()}
    assert found == {
        "patch_embed": "fp32",  # these two were free to move
        "pos_embed": "fp32",
        "blocks.0.filter": "bf16",  # there is no int8 filter
        "blocks.0.mlp": "fp32",
        "blocks.1.filter": "bf16",
        "blocks.1.mlp": "int8",
        "head": "fp32",
    }
    assert scheme.error > scheme.budget  # and it says so


def test_the_network_is_left_as_it_is():
    net, xs = small(), states()
    before, result = copy.deepcopy(net.state_dict()), net(xs[0])
    dicts = {name: set(module.__dict__) for name, module in net.named_modules()}
    net.blocks[0].__dict__["forward"] = forward = net.blocks[0].forward  # as patching leaves it
    calibrate(net, xs, precision="int8", budget=1e-6)
    assert net.blocks[0].__dict__.pop("forward") is forward
    assert torch.equal(net(xs[0]), result)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert {name: set(module.__dict__) for name, module in net.named_modules()} == dicts
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_failing_network_is_left_as_it_is():
    net, calls = small(), []

    def fail(module, args):
        calls.append(module)
        if len(calls) == 4:  # the second of a conversion on trial
            raise RuntimeError("out of memory")

    handle = net.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        calibrate(net, states(2), precision="int8")
    handle.remove()
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in net.modules())


def test_deterministic():
    net, xs = small(), states()
    a, b = (calibrate(net, xs, precision="int8", budget=0.03) for _ in range(2))
    assert a == b
    assert a.digest() == b.digest()


def test_sizes_are_those_of_the_converted_network():
    net, xs = small(), states(1)
    for precision, saved in (("bf16", 0.45), ("int8", 0.6)):
        scheme = calibrate(net, xs, precision=precision, budget=10.0)
        assert scheme.size_before == nbytes(net)
        assert scheme.size_after == pytest.approx(nbytes(converted(net, scheme)), abs=16)  # hidden scales
        assert scheme.saved > saved


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_member_is_the_same_in_every_batch(backend, precision):
    if backend == "native" and (reason := native.unavailable()):
        pytest.skip(reason)
    net, x = small(), torch.randn(5, 3, 16, 32)
    quantized = converted(net, calibrate(net, states(), precision=precision, budget=1.0))
    with torch.inference_mode(), backends.use(backend):
        alone = torch.cat([quantized(member.clone()) for member in x.split(1)])
        for batch in (2, 3, 5):
            assert torch.equal(torch.cat([quantized(part) for part in x.split(batch)]), alone)


def spoil_rows(net):
    net.blocks[0].mlp.fc1.weight[3] = 0
    net.blocks[0].mlp.fc2.weight[:5] = 0
    net.pos_embed[0, 4] = 0
    net.pos_embed[0, 5] = 1e4


def spoil_columns(net):
    net.blocks[0].mlp.fc1.weight[:, 2] = 0
    net.blocks[1].mlp.fc2.weight[:, 7] = 0


def outliers(net):
    net.blocks[0].norm2.weight[3] = 300.0
    net.blocks[1].norm2.bias[4] = -500.0
    net.blocks[1].mlp.fc1.weight[2, 2] = 50.0


def constant_channels(net):
    net.blocks[0].norm2.weight[:4] = 0
    net.blocks[0].norm2.bias[:2] = 0
    net.blocks[1].norm2.weight.zero_()


def no_mlp(net):
    for block in net.blocks:
        for parameter in block.mlp.parameters():
            parameter.zero_()


def nothing(net):
    for parameter in net.parameters():
        parameter.zero_()


@pytest.mark.parametrize("spoil", [spoil_rows, spoil_columns, outliers, constant_channels, no_mlp, nothing])
@pytest.mark.parametrize("inputs", ["random", "zeros", "one huge value", "constant"])
def test_odd_weights_and_states_do_not_break_it(spoil, inputs):
    net, xs = small(), states(2)
    with torch.no_grad():
        spoil(net)
    if inputs == "zeros":
        xs = [torch.zeros_like(x) for x in xs]
    elif inputs == "constant":
        xs = [torch.ones_like(x) for x in xs]
    elif inputs == "one huge value":
        xs[0][0, 1, 3, 4] = 1e5
    scheme = calibrate(net, xs, precision="int8", budget=0.05)
    assert scheme.error <= 0.05
    quantized, fresh = converted(net, scheme), states(2, seed=9)
    with torch.no_grad():
        for x in (*xs, *fresh):
            assert quantized(x).isfinite().all()
        differences = [quantized(x) - net(x) for x in xs]
    assert rms(differences) <= 0.06 * max(rms([net(x).detach() - x for x in xs]), 1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-4, 1.0, 1e3]), spread=st.sampled_from([0.0, 2.0]))
def test_any_weights_are_quantised_within_the_budget(seed, scale, spread):
    """LayerNorms and MLPs of widely different channels, results of any size."""
    torch.manual_seed(seed)
    net, xs = small(depth=1), states(1, seed=seed)
    with torch.no_grad():
        block = net.blocks[0]
        block.norm2.weight.copy_(torch.randn(24) * torch.exp(spread * torch.randn(24)))
        block.mlp.fc1.weight.mul_(torch.exp(spread * torch.randn(24)))
        net.head.weight.mul_(scale)
    scheme = calibrate(net, xs, precision="int8", budget=0.02)
    assert scheme.error <= 0.02
    assert measured(net, scheme, xs) <= 0.025


def test_bad_arguments_are_named():
    net, xs = small(), states(1)
    for change, message in [
        ({"precision": "int4"}, "precision: expected one of fp32, bf16, int8, fp8, got 'int4'"),
        ({"overrides": {"head": "half"}}, r"overrides\['head'\]: expected one of .*, got 'half'"),
        ({"overrides": {"blocks.7.*": "bf16"}}, r"overrides: 'blocks\.7\.\*' fits none of the layers patch_"),
        ({"states": []}, "states: expected at least one to calibrate int8 on, got none"),
        ({"states": [torch.full((1, 3, 16, 32), torch.nan)]}, "states: expected finite numbers"),
        ({"budget": 0.0}, "budget: expected a finite number above 0, got 0.0"),
        ({"budget": float("nan")}, "budget: expected a finite number above 0, got nan"),
        ({"budget": float("inf")}, "budget: expected a finite number above 0, got inf"),
        ({"states": [xs[0][0]]}, r"states: expected finite numbers .*, got torch.float32 \(3, 16, 32\)"),
        ({"network": torch.nn.Linear(3, 3)}, "network: expected AFNO blocks, found none in Linear"),
    ]:
        arguments = {"network": net, "states": xs, "precision": "int8"} | change
        with pytest.raises(ValueError, match=message):
            calibrate(**arguments)
    with torch.no_grad():
        net.head.weight[0] = torch.inf
    with pytest.raises(ValueError, match="network: expected finite results"):
        calibrate(net, xs, precision="int8")


def test_bf16_needs_no_states():
    net, xs = small(), states(1)
    scheme = calibrate(net, [], precision="bf16")
    assert scheme.error is None
    assert not scheme.kept
    with torch.no_grad():
        assert rms([converted(net, scheme)(xs[0]) - net(xs[0])]) < 0.02 * rms([net(xs[0]) - xs[0]])


def test_static_inputs_and_other_outputs():
    """Of a 4 -> 3 network three channels go on in the result; of a 3 -> 1 network none."""
    net, xs = small(in_chans=4), states(2, channels=4)
    whole = calibrate(net, xs, precision="bf16", budget=1.0)
    change = calibrate(net, xs, precision="bf16", budget=1.0, persistent=3)
    with torch.no_grad():
        ys = [net(x) for x in xs]
        d = torch.cat([converted(net, whole)(x) - y for x, y in zip(xs, ys, strict=True)])

    def relative(to):
        return (d.square().mean((0, 2, 3)) / torch.cat(to).square().mean((0, 2, 3))).max().sqrt().item()

    assert whole.error == pytest.approx(relative(ys), rel=0.05)
    assert change.error >= 0.95 * relative([y - x[:, :3] for x, y in zip(xs, ys, strict=True)])
    one = calibrate(small(out_chans=1), states(), precision="bf16", budget=1.0)
    assert 0 < one.error < 0.05


@pytest.mark.parametrize("name", hosts.NAMES)
def test_networks_of_other_packages_get_the_scheme_of_ours(name):
    theirs = hosts.load(name).network()
    ours = AFNONet.from_state_dict(
        {k: v for k, v in theirs.state_dict().items() if k != "device_buffer"}, img_size=(48, 96)
    )
    xs = list(torch.randn(2, 1, 3, 48, 96, generator=torch.Generator().manual_seed(0)))
    for precision in ("bf16", "int8"):
        found, expected = (calibrate(net, xs, precision=precision, budget=1.0) for net in (theirs, ours))
        assert list(found.layers) == layer_names(ours)
        assert found.error == pytest.approx(expected.error, rel=1e-2)
        for layer in found.layers:
            assert found.layers[layer].error == pytest.approx(expected.layers[layer].error, rel=1e-2), layer
