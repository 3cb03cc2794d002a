"""wxkernels info: what was built, and what runs on this machine."""

import platform

import click
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import wxkernels
from wxkernels import _native, backends
from wxkernels.bench.machine import device_name
from wxkernels.cli import one_line_errors


@click.command()
@one_line_errors
def info() -> None:
    """Show what was built, which backend of each op runs on this machine, and why not the others."""
    console = Console(highlight=False)
    console.print(
        f"wxkernels {wxkernels.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    if _native.core is None:
        console.print(f"compiled module: missing, {_native.reason}")
    else:
        for key, value in _native.core.build_info().items():
            text = ", ".join(value) if isinstance(value, (list, tuple)) else value
            console.print(f"{key}: {text}", soft_wrap=True)
    console.print(f"cpu: {device_name(torch.device('cpu'))}")
    for i in range(torch.cuda.device_count()):
        device = torch.device("cuda", i)
        console.print(f"cuda:{i}: {device_name(device)}, {backends.device_architecture(device)}")
    table = Table("op", "backend", "on this machine")
    before = ""
    for op, backend, state in backends.table():
        table.add_row("" if op == before else op, backend, escape(state))
        before = op
    console.print(table)
