"""Proof that our ops compute what a module computes, on weights and inputs drawn for the purpose."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wxkernels.patching import hosts

#: An error above this is another formula. float32 gives about 1e-6, TF32 products below 1e-3.
SAME_FORMULA = 1e-2
#: Errors below this are not told apart.
FLOOR = 1e-7
#: An error above this says that something else than rounding went wrong.
ROUNDING = {"fp32": SAME_FORMULA, "bf16": 0.03, "int8": 0.1, "fp8": 0.1}


class ProbeError(Exception):
    """The original module does not run on the probe."""


class Errors(NamedTuple):
    """RMS errors against float64, relative to the RMS of what the module adds to its input.

    ours, original: in float32. rounded: ours in the precisions asked for; None for those of the parameters.
    """

    ours: float
    original: float
    rounded: float | None = None

    def refusal(self, precisions: Iterable[str] = ()) -> str | None:
        """Why the probe does not let our ops stand in, in these precisions; None if it does."""
        if not self.original <= SAME_FORMULA:  # also NaN
            return f"its result differs from the published layer by {self.original:.1e} on the probe"
        if not self.ours <= 2 * self.original + FLOOR:
            return f"our error {self.ours:.1e} on the probe is above twice its own, {self.original:.1e}"
        if self.rounded is not None:
            limit, precision = max((ROUNDING[precision], precision) for precision in precisions)
            if not self.rounded <= limit:
                return f"our error {self.rounded:.1e} in {precision} on the probe is above {limit}"
        return None


class Draw:
    """Random numbers of one seed, on a device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, shape: Sequence[int], scale: float = 1.0) -> Tensor:
        """Normal, with that deviation, float32."""
        return (scale * torch.randn(tuple(shape), generator=self.generator)).to(self.device)

    def stand_in(self, module: nn.Module, **replaced: nn.Module | Tensor) -> Any:
        """A module of the same class and settings, in evaluation, without hooks: the published forward.

        Its parameters are drawn, float32, those of its submodules as well; `replaced` gives some by name.
        """
        copy = object.__new__(type(module))
        children = {
            name: replaced.get(name, child and self.stand_in(child))
            for name, child in module._modules.items()
        }
        parameters = {
            name: replaced[name] if name in replaced else self._parameter(module, name, parameter)
            for name, parameter in module._parameters.items()
        }
        state = dict(module.__dict__, training=False, _modules=children, _parameters=parameters)
        state |= {name: OrderedDict() for name in state if name.endswith("_hooks")}
        state |= {"forward": MethodType(hosts.original(module), copy), "_compiled_call_impl": None}
        copy.__dict__.update(state)
        return copy

    def _parameter(self, module: nn.Module, name: str, parameter: Tensor | None) -> Tensor | None:
        if parameter is None:
            return None
        if isinstance(module, nn.LayerNorm):
            return (name == "weight") + self(parameter.shape, 0.3)
        return self(parameter.shape, parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3)


def prove(level: Any, module: nn.Module, forward: Callable[..., Tensor]) -> Errors:
    """Hold `forward` of a stand-in for `module` and our ops, in float32, to float64: the level's worst case.

    The weights are drawn, not the module's own: the proof then holds for whatever is loaded later, for
    zeros (which prove nothing), and for half precision (where the original fails). The module itself is not
    called: its hooks, its state and the global random state are left as they are. Raises ProbeError when
    `forward` fails.
    """

    def run(stand_in: Any, x: Tensor) -> list[Tensor]:
        y = level.run(stand_in, x, stand_in)
        return [y, _attempt(forward, stand_in, x, y.shape)]

    return Errors(*_errors(level, module, run))


def prove_rounding(level: Any, module: nn.Module, precisions: Mapping[str, str]) -> float:
    """The error of our ops as in `prove`, with the layers of the level in these precisions."""

    def run(stand_in: Any, x: Tensor) -> list[Tensor]:
        return [level.run(stand_in, x, level.convert(stand_in, level.trial(stand_in, x, precisions)))]

    (error,) = _errors(level, module, run)
    return error


def _errors(level: Any, module: nn.Module, run: Callable[[Any, Tensor], list[Tensor]]) -> list[float]:
    draw = Draw(hosts.device_of(next(module.parameters())))
    errors = []
    with torch.no_grad(), torch.autocast(draw.device.type, enabled=False):
        stand_in = level.stand_in(module, draw)
        for x, exact, known in level.cases(stand_in, draw):
            error = (torch.stack(run(stand_in, x)).double() - exact).square().mean(dim=(1, 2, 3, 4)).sqrt()
            errors.append(error / (exact - known).square().mean().sqrt())
    return torch.stack(errors).amax(0).tolist()


def _attempt(forward: Callable[..., Tensor], module: nn.Module, x: Tensor, shape: torch.Size) -> Tensor:
    try:
        y = forward(module, x)
    except Exception as error:
        raise ProbeError(f"its forward fails on the probe ({type(error).__name__}: {error})") from error
    if not isinstance(y, Tensor) or y.shape != shape:
        raise ProbeError(f"its forward does not return a tensor of shape {tuple(shape)}")
    return y
