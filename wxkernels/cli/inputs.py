"""The options that commands share: what data and model, which members, which machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wxkernels.cli import threads_option, torch_device
from wxkernels.errors import UserError

if TYPE_CHECKING:
    import torch

    from wxkernels.forecast import Perturbation
    from wxkernels.forecast.case import Case

#: Of the shipped forecast: chosen so that spread and error agree over the five days (training/shallow_water).
DEFAULT_LEVEL, DEFAULT_LENGTH_KM = 0.04, 700.0

_MODEL = (
    click.option(
        "-m", "--model", type=click.Path(path_type=Path), help="Checkpoint: NVlabs, physicsnemo, safetensors."
    ),
    click.option(
        "--statistics",
        type=click.Path(path_type=Path),
        help="Folder of global_means.npy and global_stds.npy.",
    ),
    click.option(
        "-v", "--variables", help="The model's variables in channel order. [FourCastNet's 20 or 26]"
    ),
    click.option(
        "--orography", type=click.Path(path_type=Path), help="For a network that takes it: .npy or HDF5."
    ),
    click.option(
        "--precipitation", type=click.Path(path_type=Path), help="PrecipNet's checkpoint: writes tp06 too."
    ),
    click.option("--regrid", is_flag=True, help="Interpolate the data to the model's grid."),
)

_DATA = (
    click.option("--time", help="Initial time, such as 2018-01-01T06:00. [the first]"),
    click.option(
        "--truth", type=click.Path(path_type=Path), help="What to score against. [later times of SOURCE]"
    ),
    click.option(
        "--climatology", type=click.Path(path_type=Path), help="Time means, for ACC and as a reference."
    ),
)

_RANDOM = (
    click.option(
        "--random-weights",
        type=click.Choice(["fourcastnet", "small"]),
        help="No SOURCE and no forecast: random weights and a random state, to measure time by.",
    ),
)

_MEMBERS = (
    click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Model steps."),
    click.option("--members", type=click.IntRange(1), default=8, show_default=True, help="Ensemble members."),
    click.option(
        "--perturbation",
        type=click.Choice(["none", "gaussian", "spherical"]),
        help="Noise on the initial state: independent at each point, or correlated on the sphere."
        " [spherical; none for one member]",
    ),
    click.option(
        "--level",
        type=click.FloatRange(0),
        default=DEFAULT_LEVEL,
        show_default=True,
        help="Standard deviation of the noise, normalised; fitted to the shipped model.",
    ),
    click.option(
        "--length-scale",
        type=click.FloatRange(23),
        default=DEFAULT_LENGTH_KM,
        show_default=True,
        help="Length scale of spherical noise in km; fitted to the shipped model.",
    ),
    click.option("--control", is_flag=True, help="Leave member 0 unperturbed."),
    click.option(
        "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Seed of the noise."
    ),
    click.option(
        "--batch-size", default="auto", show_default=True, help="Members at once; the result is the same."
    ),
)

_MACHINE = (
    click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:i]."),
    threads_option,
    click.option(
        "--backend", help="Backend of the kernels: native, triton or reference. [the best that runs]"
    ),
)


def model(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the model: those that `case_of` must have."""
    return _with(_MODEL, command)


def data(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the model, its input, and what to score it by: those of `case_of`."""
    return _with((*_MODEL, *_DATA), command)


def random_weights(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --random-weights, which `case_of` takes in the place of data."""
    return _with(_RANDOM, command)


def members(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the ensemble."""
    return _with(_MEMBERS, command)


def machine(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of where it runs: device, threads, backend."""
    return _with(_MACHINE, command)


@contextmanager
def on_machine(options: dict[str, Any]) -> Iterator[torch.device]:
    """The device of `machine`, with its threads and, as long as the context lasts, its backend."""
    import torch

    from wxkernels import backends

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    with backends.use(options["backend"]) if options["backend"] else nullcontext():
        yield torch_device(options["device"])


def _with(options: tuple[Callable[..., Any], ...], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def case_of(source: Path | None, model: Path | None, options: dict[str, Any]) -> Case:
    """The case that the options describe. UserError: what `load_case` says, data beside random weights."""
    from wxkernels.forecast.case import load_case, random_case

    names = ("statistics", "variables", "orography", "precipitation", "time", "truth", "climatology")
    given: dict[str, Any] = {name: options.get(name) for name in names}
    if (size := options.get("random_weights")) is not None:
        flags = {"SOURCE": source, "--model": model} | {f"--{name}": given[name] for name in names}
        if wrong := [flag for flag, value in flags.items() if value is not None]:
            raise UserError(f"--random-weights: takes no data; leave {', '.join(wrong)} away")
        return random_case(size, options.get("seed", 0))
    if given["variables"] is not None:
        given["variables"] = given["variables"].split(",")
    return load_case(source, checkpoint=model, regrid=options["regrid"], **given)


def perturbation_of(options: dict[str, Any]) -> Perturbation | None:
    """The perturbation of `members`. UserError: numbers that are not finite, members all alike."""
    from wxkernels.forecast import Gaussian, Spherical

    for option in ("level", "length_scale"):
        if not math.isfinite(options[option]):
            raise UserError(f"--{option.replace('_', '-')}: expected a finite number, got {options[option]}")
    several = options["members"] > 1
    kind = options["perturbation"] or ("spherical" if several else "none")
    if kind == "none":
        if several:
            raise UserError("--perturbation: none makes all members alike; use --members 1")
        return None
    return (
        Gaussian(options["level"])
        if kind == "gaussian"
        else Spherical(options["level"], options["length_scale"])
    )


def batch_size_of(text: str) -> Any:
    """ "auto" or a number of --batch-size. UserError: neither."""
    if text == "auto":
        return text
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"--batch-size: expected auto or a number from 1 up, got {text!r}")
    return int(text)
