"""The modules against the same formulas in plain PyTorch, float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wxkernels import backends
from wxkernels.nn import AFNO2D, AFNOBlock, Int8Linear, Mlp, PatchEmbed, PatchHead
from wxkernels.ops.mlp import native
from wxkernels.ops.spectral_filter.reference import spectral_filter


def block(dim=12, hidden=20, num_blocks=3, **options):
    torch.manual_seed(0)
    found = AFNOBlock(
        nn.LayerNorm(dim, eps=1e-6),
        AFNO2D.create(dim, num_blocks, **options),
        nn.LayerNorm(dim, eps=1e-5),
        Mlp(nn.Linear(dim, hidden), nn.Linear(hidden, dim)),
    )
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    return found


def published(block, x):
    """Block.forward of NVlabs/FourCastNet with both skips, of the parts of our module."""
    f = block.filter
    weights = f.w1, f.b1, f.w2, f.b2
    fraction = f.hard_thresholding_fraction
    t = spectral_filter(block.norm1(x), *weights, f.sparsity_threshold, fraction, None, None, 1e-6) + x
    mlp = block.mlp
    return mlp.fc2(F.gelu(mlp.fc1(block.norm2(t)))) + t


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 6, 10)),
        ({"hidden_size_factor": 2}, (1, 5, 7)),
        ({"sparsity_threshold": 0.1, "hard_thresholding_fraction": 0.5}, (3, 8, 3)),
    ],
)
def test_a_block_is_the_published_one(options, shape):
    net, x = block(**options).double(), torch.randn(*shape, 12, dtype=torch.float64)
    torch.testing.assert_close(net(x), published(net, x), rtol=1e-12, atol=1e-12)


def test_a_block_has_the_gradients_of_the_published_one():
    net = block().double()
    x = torch.randn(2, 4, 6, 12, dtype=torch.float64, requires_grad=True)
    found, expected = [], []
    for results, forward in ((found, net), (expected, lambda x: published(net, x))):
        weight = torch.linspace(-1, 1, 12, dtype=torch.float64)
        inputs = [x, *net.parameters()]
        results += torch.autograd.grad((forward(x) * weight).sum(), inputs)
    for name, a, b in zip(("x", *dict(net.named_parameters())), found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)


def test_keys_are_the_published_ones():
    linears = [f"mlp.{fc}.{part}" for fc in ("fc1", "fc2") for part in ("weight", "bias")]
    norms = [f"{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")]
    filters = [f"filter.{part}" for part in ("w1", "b1", "w2", "b2")]
    assert sorted(block().state_dict()) == sorted(linears + norms + filters)


def test_create_starts_from_the_published_values():
    torch.manual_seed(3)
    found = AFNO2D.create(64, 4, hidden_size_factor=2, sparsity_threshold=0.03)
    torch.manual_seed(3)
    for name, shape in (
        ("w1", (2, 4, 16, 32)),
        ("b1", (2, 4, 32)),
        ("w2", (2, 4, 32, 16)),
        ("b2", (2, 4, 16)),
    ):
        assert torch.equal(getattr(found, name), 0.02 * torch.randn(shape)), name
    assert found.sparsity_threshold == 0.03
    assert all(parameter.requires_grad for parameter in found.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coarse_weights_keep_the_dtype_of_the_input(dtype):
    net, x = block(), torch.randn(2, 6, 10, 12)
    with torch.no_grad():
        exact = net(x) - x
        for layer in (net.mlp.fc1, net.mlp.fc2):
            layer.weight.data = layer.weight.data.bfloat16()
        net.filter.w1.data, net.filter.w2.data = net.filter.w1.data.bfloat16(), net.filter.w2.data.bfloat16()
        found = net(x.to(dtype))
    assert found.dtype == dtype
    assert 0 < (found.float() - x - exact).norm() < 0.03 * exact.norm()


def int8(net):
    """`net` with an int8 MLP whose hidden layer reaches from -0.2 to 4."""
    net = copy.deepcopy(net)
    fc1, fc2 = net.mlp.fc1, net.mlp.fc2
    scale = torch.tensor(4.2 / 254)
    net.mlp = Mlp(
        Int8Linear.quantized(fc1.weight, fc1.bias), Int8Linear.quantized(fc2.weight, fc2.bias), scale, -115
    )
    return net


def test_an_int8_mlp():
    net, x = block(), torch.randn(2, 6, 10, 12)
    quantized = int8(net)
    extra = set(quantized.state_dict()) - set(net.state_dict())
    assert extra == {"mlp.hidden_scale", "mlp.fc1.weight_scale", "mlp.fc2.weight_scale"}
    with torch.no_grad():
        exact, found = net(x), quantized(x)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() < 0.05 * (exact - x).norm()


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("make", [block, lambda: int8(block())])
def test_a_sample_is_the_same_in_every_batch(backend, make):
    if backend == "native" and (reason := native.unavailable()):
        pytest.skip(reason)
    net, x = make(), torch.randn(5, 6, 10, 12)
    with torch.inference_mode(), backends.use(backend):
        alone = torch.cat([net(sample.clone()) for sample in x.split(1)])
        assert torch.equal(net(x), alone)
        assert torch.equal(torch.cat([net(part) for part in x.split(2)]), alone)


def test_compiles_as_a_whole():
    net, x = int8(block()), torch.randn(2, 6, 10, 12)
    with torch.no_grad():
        expected = net(x)
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), expected)


def test_int8_linear():
    torch.manual_seed(0)
    linear, x = nn.Linear(33, 17), torch.randn(4, 5, 33)
    found = Int8Linear.quantized(linear.weight, linear.bias)
    assert found.weight.dtype == torch.int8
    assert (found.in_features, found.out_features) == (33, 17)
    stored = found.weight * found.weight_scale[:, None]
    assert ((stored - linear.weight).abs() <= 0.5001 * found.weight_scale[:, None]).all()
    exact = linear(x)
    assert (found(x) - exact).norm() < 0.02 * exact.norm()
    assert found(x.bfloat16()).dtype == torch.bfloat16
    assert not list(found.parameters())
    copied = Int8Linear(*(torch.empty_like(t) for t in found.state_dict().values()))
    copied.load_state_dict(found.state_dict())
    assert torch.equal(copied(x), found(x))
    assert Int8Linear.quantized(linear.weight).bias is None


def test_patch_embed_is_a_convolution_with_positions():
    torch.manual_seed(0)
    embed = PatchEmbed(3, 8, (2, 5)).double()
    x, pos = torch.randn(2, 3, 6, 15, dtype=torch.float64), torch.randn(1, 9, 8, dtype=torch.float64)
    expected = embed.proj(x).permute(0, 2, 3, 1)
    torch.testing.assert_close(embed(x), expected)
    torch.testing.assert_close(embed(x, pos), expected + pos.view(1, 3, 3, 8))
    q, scale = torch.ops.wxkernels.quantize_rows(pos[0])
    stored = (q * scale[:, None]).double().view(1, 3, 3, 8)
    torch.testing.assert_close(embed(x, q[None], scale), expected + stored)


def test_patch_head_puts_channels_last_of_a_patch():
    torch.manual_seed(0)
    head, tokens = PatchHead(6, 4, (2, 3)), torch.randn(2, 5, 7, 6)
    seen = []
    head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    y = head(tokens)
    assert y.shape == (2, 4, 10, 21)
    assert seen[0] is tokens
    rows = F.linear(tokens, head.weight)
    for r in range(2):
        for s in range(3):
            for c in range(4):
                torch.testing.assert_close(y[:, c, r::2, s::3], rows[..., (r * 3 + s) * 4 + c])
