"""mlp: the second half of a block, layer norm, two linear layers and the skip."""

import torch
from torch import Tensor

from wxkernels import backends
from wxkernels.ops import _checks
from wxkernels.ops._linear import MAX_K
from wxkernels.ops._registration import register
from wxkernels.ops.mlp import native, reference, triton

#: Products of at most this many terms, whose one factor is q - hidden_offset, fit int32: 65536 * 254 * 127
#: < 2^31.
MAX_D = 65536

OP = backends.Op("mlp", {"native": native, "triton": triton, "reference": reference})


def mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    *,
    eps: float = 1e-6,
    activation: str | None = "gelu",
    fc1_scale: Tensor | None = None,
    fc2_scale: Tensor | None = None,
    hidden_scale: Tensor | None = None,
    hidden_offset: int = 0,
) -> Tensor:
    """y = x + fc2(act(fc1(LN(x)))), with the products in the dtype of the weights.

    x (..., C), any floating dtype and strides; the result has its shape and dtype. norm_weight and norm_bias
    (C,), fc1_bias (D,), fc2_bias (C,), floating; biases may be None. fc1_weight (D, C) and fc2_weight (C, D)
    of one dtype. bfloat16: LN(x) and the hidden layer are rounded to it. int8, C <= 131072, D <= 65536: the
    rows of LN(x) are quantised as by `quantize_rows`; the hidden layer is hidden_scale * (q - hidden_offset),
    q in [-127, 127], with the one-element tensor hidden_scale and a whole hidden_offset in [-127, 127];
    weights are fc1_weight * fc1_scale (D,), fc2_weight * fc2_scale (C,), scales floating. float8_e4m3fn: the
    same with rows and hidden layer in e4m3 (`linear_fp8`), hidden_offset 0. float16 weights are
    multiplied in float32 (a GPU rounds LN(x) and the hidden layer to float16 where x is float16 too). Sums,
    layer norm and activation (None, "gelu" (erf) or "gelu_tanh") are float32, float64 for float64 x. Autocast
    changes nothing.
    Gradients are those of the reference; with int8 or e4m3 weights there are none. Raises ValueError for an
    argument of another shape, dtype or range.
    """
    _checks.rows("x", x, "C")
    _checks.norm(x, norm_weight=norm_weight, norm_bias=norm_bias, eps=eps)
    C = x.shape[-1]
    if fc1_weight.dim() != 2 or fc1_weight.shape[1] != C or fc1_weight.shape[0] == 0:
        raise ValueError(f"fc1_weight: expected (D, {C}) for x (..., {C}), got {tuple(fc1_weight.shape)}")
    D = fc1_weight.shape[0]
    _checks.shape("fc2_weight", fc2_weight, (C, D), "from fc1_weight")
    if fc2_weight.dtype != fc1_weight.dtype:
        raise ValueError(f"fc2_weight: expected {fc1_weight.dtype} as fc1_weight, got {fc2_weight.dtype}")
    if fc1_bias is not None:
        _checks.shape("fc1_bias", fc1_bias, (D,), "from fc1_weight")
    if fc2_bias is not None:
        _checks.shape("fc2_bias", fc2_bias, (C,), "from fc2_weight")
    scales = {"fc1_scale": fc1_scale, "fc2_scale": fc2_scale, "hidden_scale": hidden_scale}
    quantised = fc1_weight.dtype in (torch.int8, torch.float8_e4m3fn)
    for name, scale in scales.items():
        if quantised and scale is None:
            kind = str(fc1_weight.dtype).removeprefix("torch.")
            raise ValueError(f"{name}: expected a scale for {kind} weights, got None")
        if not quantised and scale is not None:
            raise ValueError(f"{name}: expected None for {fc1_weight.dtype} weights, got a tensor")
    if fc1_scale is not None and fc2_scale is not None and hidden_scale is not None:
        _checks.shape("fc1_scale", fc1_scale, (D,), "from fc1_weight")
        _checks.shape("fc2_scale", fc2_scale, (C,), "from fc2_weight")
        if hidden_scale.numel() != 1:
            raise ValueError(f"hidden_scale: expected one element, got shape {tuple(hidden_scale.shape)}")
        hidden_scale = hidden_scale.reshape(())
    else:
        _checks.floating(fc1_weight=fc1_weight)
    if fc1_weight.dtype == torch.int8:
        if C > MAX_K or D > MAX_D:
            raise ValueError(f"fc1_weight: expected C <= {MAX_K}, D <= {MAX_D} in int8, got {C}, {D}")
        if not -127 <= hidden_offset <= 127:
            raise ValueError(f"hidden_offset: expected -127 to 127, got {hidden_offset}")
    elif hidden_offset != 0:
        raise ValueError(f"hidden_offset: expected 0 for {fc1_weight.dtype} weights, got {hidden_offset}")
    _checks.floating(x=x, fc1_bias=fc1_bias, fc2_bias=fc2_bias, **scales)
    _checks.device_of_first(
        x=x,
        fc1_weight=fc1_weight,
        fc1_bias=fc1_bias,
        fc2_weight=fc2_weight,
        fc2_bias=fc2_bias,
        **scales,
    )
    return torch.ops.wxkernels.mlp(
        x,
        norm_weight,
        norm_bias,
        fc1_weight,
        fc1_bias,
        fc2_weight,
        fc2_bias,
        fc1_scale,
        fc2_scale,
        hidden_scale,
        hidden_offset,
        eps,
        _checks.activation(activation),
    )


def _fake(x: Tensor, *others: object) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


register(
    OP,
    "(Tensor x, Tensor norm_weight, Tensor? norm_bias, Tensor fc1_weight, Tensor? fc1_bias,"
    " Tensor fc2_weight, Tensor? fc2_bias, Tensor? fc1_scale, Tensor? fc2_scale, Tensor? hidden_scale,"
    " int hidden_offset, float eps, str activation) -> Tensor",
    _fake,
)
