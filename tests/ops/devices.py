"""Where GPU kernels run in their tests: on the CPU (Triton's in its interpreter) and on a GPU."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from wxkernels.ops import _triton

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
#: Of this process; "cpu", where Triton interprets, unless the tests say else.
DEVICE = os.environ.get("WXKERNELS_TEST_DEVICE", "cpu")
DTYPES = ["float32", "float16"]
if "cuda" in DEVICES and os.environ.get("TRITON_INTERPRET") != "1":
    DTYPES += ["bfloat16"]  # which the interpreter gets wrong
QUANTISED = {"int8": torch.int8, "e4m3": torch.float8_e4m3fn}
if "cuda" in DEVICES and _triton.without_e4m3(_triton.Target.of(torch.device("cuda"))):
    del QUANTISED["e4m3"]


def moved(value: Any, device: str) -> Any:
    """Tensors on a device, their strides and what lies between them included; all else as it is."""
    if isinstance(value, (list, tuple)):
        return type(value)(moved(v, device) for v in value)
    if not isinstance(value, torch.Tensor) or value.device.type == device:
        return value
    whole = torch.empty(0, dtype=value.dtype, device=value.device).set_(value.untyped_storage())
    return whole.to(device).as_strided(value.shape, value.stride(), value.storage_offset())


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` on DEVICE, for tensors that are on the CPU and results that shall be there."""

    @functools.wraps(function)
    def call(*arguments, **options):
        options = {name: moved(value, DEVICE) for name, value in options.items()}
        return moved(function(*moved(arguments, DEVICE), **options), "cpu")

    return call
