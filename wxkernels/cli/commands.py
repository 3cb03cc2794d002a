"""The commands of `wxkernels`, each in a module of its own."""

import click

import wxkernels
from wxkernels.cli import Group
from wxkernels.cli.forecast import forecast
from wxkernels.cli.info import info
from wxkernels.cli.quantize import command as quantize
from wxkernels.cli.statistics import statistics
from wxkernels.cli.verify import verify


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(wxkernels.__version__)
def group() -> None:
    """Fast inference for AI weather models."""


for command in (forecast, quantize, verify, statistics, info):
    group.add_command(command)
