"""The command line: thin; every command is a call into the rooms below."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from wxkernels.errors import UserError


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print a UserError (or an error of the operating system) as one line and exit with 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from wxkernels import backends, ops  # noqa: F401 - importing ops registers their backends

        try:
            backends.check_environment()
            return command(*args, **kwargs)
        except (UserError, OSError) as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)

    return run


def torch_device(name: str) -> Any:
    """The torch.device of a --device option. UserError: there is none of that name here."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device: {name!r} is none of ours; use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"--device: {name}, but this PyTorch finds {found} CUDA or ROCm devices; use cpu")
    return device


def main() -> None:
    """Entry point of `wxkernels`."""
    from wxkernels.cli.commands import group

    group()
