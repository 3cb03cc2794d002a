"""Checks of arguments: a ValueError that names the argument, what was expected and what came."""

from collections.abc import Sequence

from torch import Tensor

from wxkernels.ops._reference import ACTIVATIONS


def shape(name: str, tensor: Tensor, expected: Sequence[int], source: str) -> None:
    """`source` says where the expected shape comes from."""
    if tensor.shape != tuple(expected):
        raise ValueError(f"{name}: expected shape {tuple(expected)} {source}, got {tuple(tensor.shape)}")


def floating(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {tensor.dtype}")


def device_of_first(**tensors: Tensor | None) -> None:
    """All on the device of the first."""
    (first, x), *others = tensors.items()
    assert x is not None
    for name, tensor in others:
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name}: expected on the device of {first}, {x.device}, got {tensor.device}")


def rows(name: str, x: Tensor, channels: str) -> None:
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"{name}: expected (..., {channels}) with {channels} >= 1, got shape {tuple(x.shape)}"
        )


def activation(name: str | None) -> str:
    """The name that backends get: "none" for None."""
    found = "none" if name is None else name
    if found not in ACTIVATIONS:
        known = ", ".join(repr(known) for known in ACTIVATIONS if known != "none")
        raise ValueError(f"activation: expected None, {known}, got {name!r}")
    return found


def norm(x: Tensor, *, eps: float, **parameters: Tensor | None) -> None:
    """Parameters (C,) of a layer norm over the last dimension of x, floating, on its device."""
    for name, parameter in parameters.items():
        if parameter is not None:
            shape(name, parameter, x.shape[-1:], "from x")
    floating(**parameters)
    device_of_first(x=x, **parameters)
    if not eps >= 0:
        raise ValueError(f"eps: expected >= 0, got {eps}")
