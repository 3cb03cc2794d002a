"""Triton's interpreter with the conversions of e4m3 of GPUs: its own carry wrongly, and know no NaN."""

from functools import cache
from typing import Any

import torch

from wxkernels.ops import _triton


@cache
def mend_e4m3() -> None:
    """Convert to and from e4m3 as PyTorch does, where this process interprets."""
    if not _triton.interpreting():
        return
    import triton.language as tl
    from triton.runtime import interpreter

    own = interpreter._convert_float
    dtypes = {tl.float8e4nv: torch.float8_e4m3fn, tl.float16: torch.float16, tl.float32: torch.float32}

    def convert(values: Any, source: Any, target: Any, rounding: Any) -> Any:
        if tl.float8e4nv not in (source, target):
            return own(values, source, target, rounding)
        found = torch.tensor(values).view(dtypes[source]).to(dtypes[target])
        return found.view(torch.uint8).numpy() if target == tl.float8e4nv else found.numpy()

    interpreter._convert_float = convert
