"""The AFNO network of the hosts, around its blocks: what it needs to be, what it computes, and the proof."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wxkernels import ops
from wxkernels.nn import Int8Linear
from wxkernels.patching import blocks, hosts
from wxkernels.patching.probe import Draw
from wxkernels.quantization import LayerScheme

KIND = "network"
OPS = "patch_embed, patch_head"
LAYERS = ("patch_embed", "pos_embed", "head")

#: Methods that the published forward calls.
_METHODS = ("forward_features", "_forward_features")
#: Where a network and its patch embedding keep the size of the grid.
_SIZES = ("img_size", "inp_shape")


def is_candidate(network: nn.Module) -> bool:
    """Whether a person would take `network` for FourCastNet: AFNO blocks between an embedding and a head."""
    children = dict(network.named_children())
    if not {"patch_embed", "blocks", "head"} <= children.keys() or not hasattr(network, "pos_embed"):
        return False
    return any(blocks.is_candidate(block) for block in children["blocks"].children())


def unfit(network: Any) -> str | None:
    """Why the parts of `network`, a host's class, are not those of the published network."""
    for name in _METHODS:
        if name in network.__dict__:
            return f"its {name} was replaced on this very object"
    p, q = network.patch_size
    H, W = _size(network)
    h, w = H // p, W // q
    if (h * p, w * q) != (H, W):
        return f"its grid of {H} x {W} points is not whole patches of {p} x {q}"
    if reason := hosts.unknown(network.patch_embed, "patch_embed"):
        return f"patch_embed: {reason}"
    if reason := _not_patch_convolution(network.patch_embed.proj, (p, q)):
        return reason
    D = network.patch_embed.proj.out_channels
    if type(network.head) is not nn.Linear:
        return f"head is a {type(network.head).__name__}, not a Linear"
    rows = network.head.weight.shape[0]
    if rows % (p * q):
        return f"head has {rows} rows, expected a multiple of {p} * {q}"
    if type(network.pos_drop) is not nn.Dropout:
        return f"pos_drop is a {type(network.pos_drop).__name__}, not a Dropout"
    return hosts.not_plain("pos_embed", network.pos_embed, (1, h * w, D)) or hosts.not_linear(
        "head", network.head, (rows, D)
    )


def _size(network: Any) -> tuple[int, int]:
    H, W = next(getattr(network, name) for name in _SIZES if hasattr(network, name))
    return H, W


def _not_patch_convolution(proj: Any, patch_size: tuple[int, int]) -> str | None:
    if type(proj) is not nn.Conv2d:
        return f"patch_embed.proj is a {type(proj).__name__}, not a Conv2d"
    if proj.kernel_size != patch_size or proj.stride != patch_size:
        return f"patch_embed.proj has kernel {proj.kernel_size}, stride {proj.stride}, not both {patch_size}"
    if (proj.padding, proj.dilation, proj.groups) != ((0, 0), (1, 1), 1):
        return "patch_embed.proj has padding, dilation or groups"
    D, C = proj.out_channels, proj.in_channels
    return hosts.not_plain("patch_embed.proj.weight", proj.weight, (D, C, *patch_size)) or (
        None if proj.bias is None else hosts.not_plain("patch_embed.proj.bias", proj.bias, (D,))
    )


def absorbed(network: Any) -> list[nn.Module]:
    """Submodules whose own forward is not called; blocks are called."""
    return [network.patch_embed, network.patch_embed.proj, network.pos_drop, network.head]


def run(network: Any, x: Tensor, weights: Any) -> Tensor:
    """x (B, C, H, W) -> (B, C_out, H, W), in the dtype of x, or that of autocast to bfloat16.

    weights: the network itself, or a copy of its embedding, positions and head in another precision.
    """
    proj, head = weights.patch_embed.proj, weights.head
    stream = torch.promote_types(x.dtype, network.pos_embed.dtype)  # as the original under autocast
    tokens = ops.patch_embed(
        x.to(stream),
        blocks.autocast(proj.weight, x),
        proj.bias,
        weights.pos_embed,
        pos_scale=getattr(weights, "pos_scale", None),
    )
    for block in network.blocks:
        tokens = block(tokens)
    p, q = network.patch_size
    weight = blocks.autocast(head.weight, x)
    y = ops.patch_head(tokens, weight, (p, q), head.bias)
    return y if weight is head.weight else y.to(weight.dtype)


