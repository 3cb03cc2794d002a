import copy

import pytest
import torch
import torch.nn.functional as F

from tests.models.networks import small
from wxkernels.models import AFNONet
from wxkernels.nn import Int8Linear
from wxkernels.ops import quantize_rows
from wxkernels.quantization import LayerScheme, Scheme, apply, convert_block, layer_names
from wxkernels.quantization.conversion import convert_mlp
from wxkernels.quantization.measurement import nbytes
from wxkernels.quantization.scheme import asked


def everything(network, precision, **layers):
    """All layers in `precision`, without calibration."""
    found = {
        name: LayerScheme(asked(name, precision), hidden_scale=0.02 if precision in ("int8", "fp8") else None)
        for name in layer_names(network)
    }
    return Scheme(precision, found | layers)


def test_layer_names_in_the_order_of_the_forward_pass():
    blocks = [f"blocks.{i}.{part}" for i in range(2) for part in ("filter", "mlp")]
    assert layer_names(small()) == ["patch_embed", "pos_embed", *blocks, "head"]
    wrapped = torch.nn.ModuleDict({"inner": small(depth=1)})
    assert layer_names(wrapped)[:3] == ["inner.patch_embed", "inner.pos_embed", "inner.blocks.0.filter"]


def test_fp32_changes_nothing():
    net, x = small(), torch.randn(2, 3, 16, 32)
    converted = copy.deepcopy(net)
    apply(converted, everything(net, "fp32"))
    with torch.no_grad():
        assert torch.equal(converted(x), net(x))
    assert {k: v.dtype for k, v in converted.state_dict().items()} == {
        k: v.dtype for k, v in net.state_dict().items()
    }


@pytest.mark.parametrize("precision", ["bf16", "int8", "fp8"])
def test_dtypes_of_a_converted_network(precision):
    net = small()
    before = copy.deepcopy(net.state_dict())
    apply(net, everything(net, precision))
    matrices = {
        "bf16": dict.fromkeys(
            ("fc1.weight", "fc2.weight", "w1", "w2", "proj.weight", "pos_embed", "head.weight")
        ),
    }.get(precision, dict.fromkeys(("w1", "w2", "proj.weight", "head.weight")))
    byte = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}.get(precision)
    for key, tensor in net.state_dict().items():
        if any(key.endswith(name) for name in matrices):
            assert tensor.dtype == torch.bfloat16, key
            assert torch.equal(tensor, before[key].bfloat16()), key
        elif byte and key.endswith(("fc1.weight", "fc2.weight")):
            q, scale = quantize_rows(before[key], byte)
            assert tensor.dtype == byte
            assert torch.equal(tensor.float(), q.float()), key
            assert torch.equal(net.state_dict()[f"{key}_scale"], scale), key
        elif key == "pos_embed":
            q, scale = quantize_rows(before[key][0])
            assert torch.equal(tensor, q[None])
            assert torch.equal(net.pos_scale, scale)
        else:
            assert tensor.dtype == torch.float32, key
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert net.scheme.precision == precision
    x = torch.randn(2, 3, 16, 32)
    assert net(x).dtype == torch.float32
    again = copy.deepcopy(net)
    assert torch.equal(again(x), net(x))


def test_shift_and_scale_cancel():
    """With powers of two and weights of few bits nothing is rounded: folded, it is the same function."""
    net = small()
    block = net.blocks[0]
    with torch.no_grad():
        for parameter in block.mlp.parameters():
            parameter.copy_((8 * parameter).round() / 8)
        block.norm2.weight.fill_(1.0)
        block.norm2.bias.copy_((8 * block.norm2.bias).round() / 8)
    scale = 2.0 ** torch.randint(-3, 4, (24,))
    shift = torch.randint(-8, 8, (24,)) / 4
    norm, mlp = convert_mlp(block.norm2, block.mlp, LayerScheme("bf16", shift=shift, scale=scale))
    n = torch.randn(7, 24)
    n = block.norm2(n)
    folded = (n - shift) / scale
    torch.testing.assert_close(norm(torch.zeros(24)), (block.norm2.bias - shift) / scale)
    torch.testing.assert_close(norm.weight, block.norm2.weight / scale)
    fc1 = F.linear(folded, mlp.fc1.weight.float(), mlp.fc1.bias)
    torch.testing.assert_close(fc1, block.mlp.fc1(n), rtol=1e-5, atol=1e-5)


