"""When a call is replayed, when it is captured anew, and when it is just called; on the CPU by a stand-in."""

import logging
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from tests.gpu import needs_gpu, no_waits
from wxkernels import backends, capture, ops  # noqa: F401
from wxkernels.capture import Captured


class Network(nn.Module):
    """A convolution, a normalisation and plain attributes: y = scale * relu(norm(conv(x))) + shift."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.scale = 2.0
        self.shift = torch.tensor(0.5)
        self.eval()

    def forward(self, x):
        return self.scale * self.norm(self.conv(x)).relu() + self.shift


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def captured(network, tapes):
    return Captured(network, lambda: [network])


def fields(seed=0, size=8, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_changing_inputs_take_one_graph(network, captured, tapes):
    for seed in range(5):
        x = fields(seed)
        assert torch.equal(captured(x), network(x))
    assert [tape.replays for tape in tapes] == [1 + 4]  # once in its proof


def test_each_shape_stride_and_dtype_has_a_graph_of_its_own(network, captured, tapes):
    kinds = [
        fields(),
        fields(batch=1),
        fields(size=5),
        fields().contiguous(memory_format=torch.channels_last),
    ]
    for _ in range(3):
        for x in kinds:
            torch.testing.assert_close(captured(x), network(x))
    assert len(tapes) == 4
    assert [tape.after is not None for tape in tapes] == [False, True, True, True]  # one pool of memory
    network.double()
    assert torch.equal(captured(fields().double()), network(fields().double()))
    assert len(tapes) == 5


def test_models_do_not_meet(network, captured, tapes):
    other = Network(seed=1)
    both = Captured(other, lambda: [other])
    for seed in range(3):
        x = fields(seed)
        assert torch.equal(captured(x), network(x))
        assert torch.equal(both(x), other(x))
    assert len(tapes) == 2


def test_results_stay_but_for_those_that_are_lent(network, captured):
    xs = [fields(seed) for seed in range(4)]
    kept = [captured(x) for x in xs]
    assert all(torch.equal(y, network(x)) for x, y in zip(xs, kept, strict=True))
    first = captured.lend(xs[0])
    assert torch.equal(first, network(xs[0]))
    captured.lend(xs[1])
    assert torch.equal(first, network(xs[1]))


def another_forward(network):
    network.norm.forward = lambda x: x - 1


def stored(network):
    network.load_state_dict(Network(seed=5).state_dict())


CHANGES = {
    "a parameter replaced": lambda net: setattr(net.conv, "weight", nn.Parameter(torch.ones(3, 3, 3, 3))),
    "a parameter moved": lambda net: setattr(net.conv.weight, "data", torch.ones(3, 3, 3, 3)),
    "a parameter in place": lambda net: net.conv.weight.mul_(2),
    "a buffer in place": lambda net: net.norm.running_mean.add_(1),
    "a state dict": stored,
    "a number": lambda net: setattr(net, "scale", 3.0),
    "a tensor that is no buffer": lambda net: setattr(net, "shift", torch.tensor(1.5)),
    "its value": lambda net: net.shift.add_(1),
    "a module": lambda net: setattr(net, "norm", nn.Identity()),
    "a forward": another_forward,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_is_captured_anew(network, captured, tapes, change):
    x = fields()
    before = captured(x)
    captured(x)
    change(network)
    assert not torch.equal(network(x), before)
    for _ in range(2):
        assert torch.equal(captured(x), network(x))
    assert len(tapes) == 2


def test_no_other_parameter_comes_to_lie_where_one_was(network, captured):
    captured(fields())
    addresses = {p.data_ptr() for p in network.parameters()}
    for _ in range(20):
        for module in (network.conv, network.norm):
            for name, parameter in list(module._parameters.items()):
                setattr(module, name, nn.Parameter(torch.randn_like(parameter)))
        assert addresses.isdisjoint(p.data_ptr() for p in network.parameters())


def test_settings_have_graphs_of_their_own(network, captured, tapes):
    x = fields()

    def under_autocast():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return captured(x), network(x)

    def inferred():
        with torch.inference_mode():
            return captured(x), network(x)

    def on_reference():
        with backends.use("reference"):
            return captured(x), network(x)

    for _ in range(3):
        for setting in (lambda: (captured(x), network(x)), under_autocast, inferred, on_reference):
            found, expected = setting()
            assert torch.equal(found, expected)
            assert found.dtype == expected.dtype
            assert found.is_inference() == expected.is_inference()
    assert len(tapes) == 4


def test_autocast_leaves_no_weights_behind(network, captured, tapes):
    """Its cache ends with its block: a graph has to make the bfloat16 weights itself."""
    x = fields()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(x)
        captured(x)
    casts = [call for call in tapes[0].calls if call[0] is torch.ops.aten._to_copy.default]
    assert any(call[1][0] is network.conv.weight for call in casts)


def test_errors_are_those_of_the_call(network, captured, tapes):
    with pytest.raises(RuntimeError, match=r"expected input.* to have 3 channels"):
        captured(torch.zeros(2, 4, 8, 8))
    assert not tapes
    assert torch.equal(captured(fields()), network(fields()))
    assert torch.equal(captured(fields(1)), network(fields(1)))
    assert len(tapes) == 1


def test_the_graphs_used_least_are_dropped(network, tapes):
    captured = Captured(network, lambda: [network], limit=2)
    for size in (4, 5, 4, 6, 4, 6, 4, 5):  # 6 takes the place of 5, then 5 that of 6
        x = fields(size=size)
        assert torch.equal(captured(x), network(x))
    assert [tape.inputs[0].shape[-1] for tape in tapes] == [4, 5, 6, 5]


def reads_a_number(network):
    network.forward = lambda x: x * x.sum().item()
    return "not permitted when stream is capturing"


def gives_two(network):
    network.forward = lambda x: (x, x)
    return "returns a tuple"


def has_a_hook(network):
    network.norm.register_forward_hook(lambda module, args, output: output + 1)
    return "has a hook"


def trains(network):
    network.train()
    return "changes its parameters or attributes"


def counts(network):
    def forward(x):
        network.scale += 1
        return x * network.scale

    network.forward = forward
    return "changes its parameters or attributes"


def draws(network):
    network.forward = torch.nn.functional.dropout
    return "gave other numbers"


def test_a_call_that_changes_its_parameters_is_not_repeated(network, captured, tapes):
    network.train()
    for seed in range(5):
        captured(fields(seed))
    assert network.norm.num_batches_tracked == 5
    assert not tapes
    network.eval()
    assert torch.equal(captured(fields()), network(fields()))
    assert torch.equal(captured(fields(1)), network(fields(1)))
    assert len(tapes) == 1


def test_what_the_first_call_prepares_is_no_change(tapes):
    network = nn.Sequential(nn.LazyConv2d(3, 1), Network())
    captured = Captured(network, lambda: [network])
    for seed in range(3):
        x = fields(seed)
        assert torch.equal(captured(x), network(x))
    assert len(tapes) == 1


@pytest.mark.parametrize("make", [reads_a_number, gives_two, has_a_hook, trains, counts, draws])
def test_what_cannot_be_captured_is_called_and_told_once(network, captured, caplog, make):
    reason, calls = make(network), []
    captured.function = lambda x: calls.append(x) or network(x)
    with caplog.at_level(logging.WARNING):
        captured(fields())
        captured(fields(size=5))
        calls.clear()
        xs = [fields(seed) for seed in range(3)]
        for x in xs:
            captured(x)
    assert [id(x) for x in calls] == [id(x) for x in xs]
    assert len(caplog.records) == 1
    assert reason in caplog.text


def test_where_there_is_nothing_to_capture_it_is_called(network, captured, tapes, monkeypatch):
    with torch.enable_grad():
        assert captured(fields()).requires_grad
    assert captured(fields(batch=0)).shape == (0, 3, 8, 8)
    monkeypatch.setattr(capture, "DEVICES", ("cuda",))
    assert torch.equal(captured(fields()), network(fields()))
    assert not tapes


def test_without_memory_all_graphs_go(network, captured, tapes, monkeypatch):
    captured(fields())

    def full(*arguments):
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(capture, "Graph", full)
        with pytest.raises(torch.OutOfMemoryError):
            captured(fields(size=5))
    assert torch.equal(captured(fields()), network(fields()))
    assert len(tapes) == 2


def test_the_cause_of_a_broken_capture_is_found():
    def broken(error):
        try:
            try:
                raise error
            finally:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        except RuntimeError as last:
            return capture._cause(last)

    found = broken(RuntimeError("a copy to the host\nmore"))
    assert type(found) is capture.Uncapturable
    assert str(found) == "a copy to the host"
    assert type(broken(torch.OutOfMemoryError("full"))) is torch.OutOfMemoryError


@needs_gpu
def test_on_a_gpu_a_replay_has_the_bits_of_the_call(caplog):
    """Changing inputs, shapes in turns, and two models."""
    networks = [Network(seed).cuda() for seed in range(2)]
    captured = [Captured(network, lambda network=network: [network]) for network in networks]
    for seed in range(4):
        for batch, size in ((1, 16), (3, 16), (2, 9)):
            x = fields(seed, size, batch).cuda()
            for network, call in zip(networks, captured, strict=True):
                assert torch.equal(call(x), network(x))
    assert not caplog.records


@needs_gpu
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_on_a_gpu_what_changes_is_captured_anew(network, change):
    captured, x = Captured(network.cuda(), lambda: [network]), fields().cuda()
    captured(x)
    before = captured(x)
    change(network)
    network.cuda()
    assert not torch.equal(network(x), before)
    for _ in range(2):
        assert torch.equal(captured(x), network(x))


@needs_gpu
def test_on_a_gpu_what_waits_for_the_device_is_called_as_it_is(network, caplog):
    reads_a_number(network)
    captured, x = Captured(network, lambda: [network]), fields().cuda()
    for _ in range(3):
        assert torch.equal(captured(x), network(x))
    assert len(caplog.records) == 1
    other = Network().cuda()  # a broken capture leaves nothing behind
    call = Captured(other, lambda: [other])
    for _ in range(3):
        assert torch.equal(call(x), other(x))
    assert len(caplog.records) == 1


@needs_gpu
def test_on_a_gpu_a_replay_neither_waits_nor_allocates(network):
    captured, x = Captured(network.cuda(), lambda: [network]), fields().cuda()
    captured.lend(x)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    with no_waits():
        for _ in range(5):
            captured.lend(x)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@needs_gpu
def test_on_a_gpu_streams_take_turns(network):
    captured = Captured(network.cuda(), lambda: [network])
    xs = [fields(seed, 64, 8).cuda() for seed in range(8)]
    expected = [network(x) for x in xs]
    captured(xs[0])
    torch.cuda.synchronize()
    found = []
    for x in xs:
        with torch.cuda.stream(torch.cuda.Stream()):
            found.append(captured(x))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Cuda:
    """As much of torch.cuda as a capture calls; `log` has it in order. `broken`: what a capture ends with."""

    def __init__(self):
        self.log, self.broken, self.streams = [], None, [self.Stream(self, "caller's")]

    class Stream:
        def __init__(self, cuda, name):
            self.cuda, self.name = cuda, name

        def wait_stream(self, other):
            self.cuda.log.append(f"{self.name} waits for {other.name}")

    class CUDAGraph:
        def __init__(self, cuda):
            self.cuda = cuda

        def pool(self):
            return "its pool"

        def replay(self):
            self.cuda.log.append("replay")

    @contextmanager
    def stream(self, stream):
        self.streams.append(stream)
        try:
            yield
        finally:
            self.streams.pop()

    @contextmanager
    def graph(self, graph, stream, capture_error_mode, pool=None):
        assert stream is self.streams[-1]
        self.log.append(f"captures in {pool}")
        try:
            yield
        finally:
            if self.broken is not None:
                raise self.broken

    def put_in(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.Stream(self, "its own"))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self.CUDAGraph(self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.streams[-1])
        for name in ("stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda()
    with monkeypatch.context() as patch:
        made.put_in(patch)
        yield made


def test_a_graph_is_warmed_up_captured_and_replayed_on_the_right_streams(cuda):
    def call(x):
        cuda.log.append(f"call on {cuda.streams[-1].name}")
        return x + 1

    x = torch.ones(2)
    graph = capture.Graph(call, [x])
    calls = ["call on its own"] * capture.WARM_UPS
    whole = ["its own waits for caller's", *calls, "captures in None", "call on its own"]
    assert cuda.log == whole
    cuda.log.clear()
    graph.fill([3 * x])
    graph.replay()
    graph.release()
    assert cuda.log == ["caller's waits for its own", "replay", "its own waits for caller's"]
    assert torch.equal(graph.inputs[0], 3 * x)
    assert torch.equal(x, torch.ones(2))
    cuda.log.clear()
    other = capture.Graph(call, [x], graph)
    assert other.stream is graph.stream
    assert cuda.log == [line.replace("in None", "in its pool") for line in whole]


def test_a_broken_capture_says_what_broke_it(cuda):
    def call(x):
        if cuda.log[-1].startswith("captures"):
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors ...")
        return x

    cuda.broken = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    with pytest.raises(capture.Uncapturable, match=r"^operation not permitted when stream is capturing$"):
        capture.Graph(call, [torch.ones(2)])


def test_an_error_of_the_function_is_its_own(cuda):
    def call(x):
        raise ValueError("x: expected something else")

    with pytest.raises(ValueError, match="x: expected"):
        capture.Graph(call, [torch.ones(2)])
