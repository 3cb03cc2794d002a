"""The command line: thin; every command is a call into the rooms below."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from wxkernels.errors import UserError


class Command(click.Command):
    """A command whose usage errors are one line, as all errors of ours."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _one_line_usage():
            return super().make_context(*args, **kwargs)


class Group(Command, click.Group):
    """A group of such commands."""

    command_class = Command

    def invoke(self, context: click.Context) -> Any:
        with _one_line_usage():
            return super().invoke(context)


@contextmanager
def _one_line_usage() -> Iterator[None]:
    """Print a usage error in one line and exit with 2; a group without a word shows its help."""
    try:
        yield
    except getattr(click.exceptions, "NoArgsIsHelpError", ()):  # click 8.2 and later
        raise
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _fail(f"{error.format_message().rstrip('.')}{where}")


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print a UserError (or an error of the operating system) as one line and exit with 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from wxkernels import backends, ops  # noqa: F401 - importing ops registers their backends

        try:
            backends.check_environment()
            return command(*args, **kwargs)
        except (UserError, OSError) as error:
            _fail(str(error))

    return run


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)


threads_option = click.option(
    "--threads", type=click.IntRange(1, os.cpu_count()), help="CPU threads. [PyTorch's own choice]"
)


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