def test_a_constant_channel_costs_nothing_once_it_is_shifted():
    """A channel 100 times the others, always the same: int8 rows would have no steps left for the others."""
    net = small()
    block, x = net.blocks[0], torch.randn(500, 24)
    with torch.no_grad():
        block.norm2.weight[5], block.norm2.bias[5] = 0.0, 100.0
        block.mlp.fc1.weight[:, 5] *= 0.01  # what it adds is as large as what the others add
        exact = block.mlp(x, block.norm2) - x
        n = block.norm2(x)
    scale, hidden_scale = torch.ones(24), (F.gelu(block.mlp.fc1(n)).abs().max() / 127).item()
    errors = []
    for shift in (torch.zeros(24), n.mean(0)):
        layer = LayerScheme("int8", hidden_scale=hidden_scale, shift=shift.detach(), scale=scale)
        norm, mlp = convert_mlp(block.norm2, block.mlp, layer)
        with torch.no_grad():
            errors.append(((mlp(x, norm) - x - exact).norm() / exact.norm()).item())
    assert errors[1] < 0.3 * errors[0]


def test_other_blocks_are_converted_and_left_alone():
    net, x = small(), torch.randn(2, 4, 8, 24)
    block = net.blocks[1]
    before = copy.deepcopy(block.state_dict())
    converted = convert_block(block, "blocks.1", everything(net, "int8"))
    assert isinstance(converted.mlp.fc1, Int8Linear)
    assert converted.filter.w1.dtype == torch.bfloat16
    assert converted.norm1 is block.norm1
    with torch.no_grad():
        assert (converted(x) - block(x)).norm() < 0.1 * (block(x) - x).norm()
    assert all(torch.equal(block.state_dict()[key], value) for key, value in before.items())
    with pytest.raises(ValueError, match=r"scheme: expected a layer blocks\.7\.filter"):
        convert_block(block, "blocks.7", everything(net, "int8"))


def test_linear_layers_and_norms_without_bias():
    net = small(depth=1)
    block, x = net.blocks[0], torch.randn(40, 24)
    block.mlp.fc1.bias = block.mlp.fc2.bias = block.norm2.bias = None
    exact = block.mlp(x, block.norm2)
    layer = LayerScheme("int8", 0.5, 0.01, shift=torch.full((24,), 0.1), scale=torch.full((24,), 2.0))
    norm, mlp = convert_mlp(block.norm2, block.mlp, layer)
    assert (mlp(x, norm) - exact).norm() < 0.1 * (exact - x).norm()


def test_what_cannot_be_converted_is_named():
    net = small()
    scheme = everything(net, "int8")
    smoothed = everything(net, "int8", **{"blocks.0.mlp": LayerScheme("int8", 0.5, 0.02)})
    with pytest.raises(ValueError, match="scheme: it comes from a file"):
        apply(copy.deepcopy(net), smoothed)
    with pytest.raises(ValueError, match="expected a hidden_scale for an int8 MLP"):
        apply(copy.deepcopy(net), everything(net, "fp32", **{"blocks.0.mlp": LayerScheme("int8")}))
    with pytest.raises(ValueError, match=r"expected float32, got torch\.float64 for pos_embed"):
        apply(copy.deepcopy(net).double(), scheme)
    with pytest.raises(ValueError, match=r"expected the layers of the network, differs in blocks\.1\.filter"):
        apply(small(depth=1), scheme)
    broken = copy.deepcopy(net)
    broken.blocks[1].mlp.fc2.weight.data[3, 4] = torch.nan
    with pytest.raises(
        ValueError, match=r"expected finite weights, got others in blocks\.1\.mlp\.fc2\.weight"
    ):
        apply(broken, scheme)
    apply(net, scheme)
    with pytest.raises(ValueError, match="network: it is in int8 already"):
        apply(net, scheme)


def test_fourcastnet_in_int8_is_less_than_a_third():
    """All sizes are known without the numbers: 74.7 million of them."""
    with torch.device("meta"):
        net = AFNONet()
        before = nbytes(net)
        apply(net, everything(net, "int8"))
    assert before == 4 * 74_690_304
    assert nbytes(net) <= 0.31 * before
