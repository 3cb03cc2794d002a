"""Which layer of a patched model runs in which precision: names, patterns, calibration."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from wxkernels.errors import UserError
from wxkernels.quantization import LayerScheme, Scheme, calibrate
from wxkernels.quantization.conversion import layer_names
from wxkernels.quantization.scheme import asked

PRECISIONS = ("same", "bf16", "int8", "fp8")


def join(name: str, part: str) -> str:
    """The name of a part of the module `name` of a model, where "" is the model itself."""
    return ".".join(filter(None, (name, part)))


def check(precision: Any) -> None:
    """UserError unless `precision` is one of PRECISIONS or maps patterns to them."""
    for value in precision.values() if isinstance(precision, Mapping) else (precision,):
        if value not in PRECISIONS:
            raise UserError(
                f"precision: expected {', '.join(map(repr, PRECISIONS))} or a dict of patterns and these, "
                f"got {value!r}"
            )


def choose(precision: str | Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The precision of each layer, "same" where no pattern fits; UserError for a pattern that fits none.

    int8 is for MLPs and positions, fp8 for MLPs: the rest of the layers is what `asked` says instead.
    """
    patterns = precision if isinstance(precision, Mapping) else {"*": precision}
    for pattern in patterns if names else ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"precision: {pattern!r} fits none of the layers {', '.join(names)}")
    first = {name: next((p for p in patterns if fnmatchcase(name, p)), None) for name in names}
    return {name: "same" if p is None else asked(name, patterns[p]) for name, p in first.items()}


def inputs(calibration: Any) -> list[Tensor]:
    """The calibration inputs as a list; UserError for what is none."""
    found = [calibration] if isinstance(calibration, Tensor) else list(calibration or ())
    for x in found:
        if not isinstance(x, Tensor):
            raise UserError(f"calibration: expected tensors (B, C, H, W), got {type(x).__name__}")
    return found


def scheme(
    root: nn.Module,
    chosen: Mapping[str, str],
    calibration: Sequence[Tensor],
    search: str | None,
) -> Scheme:
    """The scheme of the layers of `root` by their names in it, measured where there are calibration inputs.

    chosen: their precisions; layers of `root` that are not in it stay as they are. search: the precision
    asked for the whole model, which layers may leave for a finer one (`quantization.calibrate`); None where
    each layer's was chosen. Raises UserError for int8 and fp8 without inputs, and for inputs that do not fit.
    """
    fine = {name: "fp32" if precision == "same" else precision for name, precision in chosen.items()}
    if not calibration:
        coarse = [p for name, p in fine.items() if p in ("int8", "fp8") and name.endswith("mlp")]
        if coarse:
            raise UserError(
                f"precision: {coarse[0]} has to be calibrated; pass calibration=[x], a few normalised "
                "inputs of the model, each (B, C, H, W)"
            )
        return Scheme("fp32", {name: LayerScheme(precision) for name, precision in fine.items()})
    free = chosen if search else ()
    names = {name: name.lstrip(".") for name in layer_names(root)}  # ".mlp" where a block is the root
    overrides = {name: fine.get(ours, "fp32") for name, ours in names.items() if ours not in free}
    with _evaluating(root):
        try:
            found = calibrate(root, calibration, precision=search or "int8", overrides=overrides)
        except (ValueError, RuntimeError, AssertionError) as error:  # the last two: of the model's forward
            kind = type(root).__qualname__
            raise UserError(f"calibration: {kind} does not take it: {line(error)}") from error
    return replace(found, layers={names[name]: layer for name, layer in found.layers.items()})


@contextmanager
def _evaluating(root: nn.Module) -> Iterator[None]:
    training = [module for module in root.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def line(error: Exception) -> str:
    """The first line of what `error` says."""
    return (str(error) or type(error).__name__).splitlines()[0]
