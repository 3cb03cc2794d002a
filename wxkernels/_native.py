"""The compiled module, or the reason why it is missing (told when it is needed, not at import).

And how tensors reach it: as addresses, with the names of their dtypes.
"""

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

#: The number of the compiled module's interface, in csrc/bindings.cpp too.
INTERFACE = 2


def stale(module: ModuleType) -> str | None:
    """Why a compiled module cannot be called: it was built from other sources."""
    if getattr(module, "interface", None) == INTERFACE:
        return None
    return (
        "the compiled module wxkernels._core was built from other sources than this Python code;"
        " rebuild it: `pip install -e .`"
    )


core: ModuleType | None = None
reason: str | None = None

try:
    from wxkernels import _core
except ImportError as error:
    reason = f"the compiled module wxkernels._core cannot be loaded ({error})"
    if (Path(__file__).parents[1] / "CMakeLists.txt").is_file():
        reason += "; this is the source tree: leave its folder, or `pip install -e .`"
    else:
        reason += "; run `pip install .` again"
else:
    reason = stale(_core)
    core = None if reason else _core

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def unsupported(name: str, x: Tensor) -> str | None:
    """Why a floating x, called `name`, cannot go to the compiled module."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, and {name} is on {x.device}"
    if x.dtype not in DTYPES:
        return f"it takes {', '.join(DTYPES.values())}, and {name} is {str(x.dtype).removeprefix('torch.')}"
    return None


def address(tensor: Tensor | None) -> int:
    """0 for an absent one. The caller keeps the tensor alive while the address is in use."""
    return 0 if tensor is None else tensor.data_ptr()


def rows(x: Tensor) -> Tensor:
    """x (..., C) as (rows, C) with unit stride over C: a view where the strides allow one, else a copy."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def float32(tensor: Tensor | None) -> Tensor | None:
    """Parameters as the compiled module takes them: contiguous float32."""
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def weight(tensor: Tensor) -> tuple[Tensor, str]:
    """A contiguous weight and the dtype of its products: bfloat16 and int8 as they are, others in float32."""
    if tensor.dtype == torch.int8:
        return tensor.contiguous(), "int8"
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous(), "bfloat16"
    return tensor.to(torch.float32).contiguous(), "float32"
