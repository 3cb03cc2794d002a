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

_CPUS = Path("/sys/devices/system/cpu")
_STAT = "/proc/stat"
_LOOK_SECONDS = 0.3
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
    """The last level caches of all processors that this process may use; None where the system is silent."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    units = {"K": 2**10, "M": 2**20}
    found: dict[tuple[str, str], int] = {}
    for cpu in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ():
        for index in (_CPUS / f"cpu{cpu}/cache").glob("index*"):
            told = (_read(index / name).strip() for name in ("level", "shared_cpu_list", "size"))
            level, shared, size = told
            if re.fullmatch(r"\d+[KM]", size):
                found[level, shared] = int(size[:-1]) * units[size[-1]]
    last = max((level for level, _ in found), default="")
    return sum(size for (level, _), size in found.items() if level == last) or None


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
    most = _read(_CPUS / "cpu0/cpufreq/cpuinfo_max_freq").strip()
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
    """Processors that others keep busy while this process sleeps; None where the system does not tell."""
    before, begin = _busy(), time.perf_counter()
    time.sleep(_LOOK_SECONDS)
    after, end = _busy(), time.perf_counter()
    return None if before is None or after is None else round((after - before) / (end - begin), 2)


def _busy() -> float | None:
    """Seconds that all processors worked since the start of the system."""
    found = re.match(r"cpu +(\d+) (\d+) (\d+) \d+ \d+ (\d+) (\d+) (\d+)", _read(_STAT))
    return sum(map(int, found.groups())) / os.sysconf("SC_CLK_TCK") if found else None


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    installed = {p.metadata["Name"]: p.version for p in metadata.distributions()}
    return {name: installed[name] for name in packages if name in installed}


def _commit() -> str | None:
    """The commit of the checkout that holds this file, "-dirty" if more than results has changed.

    None for an installed package.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "--short", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
    return commit and commit + ("-dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
