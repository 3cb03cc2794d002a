"""The patch head, tokens to fields, with weights in each precision."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from wxkernels import ops
from wxkernels.bench.case import Case, Here, all_in, compiled, implementations, on_backend, split
from wxkernels.bench.cases.patch_embed import CASE as EMBED
from wxkernels.bench.cases.patch_embed import PRECISIONS, PYTORCH, peers, whole_patches
from wxkernels.bench.engine import Call, Problem, Size, Variant, Work
from wxkernels.ops.patch_head import OP, reference


def ours(device: torch.device) -> Here:
    tokens, weight = torch.zeros(1, 1, 1, 2, device=device), torch.zeros(4, 2, device=device)
    here: Here = {}
    for precision, dtype in PRECISIONS.items():
        found = implementations(OP, tokens, weight.to(dtype), None)
        here |= {f"{backend}-{precision}": reason for backend, reason in found.items()}
    return here


def problem(size: Size, names: Sequence[str]) -> Problem:
    B, (H, W, C, p, q, D) = size.batch, size.shape
    h, w = whole_patches(size)
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(p * q * C, D, generator=generator) * D**-0.5).to(size.device)

    def sample() -> list[Tensor]:
        return [torch.randn(B, h, w, D, generator=generator).to(size.device), weight.clone()]

    def work(io: torch.dtype, dtype: torch.dtype) -> Work:
        moved = io.itemsize * B * (h * w * D + C * H * W)
        return Work({dtype: 2.0 * B * C * H * W * D}, moved + dtype.itemsize * weight.numel())

    variants = []
    for name in names:
        how, precision = split(name)
        dtype = PRECISIONS[precision]
        if name in PYTORCH:
            build = partial(_plain, (p, q), how == "compiled")
            variants.append(Variant(name, build, work(dtype, dtype), "pytorch", adapt=partial(all_in, dtype)))
        else:
            build = partial(on_backend, how, partial(ops.patch_head, patch_size=(p, q)))
            variants.append(Variant(name, build, work(size.dtype, dtype), adapt=partial(_weight_in, dtype)))
    return Problem(
        case="patch_head",
        op="patch_head",
        size=size,
        shape=(B, h, w, D),
        sample=sample,
        exact=partial(_exact, (p, q)),
        variants=variants,
    )


def _exact(patch: tuple[int, int], tensors: Sequence[Tensor]) -> Tensor:
    tokens, weight = (t.double() for t in tensors)
    return reference.patch_head(tokens, weight, None, patch)


def _plain(patch: tuple[int, int], compile: bool) -> Call:
    run = partial(_head, patch)
    head = compiled(run) if compile else run
    return lambda tensors: head(*tensors)


def _head(patch: tuple[int, int], tokens: Tensor, weight: Tensor) -> Tensor:
    """As AFNONet has it: a linear layer, then `b h w (p q c) -> b c (h p) (w q)`."""
    (B, h, w, _), (p, q) = tokens.shape, patch
    y = F.linear(tokens, weight).view(B, h, w, p, q, -1)
    return y.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, h * p, w * q)


def _weight_in(dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensors[0], tensors[1].to(dtype)]


CASE = Case(
    name="patch_head",
    summary="tokens to fields: a linear layer a token, whose outputs are the points of its patch",
    axes=EMBED.axes,
    shapes=EMBED.shapes,
    dtypes=(torch.float32,),
    ours=ours,
    peers=peers,
    problem=problem,
    baselines=PYTORCH,
)
