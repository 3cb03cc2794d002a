"""The AFNO block of the hosts: what it needs to be, what it computes, and how that is proven."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wxkernels import ops
from wxkernels.patching import filters, hosts
from wxkernels.patching.probe import Draw
from wxkernels.quantization import LayerScheme, Scheme, convert_block
from wxkernels.quantization.scheme import hidden_code, hidden_scale_fp8

KIND = "block"
OPS = "spectral_filter, mlp"
LAYERS = ("filter", "mlp")


def is_candidate(block: nn.Module) -> bool:
    """Whether a person would take `block` for an AFNO block: an AFNO filter between two norms and an MLP."""
    children = dict(block.named_children())
    return {"norm1", "norm2", "mlp"} <= children.keys() and filters.is_candidate(
        children.get("filter", nn.Identity())
    )


def unfit(block: Any) -> str | None:
    """Why the parts of `block`, a host's class, are not those of the published block with both skips."""
    if block.double_skip is not True:
        return f"double_skip is {block.double_skip}: it has one skip"
    reason = hosts.unknown(block.filter, filters.KIND) or filters.unfit(block.filter)
    if reason:
        return f"its filter is left alone: {reason}"
    C = block.filter.num_blocks * block.filter.block_size
    for name in ("norm1", "norm2"):
        if reason := _not_layer_norm(name, getattr(block, name), C):
            return reason
    return _not_published_mlp(block.mlp, C) or _not_inert("drop_path", getattr(block, "drop_path", None))


def _not_layer_norm(name: str, norm: Any, C: int) -> str | None:
    if type(norm) is not nn.LayerNorm:
        return f"{name} is a {type(norm).__name__}, not a LayerNorm"
    return hosts.not_plain(f"{name}.weight", norm.weight, (C,)) or (
        None if norm.bias is None else hosts.not_plain(f"{name}.bias", norm.bias, (C,))
    )


def _not_published_mlp(mlp: Any, C: int) -> str | None:
    if reason := hosts.unknown(mlp, "mlp"):
        return f"mlp: {reason}"
    if type(mlp.act) is not nn.GELU or mlp.act.approximate != "none":
        return f"mlp.act is {mlp.act}, not the exact GELU"
    if type(mlp.fc1) is not nn.Linear:
        return f"mlp.fc1 is a {type(mlp.fc1).__name__}, not a Linear"
    D = mlp.fc1.weight.shape[0]
    return (
        hosts.not_linear("mlp.fc1", mlp.fc1, (D, C))
        or hosts.not_linear("mlp.fc2", mlp.fc2, (C, D))
        or _not_inert("mlp.drop", mlp.drop)
    )


def _not_inert(name: str, layer: Any) -> str | None:
    """Why `layer` may change its input in evaluation."""
    if layer is None or type(layer) in (nn.Identity, nn.Dropout):
        return None
    if type(layer).__name__ == "DropPath" and type(layer).__module__.partition(".")[0] == "timm":
        return None
    return f"{name} is a {type(layer).__name__}, not a Dropout or DropPath"


def absorbed(block: Any) -> list[nn.Module]:
    """Submodules whose own forward is not called."""
    mlp = block.mlp
    parts = [block.norm1, block.filter, block.norm2, mlp, mlp.fc1, mlp.act, mlp.drop, mlp.fc2]
    return [*parts, block.drop_path] if hasattr(block, "drop_path") else parts


def run(block: Any, x: Tensor, weights: Any) -> Tensor:
    """t = filter(norm1(x)) + x; y = mlp(norm2(t)) + t: x (B, H, W, C) -> the same shape and dtype.

    weights: the block itself, or its copy in another precision. Autocast to bfloat16 rounds what the MLP
    multiplies, as in the original.
    """
    t = filters.run(block.filter, x, weights.filter, weights.norm1)
    norm, mlp = weights.norm2, weights.mlp
    return ops.mlp(
        t,
        norm.weight,
        norm.bias,
        autocast(mlp.fc1.weight, x),
        mlp.fc1.bias,
        autocast(mlp.fc2.weight, x),
        mlp.fc2.bias,
        eps=norm.eps,
        fc1_scale=getattr(mlp.fc1, "weight_scale", None),
        fc2_scale=getattr(mlp.fc2, "weight_scale", None),
        hidden_scale=getattr(mlp, "hidden_scale", None),
        hidden_offset=getattr(mlp, "hidden_offset", 0),
    )


def autocast(weight: Tensor, x: Tensor) -> Tensor:
    """`weight` as autocast to bfloat16, where it is on, gives it to a linear layer."""
    return weight.to(torch.bfloat16) if autocasts(x) and weight.dtype.itemsize > 1 else weight


def autocasts(x: Tensor) -> bool:
    """Whether autocast to bfloat16 is on for the device of x."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return False
    return torch.get_autocast_dtype(device) == torch.bfloat16


def takes(block: Any, x: Tensor) -> bool:
    """Whether `run` has an answer for x; otherwise the original gives its own error."""
    return True


def convert(block: Any, schemes: Mapping[str, LayerScheme]) -> nn.Module:
    """The weights of `block` in the precisions of schemes["filter"] and schemes["mlp"]."""
    scheme = Scheme("fp32", {f"block.{name}": layer for name, layer in schemes.items()})
    return convert_block(block, "block", scheme)


def parameters(block: nn.Module) -> list[Tensor]:
    """What `convert` reads."""
    return list(block.parameters())


def signature(block: Any) -> tuple[Any, ...]:
    """What a probe of a recognised block depends on: two blocks of one signature share its result."""
    norms = ((norm.eps, norm.bias is None) for norm in (block.norm1, block.norm2))
    linears = ((layer.weight.shape, layer.bias is None) for layer in (block.mlp.fc1, block.mlp.fc2))
    return (type(block), filters.signature(block.filter), *norms, *linears)


def stand_in(block: Any, draw: Draw) -> Any:
    """A block of the same classes and settings, with weights of its own."""
    copy = draw.stand_in(block)
    copy.filter.__dict__["_parameters"].update(filters.draw_weights(block.filter, draw))
    return copy


def cases(block: Any, draw: Draw) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(x, exact result in float64, what of it the errors do not count against) for a stand-in."""
    for x in filters.inputs(block.filter, draw):
        t = _after_filter(block, x.double())
        y = t + _linear(block.mlp.fc2, F.gelu(_linear(block.mlp.fc1, _norm(block.norm2, t))))
        yield x, y, x


def trial(block: Any, x: Tensor, precisions: Mapping[str, str]) -> dict[str, LayerScheme]:
    """The schemes that a probe with input x holds a stand-in to."""
    mlp = LayerScheme(precisions["mlp"])
    if precisions["mlp"] in ("int8", "fp8"):
        t = _after_filter(block, x.double())
        hidden = F.gelu(_linear(block.mlp.fc1, _norm(block.norm2, t)))
        least, largest = min(hidden.min().item(), 0.0), max(hidden.max().item(), 0.0)
        scale, offset = hidden_code(least, largest)
        if precisions["mlp"] == "fp8":
            scale, offset = hidden_scale_fp8(largest), 0
        mlp = replace(mlp, hidden_scale=scale, hidden_offset=offset)
    return {"filter": LayerScheme(precisions["filter"]), "mlp": mlp}


def _after_filter(block: Any, x: Tensor) -> Tensor:
    return filters.exact(block.filter, _norm(block.norm1, x)) + x


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    bias = None if norm.bias is None else norm.bias.double()
    return F.layer_norm(x, norm.normalized_shape, norm.weight.double(), bias, norm.eps)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.double(), None if layer.bias is None else layer.bias.double())
