"""What machine this is and what it can do at most, measured in the run that uses it."""

import platform
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

import wxkernels
from wxkernels import _native


@dataclass(frozen=True)
class Ceilings:
    """Peaks of a device: operations/s by dtype of their operands, bytes/s of a copy (None: not measured)."""

    device: str
    flops: dict[torch.dtype, float]
    bandwidth: float | None


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    isa = _native.core.isa() if _native.core else "no native kernels"
    return f"{model}, {torch.get_num_threads()} threads, {isa}"


def measure_ceilings(device: torch.device) -> Ceilings:
    """Peak operations/s (largest of a register loop and a 2048^3 product) and copy bandwidth of `device`."""
    n = 2048 if device.type == "cpu" else 8192
    peaks: dict[torch.dtype, float] = {}
    if device.type == "cpu" and _native.core:
        # Before any product: PyTorch's threads spin on after one, and took a fifth of the peak measured then.
        found = _native.core.peak_flops(torch.get_num_threads())
        peaks = {getattr(torch, name): flops for name, flops in found.items()}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if dtype == torch.float16 and device.type == "cpu":
            continue  # CPUs without float16 products: the kernels compute it in float32
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        product = 2 * n**3 / _best_seconds(lambda a=a, b=b: a @ b, device)
        peaks[dtype] = max(product, peaks.get(dtype, 0.0))
    a, b = (torch.randint(-127, 128, (n, n), dtype=torch.int8, device=device) for _ in range(2))
    product = 2 * n**3 / _best_seconds(lambda: torch._int_mm(a, b), device)
    peaks[torch.int8] = max(product, peaks.get(torch.int8, 0.0))
    if device.type == "cpu":
        peaks[torch.float16] = peaks[torch.float32]
    source = torch.randn((256 << 20) // 4, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device)
    return Ceilings(device_name(device), peaks, bandwidth)


def conditions(device: torch.device, ceilings: Ceilings) -> dict[str, object]:
    """The header that stands with every table of results."""
    return {
        "device": ceilings.device,
        "threads": torch.get_num_threads(),
        "peak_gflops": {str(k).removeprefix("torch."): round(v / 1e9) for k, v in ceilings.flops.items()},
        "copy_gbytes": ceilings.bandwidth and round(ceilings.bandwidth / 1e9, 1),
        "wxkernels": wxkernels.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peers": _versions("torchao", "onnxruntime", "openvino", "nncf", "ai-models-fourcastnet"),
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    installed = {p.metadata["Name"]: p.version for p in metadata.distributions()}
    return {name: installed[name] for name in packages if name in installed}


def _best_seconds(call, device: torch.device, repeats: int = 5) -> float:
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


def _commit() -> str | None:
    """The commit of the checkout that holds this file; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
