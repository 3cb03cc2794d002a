"""The int8 linear layers of FourCastNet's MLP against PyTorch's integer product and its bfloat16 layers.

fc1, where N > K: int8 rows with a scale each -> GELU -> int8 by one scale. fc2: int8 rows -> + residual,
float32. PyTorch's: `int_mm` is torch._int_mm and nothing else, not even the scales; `eager` and `compiled`
are int_mm with the epilogue; `bf16` is the layer with GELU or residual in bfloat16; `onednn` is the fused
layer that torch.compile makes of a network quantised with the X86 quantizer, for it x is uint8 already.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels import ops
from wxkernels.bench.case import Case, Size, compiled, implementations, on_backend
from wxkernels.bench.engine import Call, Problem, Variant, Work
from wxkernels.ops.linear_int8 import OP

PYTORCH = ("int_mm", "eager", "compiled", "bf16", "onednn")
#: The scale of every row of x: they are equal because onednn has one for all.
X_SCALE, OUT_SCALE = 0.03, 0.065


def backends(device: torch.device) -> dict[str, str | None]:
    x, row, scalar = (torch.zeros(s, device=device) for s in ((2, 2), (2,), ()))
    here: dict[str, str | None] = dict.fromkeys(PYTORCH)
    if device.type != "cpu":
        here["onednn"] = "it runs on the CPU"
    elif not torch.backends.mkldnn.is_available():
        here["onednn"] = "this PyTorch has no oneDNN"
    q = x.to(torch.int8)
    return here | implementations(OP, q, q, row, row, row, x, scalar)


def problem(size: Size, names: Sequence[str]) -> Problem:
    M, K, N = size.batch * size.shape[0], size.shape[1], size.shape[2]
    expands = N > K
    generator = torch.Generator().manual_seed(0)
    weight, weight_scale = ops.quantize_rows(torch.randn(N, K, generator=generator) * K**-0.5)
    bias = torch.randn(N, generator=generator)

    def tensors() -> list[Tensor]:
        x = (torch.randn(M, K, generator=generator) / X_SCALE).round().clamp(-127, 127).to(torch.int8)
        last = torch.tensor(OUT_SCALE) if expands else torch.randn(M, N, generator=generator)
        found = [x, weight, weight_scale, bias, torch.full((M,), X_SCALE), last]
        return [t.to(size.device) for t in found]

    inputs = [tensors() for _ in range(2)]
    builds: dict[str, Callable[[], Call]] = {
        "int_mm": lambda: lambda tensors: _int_mm(*tensors),
        "eager": lambda: lambda tensors: _composed(expands, *tensors),
        "compiled": partial(_compiled, expands),
        "bf16": partial(_bf16, expands, inputs),
        "onednn": partial(_onednn, expands, inputs),
    }
    variants = []
    for name in names:
        work, finish = _work(M, K, N, name == "bf16"), partial(_finished, expands, name == "int_mm")
        if name in PYTORCH:
            variants.append(Variant(name, builds[name], work, "pytorch", finish))
        else:
            build = partial(on_backend, name, partial(_ours, expands))
            variants.append(Variant(name, build, work, "ours", finish))
    return Problem(
        op="linear_int8",
        shape=(M, K, N),
        dtype=torch.int8,
        inputs=inputs,
        exact=partial(_exact, expands),
        variants=variants,
        command=size.command("linear_int8"),
    )


def _work(M: int, K: int, N: int, bf16: bool) -> Work:
    dtype = torch.bfloat16 if bf16 else torch.int8
    out = M * N * (dtype.itemsize if N > K else 4 + 4)  # float32 residual read, result written
    return Work({dtype: 2.0 * M * N * K}, dtype.itemsize * (M * K + N * K) + 8 * N + 4 * M + out)


def _ours(expands: bool, *tensors: Tensor) -> Tensor:
    *layer, x_scale, last = tensors
    if expands:
        return ops.linear_int8(*layer, x_scale=x_scale, activation="gelu", out_scale=last)
    return ops.linear_int8(*layer, x_scale=x_scale, residual=last)


def _int_mm(x: Tensor, weight: Tensor, *others: Tensor) -> Tensor:
    return torch._int_mm(x, weight.t())


def _composed(expands: bool, *tensors: Tensor) -> Tensor:
    return _epilogue(expands, _int_mm(*tensors), *tensors)


def _compiled(expands: bool) -> Call:
    layer = compiled(partial(_composed, expands))
    return lambda tensors: layer(*tensors)


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


def _bf16(expands: bool, inputs: Sequence[Sequence[Tensor]]) -> Call:
    """The layer on the same values in bfloat16; its GELU is not requantised."""
    _, weight, weight_scale, bias, _, _ = inputs[0]
    w, b = (weight * weight_scale[:, None]).bfloat16(), bias.bfloat16()
    xs = {id(t): (t[0] * X_SCALE).bfloat16() for t in inputs}

    def run(tensors: Sequence[Tensor]) -> Tensor:
        y = F.linear(xs[id(tensors)], w, b)
        return F.gelu(y) if expands else tensors[5] + y

    return run


def _onednn(expands: bool, inputs: Sequence[Sequence[Tensor]]) -> Call:
    _, weight, weight_scale, bias, _, _ = inputs[0]
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    zero_points = torch.zeros(len(weight), dtype=torch.int32)
    xs = {id(t): (t[0].short() + 128).to(torch.uint8) for t in inputs}

    def run(tensors: Sequence[Tensor]) -> Tensor:
        layer = (xs[id(tensors)], X_SCALE, 128, packed, weight_scale, zero_points)
        if expands:
            return torch.ops.onednn.qlinear_pointwise(
                *layer, bias, OUT_SCALE, 0, torch.int8, "gelu", [], "none"
            )
        return torch.ops.onednn.qlinear_pointwise.binary(
            *layer, tensors[5], bias, 1.0, 0, torch.float32, 1.0, 0, "add", 1.0, "none", [], ""
        )

    return run


def _finished(expands: bool, product: bool, result: Any, tensors: Sequence[Tensor]) -> Tensor:
    """The layer's value of a result: the epilogue of a mere product, integers times their scale."""
    if product:
        result = _epilogue(expands, result, *tensors)
    return result * tensors[5] if result.dtype == torch.int8 else result


def _exact(expands: bool, tensors: Sequence[Tensor]) -> Tensor:
    x, weight, weight_scale, bias, x_scale, last = (t.double() for t in tensors)
    y = x_scale[:, None] * weight_scale * (x @ weight.t()) + bias
    return F.gelu(y) if expands else y + last


CASE = Case(
    name="linear_int8",
    summary="the int8 layers of the MLP: N > K is fc1 (GELU, int8 out), else fc2 (residual)",
    axes="M x K x N",
    shapes={
        "fourcastnet:fc1": (16200, 768, 3072),
        "fourcastnet:fc2": (16200, 3072, 768),
        "shallow-water:fc1": (512, 128, 512),
        "shallow-water:fc2": (512, 512, 128),
    },
    dtypes=(torch.int8,),
    backends=backends,
    problem=problem,
    baselines=("int_mm",),
)
