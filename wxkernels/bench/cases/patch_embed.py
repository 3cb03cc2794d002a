"""The patch embedding, fields to tokens plus their positions, with weights in each precision."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels import ops
from wxkernels.bench.case import Case, Here, all_in, compiled, implementations, on_backend, split
from wxkernels.bench.convolution import by_patches, is_wrong
from wxkernels.bench.engine import Call, Problem, Size, Variant, Work
from wxkernels.bench.models import MODELS
from wxkernels.errors import UserError
from wxkernels.ops.patch_embed import OP, reference

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PYTORCH = ("eager", "compiled", "eager-bf16", "compiled-bf16")


def ours(device: torch.device) -> Here:
    x, row = torch.zeros(1, 1, 2, 2, device=device), torch.zeros(2, device=device)
    here: Here = {}
    for precision, dtype in PRECISIONS.items():
        weight, pos = (torch.zeros(s, dtype=dtype, device=device) for s in ((2, 1, 2, 2), (1, 1, 2)))
        found = implementations(OP, x, weight, row, pos, None)
        here |= {f"{backend}-{precision}": reason for backend, reason in found.items()}
    return here


def peers(device: torch.device) -> Here:
    return dict.fromkeys(PYTORCH)


def problem(size: Size, names: Sequence[str]) -> Problem:
    B, (H, W, C, p, q, D) = size.batch, size.shape
    tokens = math.prod(whole_patches(size))
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*sizes, generator=generator) * scale).to(size.device)

    weights = [normal(D, C, p, q, scale=(C * p * q) ** -0.5), normal(D, scale=0.1), normal(1, tokens, D)]

    def work(io: torch.dtype, dtype: torch.dtype) -> Work:
        moved = io.itemsize * B * (C * H * W + tokens * D)
        return Work({dtype: 2.0 * B * C * H * W * D}, moved + dtype.itemsize * (C * p * q + tokens) * D)

    variants = []
    for name in names:
        how, precision = split(name)
        dtype = PRECISIONS[precision]
        if name in PYTORCH:
            build = partial(_plain, how == "compiled", dtype, normal(1, C, H, W), *weights[:2])
            variants.append(Variant(name, build, work(dtype, dtype), "pytorch", adapt=partial(all_in, dtype)))
        else:
            build = partial(on_backend, how, ops.patch_embed)
            variants.append(Variant(name, build, work(size.dtype, dtype), adapt=partial(_weights_in, dtype)))
    return Problem(
        case="patch_embed",
        op="patch_embed",
        size=size,
        shape=(B, C, H, W),
        sample=lambda: [normal(B, C, H, W), *(w.clone() for w in weights)],
        exact=_exact,
        variants=variants,
    )


def whole_patches(size: Size) -> tuple[int, int]:
    """Rows and columns of tokens. UserError: patches do not cover the fields."""
    H, W, _, p, q, _ = size.shape
    if H % p or W % q:
        raise UserError(f"shape: {H} x {W} is not whole patches of {p} x {q}")
    return H // p, W // q


def _exact(tensors: Sequence[Tensor]) -> Tensor:
    x, weight, bias, pos_embed = (t.double() for t in tensors)
    return reference.patch_embed(x, weight, bias, pos_embed, None)


def _plain(compile: bool, dtype: torch.dtype, x: Tensor, weight: Tensor, bias: Tensor) -> Call:
    wrong = dtype == torch.bfloat16 and x.device.type == "cpu" and is_wrong(x, weight, bias)
    embed = compiled(_embed) if compile else _embed
    convolution = by_patches if wrong else _convolution
    return lambda tensors: embed(convolution, *tensors)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, stride=weight.shape[2:])


def _embed(
    convolution: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    pos_embed: Tensor,
) -> Tensor:
    """As AFNONet and its PatchEmbed have it."""
    y = convolution(x, weight, bias)
    B, D, h, w = y.shape
    return (y.flatten(2).transpose(1, 2) + pos_embed).reshape(B, h, w, D)


def _weights_in(dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
    x, weight, bias, pos_embed = tensors
    return [x, weight.to(dtype), bias, pos_embed.to(dtype)]


CASE = Case(
    name="patch_embed",
    summary="fields to tokens: a linear layer a patch, plus positions",
    axes="H x W x channels x patch rows x patch columns x dim",
    shapes={name: (*m.grid, m.channels, *m.patch, m.dim) for name, m in MODELS.items()},
    dtypes=(torch.float32,),
    ours=ours,
    peers=peers,
    problem=problem,
    baselines=PYTORCH,
)
