"""Which implementation of an op runs here, and why not the others."""

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from types import ModuleType

import torch
from torch import Tensor

from wxkernels import _native
from wxkernels.errors import UserError

log = logging.getLogger("wxkernels")

#: Backends whose choice on a GPU waits for a record of its tests (verified.json).
GPU_BACKENDS = ("cuda", "triton")

_forced: ContextVar[str | None] = ContextVar("wxkernels_backend", default=None)
_ops: dict[str, "Op"] = {}


class Op:
    """One operation and its backends, in order of preference.

    A backend is a module with `unavailable()` and `unsupported(*tensors)` (each a reason, or None) and a
    function that has the op's name. tested_with: the op whose tests are those of this one too.
    """

    def __init__(self, name: str, implementations: dict[str, ModuleType], tested_with: str | None = None):
        self.name = name
        self.record = tested_with or name
        self.implementations = implementations
        self._told: set[str] = set()
        _ops[name] = self

    def choose(self, *tensors: Tensor) -> ModuleType:
        """The backend for this call. One that the user named and that cannot run raises RuntimeError.

        An op that has no backend of that name runs on the best of its own.
        """
        name = forced()
        if name and not _having(name):
            raise RuntimeError(f"{self.name}: {_unknown(name)}")
        if name in self.implementations:
            implementation = self.implementations[name]
            reason = implementation.unavailable() or implementation.unsupported(*tensors)
            if reason:
                raise RuntimeError(
                    f"{self.name}: backend {name!r} was asked for, but {reason}; name another, or none"
                )
            return implementation
        for name, implementation in self._in_order(tensors[0]):
            reason = implementation.unavailable() or implementation.unsupported(*tensors)
            if reason is None and name in GPU_BACKENDS:
                reason = self._unproven(name, tensors[0])
            if reason is None:
                return implementation
            self._tell(name, reason, tensors[0])
        raise RuntimeError(f"{self.name}: no backend takes this call")

    def _in_order(self, x: Tensor) -> Iterable[tuple[str, ModuleType]]:
        """The backends, those of GPUs by the speed in their records on x's architecture."""
        found = self.implementations.items()
        if x.device.type == "cpu":
            return found
        architecture = device_architecture(x.device)

        def place(item: tuple[str, ModuleType]) -> float:
            if item[0] in GPU_BACKENDS:
                return -verified().get((self.record, item[0], architecture), 0.0)
            return 1.0 if item[0] == "reference" else -math.inf

        return sorted(found, key=place)

    def _unproven(self, name: str, x: Tensor) -> str | None:
        architecture = device_architecture(x.device)
        if (self.record, name, architecture) in verified():
            return None
        return (
            f"on {architecture} it has no record of its tests, or one of being slower than PyTorch;"
            f" choose it with wxkernels.backends.use({name!r})"
        )

    def _tell(self, name: str, reason: str, x: Tensor) -> None:
        key = f"{name} on {x.device.type}, {x.dtype}"
        if key not in self._told:
            self._told.add(key)
            log.info("%s: %s is passed over (%s)", self.name, key, reason)


def forced() -> str | None:
    """The backend that `use` or the environment names for all ops; None where each call chooses."""
    return _forced.get() or os.environ.get("WXKERNELS_BACKEND") or None


@contextmanager
def use(name: str) -> Iterator[None]:
    """Run every op that has the backend `name` on it inside the block.

    The environment variable WXKERNELS_BACKEND does the same for a whole process. UserError: there is no such
    backend, or it cannot run on this machine; a call that it does not take raises RuntimeError.
    """
    if not _having(name):
        raise UserError(_unknown(name))
    reasons = [implementation.unavailable() for implementation in _having(name)]
    if all(reasons):
        raise UserError(f"backend {name} cannot run here: {reasons[0]}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def _having(name: str) -> list[ModuleType]:
    """What the ops have under the name of a backend."""
    return [op.implementations[name] for op in _ops.values() if name in op.implementations]


def _unknown(name: str) -> str:
    known = dict.fromkeys(known for op in _ops.values() for known in op.implementations)
    return f"there is no backend {name!r}; choose one of {', '.join(known)}"


@torch.compiler.assume_constant_result
def has_gpu_kernel(name: str, device: torch.device) -> bool:
    """Whether the op runs on a GPU kernel of ours: one that was asked for, or that has a record there."""
    op = _ops[name]
    implementations = op.implementations
    forced = _forced.get() or os.environ.get("WXKERNELS_BACKEND")
    if forced in implementations:
        return forced in GPU_BACKENDS
    architecture = device_architecture(device)
    return any((op.record, backend, architecture) in verified() for backend in implementations)


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Hold the CPU kernels to an instruction set inside the block, in all threads.

    name: "scalar", "avx2", "avx512", "avx512_bf16" or "amx"; ValueError where it does not run. The
    environment variable WXKERNELS_ISA does the same from the start.
    """
    if _native.core is None:
        raise RuntimeError(_native.reason)
    before = _native.core.isa()
    _native.core.set_isa(name)
    try:
        yield
    finally:
        _native.core.set_isa(before)


def check_environment() -> None:
    """UserError where WXKERNELS_BACKEND or WXKERNELS_ISA asks for what cannot run here."""
    if name := os.environ.get("WXKERNELS_BACKEND"):
        with use(name):
            pass
    if _native.core is not None:
        try:
            _native.core.isa()
        except ValueError as error:
            raise UserError(f"WXKERNELS_ISA: {error}") from None


def device_architecture(device: torch.device) -> str:
    """The name a record of verified.json carries for a device: "sm_90", "gfx942", or "cpu"."""
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@cache
def verified() -> dict[tuple[str, str, str], float]:
    """The speed over PyTorch by (op, backend, architecture) whose tests passed on a GPU, from verified.json.

    0 where it was not measured; without those that are slower; empty where there is no such file.
    """
    path = files("wxkernels") / "verified.json"
    if not path.is_file():
        return {}
    records = json.loads(path.read_text())["records"]
    return {
        (r["op"], r["backend"], r["architecture"]): r["speedup"] or 0.0
        for r in records
        if r["speedup"] is None or r["speedup"] >= 1
    }


def table() -> list[tuple[str, str, str]]:
    """Rows (op, backend, "runs" or the reason why it does not) for this machine."""
    return [
        (op.name, name, implementation.unavailable() or "runs")
        for op in _ops.values()
        for name, implementation in op.implementations.items()
    ]
