"""The forward of a patched module: when our ops answer a call, and with which weights."""

import functools
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from wxkernels import backends
from wxkernels.capture import Captured
from wxkernels.patching import blocks, filters, hosts, networks
from wxkernels.quantization import LayerScheme

log = logging.getLogger("wxkernels")

#: What is replaced, from the whole to its parts. Each is a Python module: KIND, OPS and LAYERS name it;
#: is_candidate, unfit, absorbed and takes tell what it stands in for; run computes, with the weights of the
#: module or those of convert; signature, stand_in, cases and trial are for the probe.
LEVELS: dict[str, ModuleType] = {level.KIND: level for level in (networks, blocks, filters)}


class PatchedForward:
    """The `forward` of one patched module. It holds the module, so that a copy or pickle binds to its own.

    schemes: of the module's layers, where it does not run in the precision of its parameters. The converted
    weights are held here, outside of the module's state dict, and are made again when parameters change.
    """

    def __init__(
        self,
        layer: nn.Module,
        kind: str,
        backend: str | None,
        schemes: Mapping[str, LayerScheme] | None = None,
    ):
        self.layer = layer
        self.kind = kind
        self.backend = backend
        self.schemes = schemes
        self._held: tuple[list[tuple[Tensor, int]], nn.Module] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        level: Any = LEVELS[self.kind]
        rounded = self.schemes is not None
        with on(self.backend):
            ours = stands_in(level, self.layer, x, rounded=rounded)
        as_given = not ours or is_recording(self.layer, x)
        if rounded and as_given and not torch.compiler.is_compiling():
            _tell_as_given(self.kind)
        if not ours:
            return hosts.original(self.layer)(self.layer, x)
        weights = self.converted() if rounded and not as_given else self.layer
        with on(self.backend):
            return level.run(self.layer, x, weights)

    @torch.compiler.disable  # it reads the versions of parameters, which a graph does not know
    def converted(self) -> nn.Module:
        """The weights in the precisions of `schemes`."""
        assert self.schemes is not None
        level: Any = LEVELS[self.kind]
        parameters = level.parameters(self.layer)
        if self._held is not None and _is_current(self._held[0], parameters):
            return self._held[1]
        if self._held is not None and any(
            scheme.hidden_scale is not None for scheme in self.schemes.values()
        ):
            _tell_changed()
        with torch.inference_mode(False), torch.no_grad():
            # An alias keeps the storage, so that no other tensor can come to lie at its address.
            seen = [(parameter.detach(), _version(parameter)) for parameter in parameters]
            copies = level.convert(self.layer, self.schemes)
        self._held = seen, copies
        return copies

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}


class CapturedForward:
    """The `forward` of a patched model, replayed from CUDA graphs where it can be: `wxkernels.capture`.

    Before it, the forward was `inner`, or that of the class. It holds the module as PatchedForward does.
    """

    def __init__(self, layer: nn.Module, inner: PatchedForward | None):
        self.layer, self.inner = layer, inner
        self._captured = Captured(self.as_is, lambda: [layer])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            return self._captured(args[0])
        return self.as_is(*args, **kwargs)

    def as_is(self, *args: Any, **kwargs: Any) -> Any:
        if self.inner is not None:
            return self.inner(*args, **kwargs)
        return hosts.original(self.layer)(self.layer, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {"layer": self.layer, "inner": self.inner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def stands_in(level: Any, module: nn.Module, x: Tensor, *, rounded: bool = False) -> bool:
    """Whether our ops answer a call with x of `module`, for which there was no `refusal`.

    A filter's do: its op has a gradient. A block's and a network's do in evaluation, and on other devices
    than the CPU only if layers were `rounded` for us, or our kernels run there in half precision: float32
    gains nothing from our products.
    """
    if unfit(level, module) is not None:  # changed since then
        return False
    if level is filters:
        return True
    if not (rounded or x.device.type == "cpu" or _multiplies_in_half(level, module, x)):
        return False
    if is_recording(module, x):
        return False
    parts = level.absorbed(module)
    if module.training or any(part.training or _is_touched(part) for part in parts):
        return False
    return level.takes(module, x)


def _multiplies_in_half(level: Any, module: nn.Module, x: Tensor) -> bool:
    """Whether the products of a call are in half precision, and on GPU kernels of ours."""
    half = (torch.float16, torch.bfloat16)
    if not (blocks.autocasts(x) or all(weight.dtype in half for weight in level.parameters(module))):
        return False
    return all(backends.has_gpu_kernel(op, x.device) for op in level.OPS.split(", "))


def is_recording(module: nn.Module, x: Tensor) -> bool:
    """Whether autograd records a call of `module`."""
    return torch.is_grad_enabled() and (
        x.requires_grad or any(parameter.requires_grad for parameter in module.parameters())
    )


def refusal(level: Any, module: nn.Module) -> str | None:
    """Why our ops cannot stand in for `module`; None if class, parts and parameter shapes are a host's."""
    reason = hosts.unknown(module, level.KIND) or unfit(level, module)
    if reason is None and "forward" in module.__dict__:
        return "its forward was replaced on this very object"
    if reason is None:
        touched = next((part for part in level.absorbed(module) if _is_touched(part)), None)
        name = next((name for name, part in module.named_modules() if part is touched), None)
        if touched is not None:
            return f"{name} has a hook or a forward of its own, which would not be called"
    return reason


def unfit(level: Any, module: nn.Module) -> str | None:
    """Why `module`, of a host's class, has not the parts, attributes and parameters of the published one."""
    try:
        return level.unfit(module)
    except AttributeError as error:
        return f"its parts are not the published ones ({error})"


#: What `patch` puts in the place of a module's forward.
Forward = PatchedForward | CapturedForward


def patched(module: nn.Module) -> Forward | None:
    forward = module.__dict__.get("forward")
    return forward if isinstance(forward, Forward) else None


def on(backend: str | None) -> AbstractContextManager[None]:
    return nullcontext() if backend is None else backends.use(backend)


def _is_touched(part: nn.Module) -> bool:
    """Whether a call of `part` does more than the forward of its class."""
    if part._forward_hooks or part._forward_pre_hooks:
        return True
    return not isinstance(part.__dict__.get("forward"), PatchedForward | None)


def _is_current(seen: list[tuple[Tensor, int]], parameters: list[Tensor]) -> bool:
    return all(
        alias.data_ptr() == now.data_ptr()
        and (alias.dtype, alias.device, version) == (now.dtype, now.device, _version(now))
        for (alias, version), now in zip(seen, parameters, strict=True)
    )


def _version(parameter: Tensor) -> int:
    """Grows with each change in place; tensors made in inference mode do not count them."""
    return 0 if parameter.is_inference() else parameter._version


@functools.cache
def _tell_as_given(kind: str) -> None:
    log.warning(
        "patch: a %s runs as it was given, not in bf16, int8 or fp8, which are for evaluation: model.eval() "
        "and torch.inference_mode(), without hooks on its parts",
        kind,
    )


@functools.cache
def _tell_changed() -> None:
    log.warning(
        "patch: parameters have changed or moved since it was calibrated; if their values did, patch again"
    )
