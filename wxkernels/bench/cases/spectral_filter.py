"""The AFNO spectral filter against the plain PyTorch layer, eager and compiled."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from wxkernels import backends as choice
from wxkernels import ops
from wxkernels.bench.engine import Call, Problem, Variant
from wxkernels.errors import UserError
from wxkernels.ops.spectral_filter import OP, reference

AXES = "H x W x C x blocks"
SHAPES = {
    "fourcastnet": (90, 180, 768, 8),
    "physicsnemo-default": (45, 90, 256, 16),
    "shallow-water": (16, 32, 128, 8),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def backends(device: torch.device) -> dict[str, str | None]:
    """Every variant by name: None where it runs on `device`, else the reason."""
    found: dict[str, str | None] = {"eager": None, "compiled": None}
    probe = [
        torch.zeros(shape, device=device)
        for shape in ((1, 2, 2, 2), (2, 1, 2, 2), (2, 1, 2), (2, 1, 2, 2), (2, 1, 2))
    ]
    for name, implementation in OP.implementations.items():
        if name != "reference":  # that is "eager"
            found[name] = implementation.unavailable() or implementation.unsupported(*probe)
    return found


def problem(
    batch: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, names: Sequence[str]
) -> Problem:
    H, W, C, nb = shape
    if C % nb:
        raise UserError(f"shape: {C} channels do not divide into {nb} blocks")
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator) * scale).to(device)

    bs = C // nb
    weights = [normal(2, nb, bs, bs, scale=0.02), normal(2, nb, bs, scale=0.02)]
    weights += [normal(2, nb, bs, bs, scale=0.02), normal(2, nb, bs, scale=0.02)]
    inputs = [[normal(batch, H, W, C).to(dtype), *weights] for _ in range(2)]
    here = backends(device)
    variants = [
        Variant(
            name,
            None if here[name] else _call(name, dtype, device),
            here[name],
            name in ("eager", "compiled"),
        )
        for name in names
    ]
    return Problem(
        op="spectral_filter",
        shape=(batch, H, W, C),
        dtype=dtype,
        inputs=inputs,
        exact=_exact,
        variants=variants,
        flops=flops(batch, H, W, C, nb),
        bytes=2 * batch * H * W * C * dtype.itemsize + sum(w.nbytes for w in weights),
        command=(
            f"wxkernels-bench spectral_filter --shape {'x'.join(map(str, shape))} --batch {batch}"
            f" --dtype {str(dtype).removeprefix('torch.')} --threads {torch.get_num_threads()}"
        ),
    )


def _exact(tensors: Sequence[Tensor]) -> Tensor:
    x, w1, b1, w2, b2 = (t.double() for t in tensors)
    return reference.spectral_filter(x, w1, b1, w2, b2, 0.01, 1.0)


def flops(batch: int, H: int, W: int, C: int, nb: int) -> float:
    """The block MLP on the kept modes, three real products a complex one; transforms of 2.5, 5 n log2 n."""
    start, stop, columns = reference.kept_modes(H, W, 1.0)
    mlp = 2 * 6 * (stop - start) * columns * C * (C // nb)
    transforms = 2 * C * (H * 2.5 * W * _log2(W) + columns * 5 * H * _log2(H))
    return batch * (mlp + transforms)


def _log2(n: int) -> float:
    return torch.log2(torch.tensor(float(n))).item()


def _call(name: str, dtype: torch.dtype, device: torch.device) -> Call:
    if name in ("eager", "compiled"):
        return _plain(dtype, device, compiled=name == "compiled")

    def run(tensors: Sequence[Tensor]) -> Tensor:
        with choice.use(name):
            return ops.spectral_filter(*tensors)

    return run


def _plain(dtype: torch.dtype, device: torch.device, *, compiled: bool) -> Call:
    """The PyTorch layer; for a half dtype under autocast, so that its products run in that dtype too."""
    layer: Callable[..., Tensor] = reference.spectral_filter
    if compiled:
        layer = torch.compile(layer, dynamic=False)
    half = dtype in (torch.bfloat16, torch.float16)

    def run(tensors: Sequence[Tensor]) -> Tensor:
        with torch.autocast(device.type, dtype=dtype) if half else nullcontext():
            return layer(*tensors, 0.01, 1.0)

    return run
