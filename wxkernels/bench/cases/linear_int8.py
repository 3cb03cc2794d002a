"""The int8 and e4m3 linear layers of FourCastNet's MLP against PyTorch's products of those and of bfloat16.

fc1, where N > K: int8 rows with a scale each -> GELU -> int8 by one scale. fc2: int8 rows -> + residual,
float32. PyTorch's: `int_mm` is torch._int_mm (cuBLASLt on a GPU) and nothing else, not even the scales;
`eager` and `compiled` are int_mm with the epilogue; `bf16` is the layer with GELU or residual in bfloat16;
`onednn` is the fused layer that torch.compile makes of a network quantised with the X86 quantizer, for it x
is uint8 already; `fp8` is torch._scaled_mm, rows scaled, with GELU or residual in bfloat16. The e4m3 layers
get the rows of `fp8`; their hidden layer is e4m3 by one scale.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels import ops
from wxkernels.bench.case import Case, Here, compiled, implementations, on_backend
from wxkernels.bench.engine import Call, Problem, Size, Variant, Work
from wxkernels.bench.models import MODELS
from wxkernels.ops.linear_fp8 import OP as OP_FP8
from wxkernels.ops.linear_int8 import OP

PYTORCH = ("int_mm", "eager", "compiled", "bf16", "onednn")
#: The scale of every row of x: they are equal because onednn has one for all.
X_SCALE, OUT_SCALE = 0.03, 0.065
FP8 = torch.float8_e4m3fn


def ours(device: torch.device) -> Here:
    x, row, scalar = (torch.zeros(s, device=device) for s in ((8, 8), (8,), ()))
    q = x.to(torch.int8)
    return implementations(OP, q, q, row, row, row, x, scalar)


def ours_fp8(device: torch.device) -> Here:
    x, row, scalar = (torch.zeros(s, device=device) for s in ((8, 8), (8,), ()))
    q = x.to(FP8)
    return implementations(OP_FP8, q, q, row, row, row, x, scalar)


def peers_fp8(device: torch.device) -> Here:
    return {name: reason for name, reason in peers(device).items() if name in ("bf16", "fp8")}


def peers(device: torch.device) -> Here:
    here: Here = dict.fromkeys((*PYTORCH, "fp8"))
    if device.type != "cpu":
        here["onednn"] = "it runs on the CPU"
    elif not torch.backends.mkldnn.is_available():
        here["onednn"] = "this PyTorch has no oneDNN"
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        here["fp8"] = "it runs on NVIDIA GPUs of compute capability 9.0 or later"
    return here


def problem(op: str, size: Size, names: Sequence[str]) -> Problem:
    M, K, N = size.batch * size.shape[0], size.shape[1], size.shape[2]
    expands = N > K
    generator = torch.Generator().manual_seed(0)
    weight, weight_scale = ops.quantize_rows(torch.randn(N, K, generator=generator) * K**-0.5)
    bias = torch.randn(N, generator=generator)
    layer = [t.to(size.device) for t in (weight, weight_scale, bias)]
    x_scale = torch.full((M,), X_SCALE, device=size.device)
    out_scale = torch.tensor(OUT_SCALE, device=size.device)

    def sample() -> list[Tensor]:
        x = (torch.randn(M, K, generator=generator) / X_SCALE).round().clamp(-127, 127).to(torch.int8)
        last = out_scale if expands else torch.randn(M, N, generator=generator).to(size.device)
        return [x.to(size.device), *(t.clone() for t in layer), x_scale, last]

    variants = []
    for name in names:
        finish = partial(_finished, expands, name == "int_mm")
        if name in _OTHERS:
            layer_of, adapt, dtype = _OTHERS[name]
            kind: Literal["pytorch", "peer"] = "pytorch" if name in PYTORCH else "peer"
            build = partial(layer_of, expands)
            variants.append(Variant(name, build, _work(M, K, N, dtype), kind, finish, adapt))
        elif name in PYTORCH:
            work = _work(M, K, N, torch.int8)
            variants.append(Variant(name, partial(_product, name, expands), work, "pytorch", finish))
        elif op == "linear_fp8":
            build = partial(on_backend, name, partial(_ours_fp8, expands))
            adapt = partial(_fp8_inputs, torch.float32)
            variants.append(Variant(name, build, _work(M, K, N, FP8), "ours", finish, adapt))
        else:
            build = partial(on_backend, name, partial(_ours, expands))
            variants.append(Variant(name, build, _work(M, K, N, torch.int8), "ours", finish))
    return Problem(
        case=op,
        op=op,
        size=size,
        shape=(M, K, N),
        sample=sample,
        exact=partial(_exact, expands),
        variants=variants,
    )


def _work(M: int, K: int, N: int, dtype: torch.dtype) -> Work:
    """Of products in `dtype`; without int8 or e4m3 the hidden layer is bfloat16."""
    out = M * N * (4 + 4)  # float32 residual read, result written
    if N > K:
        out = M * N * dtype.itemsize
    return Work({dtype: 2.0 * M * N * K}, dtype.itemsize * (M * K + N * K) + 8 * N + 4 * M + out)


def _ours(expands: bool, *tensors: Tensor) -> Tensor:
    *layer, x_scale, last = tensors
    if expands:
        return ops.linear_int8(*layer, x_scale=x_scale, activation="gelu", out_scale=last)
    return ops.linear_int8(*layer, x_scale=x_scale, residual=last)


def _ours_fp8(expands: bool, *tensors: Tensor) -> Tensor:
    x, x_scale, w, w_scale, bias, last = tensors
    if expands:
        return ops.linear_fp8(x, w, w_scale, bias, x_scale=x_scale, activation="gelu", out_scale=last)
    return ops.linear_fp8(x, w, w_scale, bias, x_scale=x_scale, residual=last)


def _int_mm(x: Tensor, weight: Tensor, *others: Tensor) -> Tensor:
    return torch._int_mm(x, weight.t())


def _composed(expands: bool, *tensors: Tensor) -> Tensor:
    return _epilogue(expands, _int_mm(*tensors), *tensors)


def _epilogue(
    expands: bool,
    product: Tensor,
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor,
    x_scale: Tensor,
    last: Tensor,
) -> Tensor:
    y = product * x_scale[:, None] * weight_scale + bias
    if expands:
        return (F.gelu(y) / last).round().clamp(-127, 127).to(torch.int8)
    return y + last


def _product(name: str, expands: bool) -> Call:
    """torch._int_mm alone; or with its epilogue."""
    run = _int_mm if name == "int_mm" else partial(_composed, expands)
    run = compiled(run) if name == "compiled" else run
    return lambda tensors: run(*tensors)


def _bf16(expands: bool) -> Call:
    """The layer on the same values in bfloat16; its GELU is not requantised."""

    def run(tensors: Sequence[Tensor]) -> Tensor:
        x, w, b, last = tensors
        y = F.linear(x, w, b)
        return F.gelu(y) if expands else last + y

    return run


def _fp8(expands: bool) -> Call:
    def run(tensors: Sequence[Tensor]) -> Tensor:
        x, x_scale, w, w_scale, b, last = tensors
        y = torch._scaled_mm(x, w.t(), x_scale[:, None], w_scale[None], b, out_dtype=torch.bfloat16)
        return F.gelu(y) if expands else last + y

    return run


def _onednn(expands: bool) -> Call:
    def run(tensors: Sequence[Tensor]) -> Tensor:
        x, packed, weight_scale, zero_points, bias, last = tensors
        given = (x, X_SCALE, 128, packed, weight_scale, zero_points)
        if expands:
            return torch.ops.onednn.qlinear_pointwise(
                *given, bias, OUT_SCALE, 0, torch.int8, "gelu", [], "none"
            )
        return torch.ops.onednn.qlinear_pointwise.binary(
            *given, last, bias, 1.0, 0, torch.float32, 1.0, 0, "add", 1.0, "none", [], ""
        )

    return run


def _bf16_inputs(tensors: Sequence[Tensor]) -> list[Tensor]:
    x, weight, weight_scale, bias, _, last = tensors
    return [(x * X_SCALE).bfloat16(), (weight * weight_scale[:, None]).bfloat16(), bias.bfloat16(), last]


def _fp8_inputs(bias_dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Rows with a scale each, of x as a dynamic quantisation gives them."""
    x, weight, weight_scale, bias, _, last = tensors
    rows = (_fp8_rows(t) for t in (x * X_SCALE, weight * weight_scale[:, None]))
    return [*(t for pair in rows for t in pair), bias.to(bias_dtype), last]


