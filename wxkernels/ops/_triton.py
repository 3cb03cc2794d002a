"""What the Triton backends share: the target, a launch, and the reasons why there is none.

Does not import triton, so that it and the backends can be imported without.
"""

import importlib
import importlib.util
import json
import math
import os
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from wxkernels import _native, backends
from wxkernels.ops import _cuda

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: Rows further apart are copied next to each other: offsets inside a tile of 128 rows are 32-bit.
MAX_STRIDE = 2**24

#: Of a number in a tensor, where offsets are 32-bit: those of the last tile pass its end.
MAX_OFFSET = 2**31 - 2**20


@dataclass(frozen=True)
class Target:
    """A GPU architecture, its warp, and how `tl.dot` multiplies float32 there: "ieee", "tf32x3" or "tf32"."""

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
    """A kernel launch: `run` makes it, ci/aot.py compiles the same for GPUs that are not here.

    extents: what the tiles cover, by the constants that cut it, in each of `samples`. shape: names of the
    arguments that are sizes of a layer or a sample. How many rows or samples come together is none of them:
    tiles that are stored by `key` cannot make a row's bits depend on it.
    """

    op: str
    kernel: str
    extents: dict[str, int]
    shape: tuple[str, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    tiles: Tiles
    samples: int = 1

    @property
    def programs(self) -> int:
        return self.samples * self.tiles.count(**self.extents)

    @property
    def options(self) -> dict[str, Any]:
        """Constants, tiles and schedule."""
        schedule = {"num_warps": self.tiles.num_warps, "num_stages": self.tiles.num_stages}
        return self.constants | self.tiles.sizes | schedule

    @property
    def key(self) -> str:
        """What its tiles are stored by: kernel, sizes, dtypes and constants."""
        parts = {name: self.arguments[name] for name in self.shape}
        for name, value in self.arguments.items():
            if isinstance(value, Tensor):
                parts[name] = str(value.dtype).removeprefix("torch.")
        return " ".join([self.kernel, *(f"{name}={part}" for name, part in (parts | self.constants).items())])


def kernel(op: str, name: str) -> Any:
    """The kernel `name` of an op's triton_kernels. Imports triton."""
    return getattr(importlib.import_module(f"wxkernels.ops.{op}.triton_kernels"), name)


def run(launches: Iterable[Launch], device: torch.device) -> None:
    """Make them, each with the tiles stored for it on this device, or else its own."""
    stored = tuned(backends.device_architecture(device))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for launch in launches:
            start(replace(launch, tiles=stored.get(launch.key, launch.tiles)) if stored else launch)


def start(launch: Launch) -> Any:
    """Make a launch, if it has programs; the compiled kernel, None from the interpreter."""
    if not launch.programs:
        return None
    return kernel(launch.op, launch.kernel)[(launch.programs,)](**launch.arguments, **launch.options)


@cache
def tuned(architecture: str) -> dict[str, Tiles]:
    """Tiles by the keys of launches, from tiles.json if there is one: what ci/tune.py found faster on a GPU.

    Only those found with the Triton that is installed: another may need more shared memory for them.
    """
    path = files("wxkernels.ops") / "tiles.json"
    if not path.is_file():
        return {}
    version = importlib.import_module("triton").__version__
    return {
        record["launch"]: Tiles(record["sizes"], record["num_warps"], record["num_stages"])
        for record in json.loads(path.read_text())["records"]
        if (record["architecture"], record["triton"]) == (architecture, version)
    }


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


def unsupported_e4m3(x: Tensor) -> str | None:
    return None if interpreting() else without_e4m3(Target.of(x.device))


def without_e4m3(target: Target) -> str | None:
    """Why a target does not multiply float8_e4m3fn."""
    if target.backend == "hip":
        kind = "its fnuz kind alone" if target.arch == "gfx942" else "none"
        return f"it multiplies e4m3 on NVIDIA GPUs alone; of e4m3 {target.arch} has {kind}"
    assert isinstance(target.arch, int)
    return f"sm_{target.arch} has no e4m3; it takes sm_89 or newer" if target.arch < 89 else None


def rows(x: Tensor) -> Tensor:
    """x (..., K) as (rows, K) with unit stride over K: a view where the strides allow one, else a copy."""
    x = _native.rows(x)
    return x if x.stride(0) <= MAX_STRIDE else x.contiguous()


def operands(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """x and a contiguous weight for a kernel that rounds x to the dtype of weight.

    What has to be float32 is widened here: seeing that done, Triton 3.7 multiplies in TF32 on sm_100, and
    rounds the other operand.
    """
    if weight.dtype != torch.bfloat16:
        dtype = weight.dtype if weight.dtype == x.dtype else torch.float32
        x, weight = x.to(dtype), weight.to(dtype)
    return x, weight.contiguous()


def cover(n: int) -> int:
    """The power of two that covers n."""
    return 1 << (n - 1).bit_length()


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