def takes(network: Any, x: Tensor) -> bool:
    """Whether `run` has an answer for x; otherwise the original gives its own error."""
    return x.dim() == 4 and tuple(x.shape[1:]) == (network.patch_embed.proj.in_channels, *_size(network))


class Copy(nn.Module):
    """Embedding, positions and head of a network in other precisions."""

    pos_embed: Tensor
    pos_scale: Tensor | None

    def __init__(self, network: Any, schemes: Mapping[str, LayerScheme]):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = _Weights(network.patch_embed.proj, schemes["patch_embed"].precision)
        self.head = _Weights(network.head, schemes["head"].precision)
        pos_embed, scale = network.pos_embed.detach(), None
        if schemes["pos_embed"].precision == "int8":
            rows = Int8Linear.quantized(pos_embed[0])
            pos_embed, scale = rows.weight[None], rows.weight_scale
        self.register_buffer("pos_embed", _in(schemes["pos_embed"].precision, pos_embed))
        self.register_buffer("pos_scale", scale)


class _Weights(nn.Module):
    def __init__(self, layer: Any, precision: str):
        super().__init__()
        self.register_buffer("weight", _in(precision, layer.weight.detach()))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())


def _in(precision: str, weight: Tensor) -> Tensor:
    return weight.to(torch.bfloat16) if precision == "bf16" else weight


def convert(network: Any, schemes: Mapping[str, LayerScheme]) -> nn.Module:
    """The weights around the blocks in the precisions of schemes["patch_embed"], ["pos_embed"], ["head"]."""
    return Copy(network, schemes)


def parameters(network: Any) -> list[Tensor]:
    """What `convert` reads."""
    return [*network.patch_embed.parameters(), network.pos_embed, *network.head.parameters()]


def signature(network: Any) -> tuple[Any, ...]:
    """What a probe of a recognised network depends on: two networks of one signature share its result."""
    proj, head = network.patch_embed.proj, network.head
    weights = ((layer.weight.shape, layer.bias is None) for layer in (proj, head))
    return (type(network), hosts.device_of(proj.weight), *weights)


def stand_in(network: Any, draw: Draw) -> Any:
    """A network of the same classes with weights of its own, 2 x 3 patches, and marks in place of blocks."""
    p, q = network.patch_size
    D = network.patch_embed.proj.out_channels
    copy = draw.stand_in(network, blocks=nn.ModuleList([_Mark(1), _Mark(2)]), pos_embed=draw((1, 6, D)))
    copy.h, copy.w = 2, 3
    copy.patch_embed.num_patches = 6
    for part in (copy, copy.patch_embed):
        for name in _SIZES:
            if hasattr(part, name):
                setattr(part, name, type(getattr(part, name))([2 * p, 3 * q]))
    return copy


class _Mark(nn.Module):
    """In the place of a block: its order, and the layout of its input, show in the result."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(self.number, dims=2).relu() - 0.5 * self.number * x.roll(1, dims=1)


def cases(network: Any, draw: Draw) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(x, exact result in float64, what of it the errors do not count against) for a stand-in."""
    proj, head = network.patch_embed.proj, network.head
    (H, W), (p, q) = _size(network), network.patch_size
    x = draw((2, proj.in_channels, H, W))
    bias = None if proj.bias is None else proj.bias.double()
    tokens = F.conv2d(x.double(), proj.weight.double(), bias, stride=(p, q)).permute(0, 2, 3, 1)
    tokens = tokens + network.pos_embed.double().view(1, H // p, W // q, -1)
    for block in network.blocks:
        tokens = block(tokens)
    y = F.linear(tokens, head.weight.double(), None if head.bias is None else head.bias.double())
    y = y.unflatten(3, (p, q, -1)).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    yield x, y, torch.zeros_like(y)


def trial(network: Any, x: Tensor, precisions: Mapping[str, str]) -> dict[str, LayerScheme]:
    """The schemes that a probe with input x holds a stand-in to."""
    return {name: LayerScheme(precision) for name, precision in precisions.items()}
