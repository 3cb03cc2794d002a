"""patch(capture=True): calls replayed, on the CPU by a stand-in; what the report says; the way back."""

import copy
import pickle

import pytest
import torch
from torch import nn

import wxkernels
from tests import hosts
from tests.gpu import needs_gpu, no_waits
from wxkernels.patching.forward import CapturedForward


class Wrapper(nn.Module):
    """What people put around a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.register_buffer("std", torch.tensor(3.0))

    def forward(self, x, plus=0.0):
        return self.std * self.network(x / self.std) + plus


def inputs(x, count=3):
    return [x.roll(i, dims=-1) * (1 + i) for i in range(count)]


@pytest.mark.parametrize("precision", ["same", "bf16", "int8"])
@torch.inference_mode()
def test_the_result_is_that_of_the_patch(network, x, tapes, precision):
    options = {"precision": {"*": precision}, "calibration": [x]}
    plain = copy.deepcopy(network)
    wxkernels.patch(plain, **options)
    report = wxkernels.patch(network, capture=True, **options)
    assert [row.name for row in report.replaced] == ["", "blocks.0", "blocks.1"]
    for _ in range(2):
        for y in inputs(x):
            assert torch.equal(network(y), plain(y))
            assert torch.equal(network(y[:1]), plain(y[:1]))
    assert len(tapes) == 2


@torch.inference_mode()
def test_changed_weights_are_converted_and_captured_again(network, x, tapes):
    wxkernels.patch(network, precision="bf16", capture=True)
    before = network(x)
    network(x)
    for parameter in network.blocks[1].parameters():
        parameter.mul_(1.5)
    changed, after = copy.deepcopy(network), network(x)
    wxkernels.unpatch(changed)
    wxkernels.patch(changed, precision="bf16")
    assert torch.equal(after, changed(x))
    assert torch.equal(network(x), changed(x))
    assert not torch.equal(after, before)
    assert len(tapes) == 2


@torch.inference_mode()
def test_unpatch_and_another_patch_take_it_back(network, x, tapes):
    original = network(x)
    wxkernels.patch(network, capture=True)
    ours = network(x)
    with wxkernels.patch(network, precision="bf16"):  # captures nothing
        assert not isinstance(network.__dict__["forward"], CapturedForward)
        network(x)
    assert isinstance(network.__dict__["forward"], CapturedForward)
    assert torch.equal(network(x), ours)
    wxkernels.unpatch(network)
    assert not any("forward" in module.__dict__ for module in network.modules())
    assert torch.equal(network(x), original)


@torch.inference_mode()
def test_a_part_that_is_unpatched_is_noticed(network, x, tapes):
    wxkernels.patch(network, precision="bf16", capture=True)
    before = network(x)
    wxkernels.unpatch(network.blocks)
    plain = copy.deepcopy(network)
    plain.__dict__["forward"] = plain.__dict__["forward"].inner
    for _ in range(2):
        assert torch.equal(network(x), plain(x))
    assert not torch.equal(network(x), before)
    assert len(tapes) == 2


@torch.inference_mode()
def test_a_wrapper_is_captured_whole_but_for_calls_with_more_than_a_tensor(network, x, tapes):
    wrapper, plain = Wrapper(network).eval(), Wrapper(copy.deepcopy(network)).eval()
    wxkernels.patch(wrapper, capture=True)
    wxkernels.patch(plain)
    for y in inputs(x):
        assert torch.equal(wrapper(y), plain(y))
        assert torch.equal(wrapper(y, plus=1.0), plain(y) + 1)
        assert torch.equal(wrapper(y, 2.0), plain(y) + 2)
    assert len(tapes) == 1
    assert tapes[0].replays == 3


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@torch.inference_mode()
def test_copies_and_pickles_have_graphs_of_their_own(network, x, tapes, duplicate):
    wxkernels.patch(network, capture=True)
    ours = network(x)
    other = duplicate(network)
    assert other.__dict__["forward"].layer is other
    for parameter in other.parameters():
        parameter.zero_()
    for _ in range(2):
        assert not torch.equal(other(x), ours)
        assert torch.equal(network(x), ours)
    assert len(tapes) == 2


def test_with_gradients_it_is_the_call_itself(network, x, tapes):
    wxkernels.patch(network, capture=True)
    network(x).sum().backward()
    assert all(p.grad is not None for p in network.blocks.parameters())
    assert not tapes


def test_the_report_tells_what_becomes_of_the_calls(network):
    assert "calls" not in str(wxkernels.patch(network))
    report = wxkernels.patch(network, capture=True)
    line = "calls: not captured on cpu; on a GPU replayed from a CUDA graph for each shape of the input"
    assert str(report).splitlines()[-1] == line
    wxkernels.unpatch(network)
    network.forward = lambda x: x
    report = wxkernels.patch(network, capture=True)
    line = "calls: not captured, its forward was replaced on this very object"
    assert str(report).splitlines()[-1] == line
    assert not isinstance(network.__dict__["forward"], CapturedForward)
    nothing = wxkernels.patch(nn.Linear(2, 2), capture=True)
    assert str(nothing).startswith("no layer that wxkernels knows was found\ncalls: ")


@torch.inference_mode()
def test_the_model_compiles(network, x, tapes):
    wxkernels.patch(network, capture=True)
    expected = network(x)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)


@needs_gpu
@pytest.mark.parametrize("precision", ["same", "bf16", "int8"])
@torch.inference_mode()
def test_on_a_gpu_it_has_the_bits_of_the_launches(x, precision, caplog):
    network = hosts.load("ai-models-fourcastnet").network()
    options = {"precision": {"*": precision}, "calibration": [x.cuda()]}
    plain, on_cpu = copy.deepcopy(network).cuda(), copy.deepcopy(network)
    wxkernels.patch(plain, **options)
    wxkernels.patch(on_cpu, **{**options, "calibration": [x]})
    report = wxkernels.patch(network.cuda(), capture=True, **options)
    assert str(report).splitlines()[-1].startswith("calls: replayed from a CUDA graph")
    for y in inputs(x):
        assert torch.equal(network(y.cuda()), plain(y.cuda()))
        error = (network(y.cuda()).cpu() - on_cpu(y)).abs().max() / on_cpu(y).abs().max()
        assert error < {"same": 1e-4, "bf16": 0.03, "int8": 0.1}[precision]
    assert not caplog.records
    y = x.cuda()
    network(y)
    with no_waits():
        for _ in range(3):
            network(y)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        torch.testing.assert_close(network(y), plain(y), rtol=0, atol=0)
        torch.testing.assert_close(network(y), plain(y), rtol=0, atol=0)
    wxkernels.unpatch(network)
    wxkernels.unpatch(plain)
    assert torch.equal(network(y), plain(y))