def _fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(1) / torch.finfo(FP8).max
    return (x / scale[:, None]).to(FP8), scale


def _onednn_inputs(tensors: Sequence[Tensor]) -> list[Tensor]:
    x, weight, weight_scale, bias, _, last = tensors
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    zero_points = torch.zeros(len(weight), dtype=torch.int32)
    return [(x.short() + 128).to(torch.uint8), packed, weight_scale, zero_points, bias, last]


def _finished(expands: bool, product: bool, result: Any, tensors: Sequence[Tensor]) -> Tensor:
    """The layer's value of a result: the epilogue of a mere product, integers times their scale."""
    if product:
        result = _epilogue(expands, result, *tensors)
    return result.float() * tensors[5] if result.dtype.itemsize == 1 else result


def _exact(expands: bool, tensors: Sequence[Tensor]) -> Tensor:
    x, weight, weight_scale, bias, x_scale, last = (t.double() for t in tensors)
    y = x_scale[:, None] * weight_scale * (x @ weight.t()) + bias
    return F.gelu(y) if expands else y + last


#: What is not called on the int8 input: how it is built, what it takes, the dtype of its products.
_OTHERS: dict[str, tuple[Callable[[bool], Call], Callable[..., list[Tensor]], torch.dtype]] = {
    "bf16": (_bf16, _bf16_inputs, torch.bfloat16),
    "fp8": (_fp8, partial(_fp8_inputs, torch.bfloat16), FP8),
    "onednn": (_onednn, _onednn_inputs, torch.int8),
}

_SHAPES = {
    f"{name}:{layer}": shape
    for name, m in MODELS.items()
    for layer, shape in (("fc1", (m.rows, m.dim, m.hidden)), ("fc2", (m.rows, m.hidden, m.dim)))
}
CASE = Case(
    name="linear_int8",
    summary="the int8 layers of the MLP: N > K is fc1 (GELU, int8 out), else fc2 (residual)",
    axes="M x K x N",
    shapes=_SHAPES,
    dtypes=(torch.int8,),
    ours=ours,
    peers=peers,
    problem=partial(problem, "linear_int8"),
    baselines=("int_mm",),
)
CASE_FP8 = Case(
    name="linear_fp8",
    summary="the same in e4m3",
    axes="M x K x N",
    shapes=_SHAPES,
    dtypes=(FP8,),
    ours=ours_fp8,
    peers=peers_fp8,
    problem=partial(problem, "linear_fp8"),
    baselines=("bf16",),
)
