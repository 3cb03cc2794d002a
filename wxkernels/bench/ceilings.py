"""What a device can do at most, measured in the run that uses it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from wxkernels import _native
from wxkernels.bench.machine import device_name


@dataclass(frozen=True)
class Ceilings:
    """Peaks of a device: operations/s by dtype of their operands, bytes/s of copy and triad.

    None: not measured. A copy reads one array and writes one, a triad (a = b + s c) reads two and writes one.
    The copy is the faster of PyTorch's and, on a CPU, one whose stores pass the caches by.
    """

    device: str
    flops: dict[torch.dtype, float]
    copy: float | None
    triad: float | None = None

    @property
    def bandwidth(self) -> float | None:
        return max((rate for rate in (self.copy, self.triad) if rate), default=None)

    def conditions(self) -> dict[str, Any]:
        """What of them belongs to the header of results, in 1e9 a second."""
        return {
            "peak_gflops": {str(k).removeprefix("torch."): round(v / 1e9) for k, v in self.flops.items()},
            "copy_gbytes": self.copy and round(self.copy / 1e9, 1),
            "triad_gbytes": self.triad and round(self.triad / 1e9, 1),
        }


def measure_ceilings(device: torch.device, *, quick: bool = False) -> Ceilings:
    """The larger of a register loop and a product of n x n by dtype; copy and triad in memory.

    `quick` takes smaller products and arrays, which come less close to the peaks.
    """
    n = 512 if quick else 2048 if device.type == "cpu" else 8192
    peaks: dict[torch.dtype, float] = {}
    if device.type == "cpu" and _native.core:
        # Before any product: PyTorch's threads spin on after one, and took a fifth of the peak measured then.
        found = _native.core.peak_flops(torch.get_num_threads())
        peaks = {getattr(torch, name): flops for name, flops in found.items()}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if dtype == torch.float16 and device.type == "cpu":
            continue  # CPUs without float16 products: the kernels compute it in float32
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        product = 2 * n**3 / _best_seconds(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
        peaks[dtype] = max(product, peaks.get(dtype, 0.0))
    a, b = (torch.randint(-127, 128, (n, n), dtype=torch.int8, device=device) for _ in range(2))
    product = 2 * n**3 / _best_seconds(lambda: torch._int_mm(a, b), device)
    peaks[torch.int8] = max(product, peaks.get(torch.int8, 0.0))
    if device.type == "cpu":
        peaks[torch.float16] = peaks[torch.float32]
    elif torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9):
        x, y = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        one = torch.ones((), device=device)
        multiply = partial(torch._scaled_mm, x, y, one, one, out_dtype=torch.bfloat16)
        peaks[x.dtype] = 2 * n**3 / _best_seconds(multiply, device)
    first, second = torch.randn(2, (32 if quick else 256) * 2**20 // 4, device=device)
    target = torch.empty_like(first)
    copy = 2 * first.nbytes / _best_seconds(lambda: target.copy_(first), device)
    if device.type == "cpu" and _native.core:
        copy = max(copy, _native.core.copy_rate(first.nbytes, torch.get_num_threads()))
    triad = 3 * first.nbytes / _best_seconds(lambda: torch.add(first, second, alpha=3, out=target), device)
    return Ceilings(device_name(device), peaks, copy, triad)


def _best_seconds(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    best = float("inf")
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return best
