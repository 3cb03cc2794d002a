"""PrecipNet: six-hour precipitation diagnosed from FourCastNet's state."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wxkernels.models.afno import DEAD_KEYS, AFNONet, check_state

#: Precipitation of log1p(tp / EPSILON) = 0, in m: the `precip_eps` of the published configuration.
EPSILON = 1e-5


class PrecipNet(nn.Module):
    """tp = 1e-5 expm1(y), y = relu(conv3x3(backbone(x))), padded with zeros at the poles, round in longitude.

    x (B, in_chans, H, W): the first in_chans channels of a normalised state. Result (B, out_chans, H, W), at
    least float32: m of water in six hours. Keys `backbone.*` and `conv.*` as in NVlabs/FourCastNet
    networks/afnonet.py, whose forward returns y.
    """

    def __init__(self, backbone: AFNONet):
        super().__init__()
        self.backbone = backbone
        self.conv = nn.Conv2d(backbone.out_chans, backbone.out_chans, kernel_size=3)

    @property
    def in_chans(self) -> int:
        return self.backbone.in_chans

    def forward(self, x: Tensor) -> Tensor:
        return _each_member(self._sharpen, self.backbone(x))

    def _sharpen(self, y: Tensor) -> Tensor:
        y = F.pad(F.pad(y, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
        y = F.relu(self.conv(y))
        return EPSILON * torch.expm1(y.to(torch.promote_types(y.dtype, torch.float32)))

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], *, source: str = "state dict", **options: Any
    ) -> Self:
        """The network with the weights in `state`; options and UserError as AFNONet.from_state_dict."""
        state = {k: v for k, v in state.items() if k.removeprefix("backbone.") not in DEAD_KEYS}
        inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        net = cls(AFNONet.from_state_dict(inner, source=f"{source} (backbone)", **options))
        check_state(net, state, source)
        net.conv.load_state_dict({name: state[f"conv.{name}"] for name in ("weight", "bias")})
        net.conv.to(state["conv.weight"].dtype)
        return net


def _each_member(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x), one member at a time while autograd does not record: no member's bits depend on the batch.

    BLAS and convolution kernels choose their blocking by the shape and the alignment of what they get; so
    each member comes alone and as a fresh, aligned copy. x (B, ...), f maps (1, ...) to (1, ...).
    """
    if torch.is_grad_enabled() or len(x) == 0:
        return f(x)
    return torch.cat([f(member.clone(memory_format=torch.contiguous_format)) for member in x.split(1)])
