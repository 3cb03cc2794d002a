"""How an op enters PyTorch: schema, kernel for CPU and CUDA, fake, gradient. The same for every op."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from wxkernels.backends import Op

QUANTISED = (torch.int8, torch.float8_e4m3fn)


def register(op: Op, schema: str, fake: Callable[..., Any], batched: Sequence[str] = ("x",)) -> None:
    """Define torch.ops.wxkernels.<op>: `schema` names and types the arguments that every backend takes.

    On the call the backend is chosen from the tensors, given in their order (None for an absent one). Where
    it is the reference, it gets one sample at a time: the tensors of `batched` are cut along their first
    dimension, and no sample's bits depend on the batch. Autocast does not reach into an op: it computes in
    the dtype of its weights. The gradient is that of the reference, recomputed; where an operand or a result
    is int8 or e4m3, results are detached, as those of torch.argmax are.
    """
    declared = [argument.split() for argument in schema[1 : schema.index(")")].split(", ")]
    is_tensor = [kind.startswith("Tensor") for kind, _ in declared]
    is_batched = [name in batched for _, name in declared]
    compute = getattr(op.implementations["reference"], op.name)

    def run(*args: Any) -> Any:
        backend = op.choose(*(arg for arg, chosen in zip(args, is_tensor, strict=True) if chosen))
        if backend is not op.implementations["reference"]:
            return getattr(backend, op.name)(*args)
        x = args[0]
        with torch.autocast(x.device.type, enabled=False):
            if x.dim() < 3 or len(x) == 0:
                return compute(*args)
            return _each_sample(compute, args, is_batched)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        if any(isinstance(t, Tensor) and t.dtype in QUANTISED for t in (*inputs, *outputs)):
            ctx.mark_non_differentiable(*outputs)
        ctx.save_for_backward(*(arg if isinstance(arg, Tensor) else None for arg in inputs))
        ctx.settings = [None if isinstance(arg, Tensor) else arg for arg in inputs]

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad
        args = [
            setting if tensor is None else tensor.detach().requires_grad_(wanted)
            for setting, tensor, wanted in zip(ctx.settings, ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad(), torch.autocast(args[0].device.type, enabled=False):
            y = compute(*args)
        wanted = [arg for arg, wanted in zip(args, needed, strict=True) if wanted]
        found = iter(torch.autograd.grad(y, wanted, grads, allow_unused=True))
        return tuple(next(found) if wanted else None for wanted in needed)

    name = f"wxkernels::{op.name}"
    torch.library.define(name, schema)
    torch.library.impl(name, ("CPU", "CUDA"), run)
    torch.library.register_fake(name, fake)
    torch.library.register_autograd(name, backward, setup_context=setup_context)


def _each_sample(compute: Callable[..., Any], args: Sequence[Any], is_batched: Sequence[bool]) -> Any:
    """compute(*args), sample by sample: BLAS and vector loops choose their order by shape and alignment.

    So each sample comes alone and as a fresh, aligned copy.
    """

    def sample(i: int, arg: Any, cut: bool) -> Any:
        if not cut or arg is None or arg.dim() == 0:
            return arg
        return arg[i : i + 1].clone(memory_format=torch.contiguous_format)

    results = [
        compute(*(sample(i, arg, cut) for arg, cut in zip(args, is_batched, strict=True)))
        for i in range(len(args[0]))
    ]
    if isinstance(results[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))
    return torch.cat(results)
