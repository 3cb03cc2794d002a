"""From floating layers to those of a scheme."""

from typing import Any

import torch
from torch import Tensor, nn

from wxkernels.nn import AFNO2D, AFNOBlock, Fp8Linear, Int8Linear, Mlp
from wxkernels.ops import quantize_rows
from wxkernels.quantization.scheme import LayerScheme, Scheme

_BLOCK = ("norm1", "filter", "norm2", "mlp")
_NETWORK = ("patch_embed", "pos_embed", "head")


def blocks_of(network: nn.Module) -> dict[str, Any]:
    """The AFNO blocks of a network by name: modules with norm1, filter, norm2 and mlp."""
    return {
        name: module
        for name, module in network.named_modules()
        if all(hasattr(module, part) for part in _BLOCK) and hasattr(module.filter, "w1")
    }


def roots_of(network: nn.Module) -> dict[str, Any]:
    """The parts of a network with patch_embed.proj, pos_embed and head around blocks; "name." of each."""
    return {
        name and f"{name}.": module
        for name, module in network.named_modules()
        if all(hasattr(module, part) for part in _NETWORK) and hasattr(module.patch_embed, "proj")
    }


def layer_names(network: nn.Module) -> list[str]:
    """The layers of a network that a scheme has a precision for, in the order of the forward pass."""
    roots = roots_of(network)
    first = [prefix + part for prefix in roots for part in ("patch_embed", "pos_embed")]
    blocks = [f"{name}.{part}" for name in blocks_of(network) for part in ("filter", "mlp")]
    return [*first, *blocks, *(f"{prefix}head" for prefix in roots)]


def convert_block(block: Any, name: str, scheme: Scheme) -> AFNOBlock:
    """The fused block in the precisions that `scheme` has for `name`.filter and `name`.mlp.

    `block`, ours or another package's, has norm1, filter (w1, b1, w2, b2, sparsity_threshold,
    hard_thresholding_fraction), norm2, mlp.fc1 and mlp.fc2, floating, both skips and the exact GELU, as that
    of NVlabs/FourCastNet and physicsnemo. It is not changed; what stays in its precision is shared with it,
    not copied. Raises ValueError for a scheme without these layers, or read from a file.
    """
    for part in ("filter", "mlp"):
        if f"{name}.{part}" not in scheme.layers:
            raise ValueError(f"scheme: expected a layer {name}.{part}, got {', '.join(scheme.layers)}")
    norm2, mlp = convert_mlp(block.norm2, block.mlp, scheme.layers[f"{name}.mlp"])
    filter = convert_filter(block.filter, scheme.layers[f"{name}.filter"].precision)
    return AFNOBlock(block.norm1, filter, norm2, mlp)


def convert_filter(layer: Any, precision: str) -> AFNO2D:
    """A filter whose products are in `precision`; biases stay as they are."""
    w1, w2 = layer.w1, layer.w2
    if precision == "bf16":
        w1, w2 = _frozen(w1.to(torch.bfloat16)), _frozen(w2.to(torch.bfloat16))
    return AFNO2D(
        w1,
        layer.b1,
        w2,
        layer.b2,
        sparsity_threshold=layer.sparsity_threshold,
        hard_thresholding_fraction=layer.hard_thresholding_fraction,
    )


def convert_mlp(norm: nn.LayerNorm, mlp: Any, layer: LayerScheme) -> tuple[nn.LayerNorm, Mlp]:
    """The norm and the MLP after it, with the shift and the scale folded in (`LayerScheme`)."""
    fc1, fc2 = mlp.fc1, mlp.fc2
    if layer.precision == "fp32":
        return norm, Mlp(fc1, fc2)
    weight, bias = fc1.weight.detach().float(), _float(fc1.bias)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    if layer.shift is not None and layer.scale is not None:
        shift, scale = layer.shift.to(weight.device), layer.scale.to(weight.device)
        norm = _norm(norm, norm.weight.detach().float() / scale, (_bias(norm) - shift) / scale)
        weight, bias = weight * scale, bias + weight @ shift
    elif layer.smooth and not weight.is_meta:
        raise ValueError(
            "scheme: it comes from a file, whose weights have its scales folded in; calibrate again"
        )
    if layer.precision == "bf16":
        return norm, Mlp(_linear(weight, bias), _linear(fc2.weight.detach(), _float(fc2.bias)))
    if layer.hidden_scale is None:
        raise ValueError(f"scheme: expected a hidden_scale for an {layer.precision} MLP, got None")
    hidden_scale = torch.tensor(layer.hidden_scale, dtype=torch.float32, device=weight.device)
    linear = Int8Linear if layer.precision == "int8" else Fp8Linear
    return norm, Mlp(
        linear.quantized(weight, bias),
        linear.quantized(fc2.weight, _float(fc2.bias)),
        hidden_scale,
        layer.hidden_offset,
    )


def apply(network: Any, scheme: Scheme) -> None:
    """Convert an AFNONet in place: its layers as `scheme` has them, `network.scheme` set, nothing to train.

    Raises ValueError for a network that is quantised already or not float32, a scheme of other layers or
    weights that are not finite.
    """
    if network.scheme is not None:
        raise ValueError(f"network: it is in {network.scheme.precision} already; give one in fp32")
    names = layer_names(network)
    if set(names) != set(scheme.layers):
        odd = sorted(set(names) ^ set(scheme.layers))[0]
        raise ValueError(f"scheme: expected the layers of the network, differs in {odd}")
    for name, parameter in network.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(f"network: expected float32, got {parameter.dtype} for {name}; use .float()")
        if not parameter.is_meta and not parameter.isfinite().all():
            raise ValueError(f"network: expected finite weights, got others in {name}")
    for name, block in blocks_of(network).items():
        network.set_submodule(name, convert_block(block, name, scheme))
    for layer in (network.patch_embed.proj, network.head):
        name = "head" if layer is network.head else "patch_embed"
        if scheme.layers[name].precision == "bf16":
            layer.weight = _frozen(layer.weight.to(torch.bfloat16))
    if scheme.layers["pos_embed"].precision == "bf16":
        network.pos_embed = _frozen(network.pos_embed.to(torch.bfloat16))
    elif scheme.layers["pos_embed"].precision == "int8":
        q, scale = quantize_rows(network.pos_embed.detach()[0])  # (h * w, C)
        del network.pos_embed
        network.register_buffer("pos_embed", q[None])
        network.pos_scale = scale
    network.requires_grad_(False)
    network.scheme = scheme


def _norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    folded = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, device="meta")
    folded.weight, folded.bias = _frozen(weight), _frozen(bias)
    return folded


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Weights in bfloat16; the bias stays: it is added to float32 sums."""
    N, K = weight.shape
    linear = nn.Linear(K, N, bias=bias is not None, device="meta")
    linear.weight = _frozen(weight.to(torch.bfloat16))
    if bias is not None:
        linear.bias = _frozen(bias)
    return linear


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float()


def _bias(norm: nn.LayerNorm) -> Tensor:
    bias = _float(norm.bias)
    return torch.zeros(norm.normalized_shape, device=norm.weight.device) if bias is None else bias
