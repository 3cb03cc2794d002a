"""What machine this is, and in what state: the header that stands with every table of results."""

import os
import platform
import re
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import wxkernels
from wxkernels import _native

_CPU = Path("/sys/devices/system/cpu/cpu0")
_SMI = {  # nvidia-smi's names, ours
    "clocks.sm": "clock_mhz",
    "clocks.max.sm": "clock_max_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
    "temperature.gpu": "temperature_c",
}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = _read("/proc/cpuinfo").splitlines()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    model = next(models, platform.processor() or platform.machine())
    isa = _native.core.isa() if _native.core else "no native kernels"
    return f"{model}, {torch.get_num_threads()} threads, {isa}"


def cache_bytes(device: torch.device) -> int | None:
    """The size of the last level cache; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [_read(path).strip() for path in _CPU.glob("cache/index*/size")]
    units = {"K": 2**10, "M": 2**20}
    return max((int(s[:-1]) * units[s[-1]] for s in sizes if re.fullmatch(r"\d+[KM]", s)), default=None)


def conditions(device: torch.device) -> dict[str, Any]:
    """The device and its state now, the versions of what ran; None for what the system does not tell."""
    cache = cache_bytes(device)
    state = _gpu(device) if device.type == "cuda" else _cpu()
    return {
        "device": device_name(device),
        "type": device.type,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "cache_mbytes": cache and round(cache / 2**20, 1),
        **state,
        "wxkernels": wxkernels.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peers": _versions(
            "torchao", "onnxruntime", "openvino", "nncf", "torch-tensorrt", "ai-models-fourcastnet"
        ),
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _cpu() -> dict[str, Any]:
    """Memory, and the clock of the fastest core now and at most."""
    now = [float(mhz) for mhz in re.findall(r"cpu MHz\s*: ([\d.]+)", _read("/proc/cpuinfo"))]
    most = _read(_CPU / "cpufreq/cpuinfo_max_freq").strip()
    total = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return {
        "memory_gbytes": total and round(int(total[1]) * 1024 / 1e9, 1),
        "clock_mhz": max(now, default=None),
        "clock_max_mhz": int(most) / 1e3 if most else None,
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    """Memory, and what nvidia-smi tells of clocks, power and temperature."""
    properties = torch.cuda.get_device_properties(device)
    return {"memory_gbytes": round(properties.total_memory / 1e9, 1), **smi(f"GPU-{properties.uuid}")}


def smi(gpu: str) -> dict[str, float | None]:
    """Clocks, power and temperature of a GPU by its identifier, of those that nvidia-smi tells."""
    known: dict[str, float | None] = dict.fromkeys(_SMI.values())
    program = shutil.which("nvidia-smi")
    if program is None:
        return known
    query = [program, "-i", gpu, f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    values = done.stdout.strip().split(", ")
    if done.returncode or len(values) != len(_SMI):
        return known
    return {
        name: float(value) if re.fullmatch(r"[\d.]+", value) else None
        for name, value in zip(_SMI.values(), values, strict=True)
    }


def load() -> float | None:
    """Processes that ran or waited to, on average of the last minute; before a run those of others."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    installed = {p.metadata["Name"]: p.version for p in metadata.distributions()}
    return {name: installed[name] for name in packages if name in installed}


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


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
