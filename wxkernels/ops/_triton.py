"""What the Triton backends share: the target, a launch, and the reasons why there is none.

Does not import triton, so that it and the backends can be imported without.
"""

import importlib
import importlib.util
import math
import os
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wxkernels import _native
from wxkernels.ops import _cuda

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: Rows further apart are copied next to each other: offsets inside a tile of 128 rows are 32-bit.
MAX_STRIDE = 2**24


@dataclass(frozen=True)
class Target:
    """A GPU architecture, its warp, and how `tl.dot` multiplies float32 there: "ieee" or "tf32x3"."""

    backend: str  # "cuda" or "hip"
    arch: int | str  # 80, 90, 100 ... or "gfx90a", "gfx942" ...
    warp: int = 32  # threads
    float32: str = "ieee"

    @classmethod
    def of(cls, device: torch.device) -> "Target":
        if device.type != "cuda":  # the interpreter
            return cls("cuda", 80)
        properties = torch.cuda.get_device_properties(device)
        if torch.version.hip:
            return cls("hip", properties.gcnArchName.split(":")[0], properties.warp_size)
        arch = 10 * properties.major + properties.minor
        return cls("cuda", arch, properties.warp_size, "tf32x3" if _cuda.tf32_allowed() else "ieee")


@dataclass(frozen=True)
class Tiles:
    """Tile sizes of a launch, by the names of the kernel's constants, and its schedule."""

    sizes: dict[str, int]
    num_warps: int
    num_stages: int

    def count(self, **extents: int) -> int:
        """How many tiles cover these extents, each named by the constant that cuts it."""
        return math.prod(-(-extent // self.sizes[name]) for name, extent in extents.items())


@dataclass(frozen=True)
class Launch:
    """A kernel launch: `run` makes it, ci/aot.py compiles the same for GPUs that are not here."""

    op: str
    kernel: str
    programs: int
    arguments: dict[str, Any]
    constants: dict[str, Any]
    tiles: Tiles


def kernel(op: str, name: str) -> Any:
    """The kernel `name` of an op's triton_kernels. Imports triton."""
    return getattr(importlib.import_module(f"wxkernels.ops.{op}.triton_kernels"), name)


def run(launches: Iterable[Launch], device: torch.device) -> None:
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for launch in launches:
            if launch.programs:
                tiles = launch.tiles
                schedule = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
                constants = launch.constants | tiles.sizes | schedule
                kernel(launch.op, launch.kernel)[(launch.programs,)](**launch.arguments, **constants)


def unavailable() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install 'wxkernels[triton]'"
    if not (interpreting() or torch.cuda.is_available()):
        return "torch finds no CUDA or ROCm device"
    return None


def unsupported(**tensors: Tensor | None) -> str | None:
    """Why floating tensors, the first of which decides the device, cannot go to a kernel."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in DTYPES:
            return f"{name} is {tensor.dtype}; it takes float32, float16 and bfloat16"
        if tensor is not None and tensor.dtype == torch.bfloat16 and interpreting():
            return f"{name} is bfloat16, which Triton's interpreter gets wrong; use float32 or float16 there"
    return None


def unsupported_device(x: Tensor) -> str | None:
    if interpreting():
        return None
    if x.device.type != "cuda":
        return f"x is on {x.device}; it needs a CUDA or ROCm device"
    if torch.version.hip is None and torch.cuda.get_device_capability(x.device) < (8, 0):
        return "the GPU is older than sm_80"
    return None


def rows(x: Tensor) -> Tensor:
    """x (..., K) as (rows, K) with unit stride over K: a view where the strides allow one, else a copy."""
    x = _native.rows(x)
    return x if x.stride(0) <= MAX_STRIDE else x.contiguous()


def cover(n: int) -> int:
    """The power of two that covers n."""
    return 1 << (n - 1).bit_length()


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
