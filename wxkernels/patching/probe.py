"""Proof that our op computes what a layer computes, on weights and inputs drawn for the purpose."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wxkernels.ops.spectral_filter import reference
from wxkernels.patching import hosts

#: (B, H, W): more columns than kept, more rows than columns; odd and even sizes.
GRIDS = ((2, 6, 15), (1, 11, 4))
#: An error above this is another formula. float32 gives about 1e-6, TF32 products below 1e-3.
SAME_FORMULA = 1e-2
#: Errors below this are not told apart.
FLOOR = 1e-7


class ProbeError(Exception):
    """The original layer does not run on the probe."""


class Errors(NamedTuple):
    """RMS errors against float64, relative to the RMS of what the filter adds to its input."""

    ours: float
    original: float

    def refusal(self) -> str | None:
        """Why the probe does not let our op stand in; None when it does."""
        if not self.original <= SAME_FORMULA:  # also NaN
            return f"its result differs from the published layer by {self.original:.1e} on the probe"
        if not self.ours <= 2 * self.original + FLOOR:
            return f"our error {self.ours:.1e} on the probe is above twice its own, {self.original:.1e}"
        return None


def probe(layer: Any, original: Callable[[nn.Module, Tensor], Tensor]) -> Errors:
    """Hold `original(layer, x)` and our op, in float32, to the float64 reference; the worst error of GRIDS.

    The weights are drawn, not the layer's own: the proof then holds for whatever is loaded later, for a layer
    of zeros (which proves nothing), and for one in half precision (where the original fails). The layer
    itself is not called: its hooks, its state and the global random state are left as they are.
    Raises ProbeError when `original` fails.
    """
    device = hosts.device_of(layer)
    generator = torch.Generator().manual_seed(0)
    stand_in = _stand_in(layer, generator, device)
    w1, b1, w2, b2 = (getattr(stand_in, name).double() for name in hosts.PARAMETERS)
    channels = layer.num_blocks * layer.block_size

    rows = math.ceil(1 / layer.hard_thresholding_fraction)  # so many times H keep a mode at any fraction
    errors = []
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for B, H, W in GRIDS:
            x = torch.randn(B, rows * H, W, channels, generator=generator).to(device)  # (B, H, W, C)
            exact = reference.spectral_filter(
                x.double(), w1, b1, w2, b2, layer.sparsity_threshold, layer.hard_thresholding_fraction
            )
            added = (exact - x).square().mean().sqrt()
            results = torch.stack([hosts.run(stand_in, x), _attempt(original, stand_in, x)]).double()
            errors.append((results - exact).square().mean(dim=(1, 2, 3, 4)).sqrt() / added)
    return Errors(*torch.stack(errors).amax(0).tolist())


def _attempt(original: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module, x: Tensor) -> Tensor:
    try:
        y = original(layer, x)
    except Exception as error:
        raise ProbeError(f"its forward fails on the probe ({type(error).__name__}: {error})") from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise ProbeError("its forward does not return a tensor of the shape of its input")
    return y


def _stand_in(layer: Any, generator: torch.Generator, device: torch.device) -> nn.Module:
    """A layer of the same class and attributes with float32 weights of its own.

    What reaches the softshrink is about three times its threshold, so that another threshold shows.
    """
    fan_in, hidden = layer.w1.shape[-2:]
    size = 3 * layer.sparsity_threshold or 1.0
    scale = {"w1": fan_in**-0.5, "b1": 1.0, "w2": size * hidden**-0.5, "b2": size}
    parameters = {
        name: (scale[name] * torch.randn(getattr(layer, name).shape, generator=generator)).to(device)
        for name in hosts.PARAMETERS
    }
    stand_in = object.__new__(type(layer))
    stand_in.__dict__.update(layer.__dict__, _parameters=parameters, training=False)
    return stand_in
