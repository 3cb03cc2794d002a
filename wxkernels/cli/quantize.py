"""wxkernels quantize: a checkpoint in int8, fp8 or bfloat16, calibrated on states."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from rich.console import Console
from rich.table import Table

from wxkernels import data
from wxkernels.cli import inputs, one_line_errors
from wxkernels.errors import UserError
from wxkernels.io.files import require_writable

if TYPE_CHECKING:
    from wxkernels.forecast.case import Case
    from wxkernels.quantization import Scheme


@click.command("quantize")
@click.argument("source", type=click.Path(path_type=Path), required=False)
@inputs.model
@inputs.random_weights
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file. [MODEL-PRECISION.safetensors]"
)
@click.option("--overwrite", is_flag=True, help="Replace a file at --output.")
@click.option(
    "--precision", type=click.Choice(["int8", "fp8", "bf16"]), default="int8", show_default=True,
    help="int8: MLPs and positions, the rest bf16; fp8: MLPs in e4m3, positions int8, the rest bf16.",
)  # fmt: skip
@click.option(
    "--states", type=click.IntRange(1), default=4, show_default=True, help="Times of SOURCE to calibrate on."
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    help="Error of a step that is allowed, relative to its change. [0.03 in int8 and fp8, 0.003 in bf16]",
)
@click.option(
    "--keep", multiple=True, metavar="PATTERN=PRECISION",
    help="Precision of layers, such as 'blocks.0.*=bf16'; repeatable, the first that fits counts.",
)  # fmt: skip
@inputs.machine
@one_line_errors
def command(source: Path | None, model: Path | None, **options: Any) -> None:
    """Write a checkpoint in int8, fp8 or bfloat16, calibrated on states in SOURCE; `forecast -m` takes it.

    SOURCE: a file of fields, or FourCastNet's tutorial folder (ccai_demo). Without arguments: the shipped
    shallow-water model and its cases.
    """
    from wxkernels.forecast.calibrate import calibrate
    from wxkernels.forecast.compare import evenly

    overrides = dict(_pattern(text) for text in options["keep"])
    output = _output(options["output"], model, options)
    case = inputs.case_of(source, model, options)
    states = case.initial.expand_dims("time") if case.states is None else case.states
    states = states.sel(time=evenly(states["time"].values, options["states"]))
    console = Console(highlight=False)
    with inputs.on_machine(options) as device:
        scheme = calibrate(
            case.model.to(device),
            states,
            options["precision"],
            name=str(source or case.initial.attrs.get("source", "")),
            overrides=overrides,
            budget=options["budget"],
        )
    case.model.save(output)
    console.print(_table(scheme))
    console.print(summary(scheme, states.sizes["time"]), soft_wrap=True)
    console.print(f"written: {output}, {output.stat().st_size / 1e6:.1f} MB", soft_wrap=True)


def quantize(case: Case, precision: str | None, device: torch.device, console: Console) -> None:
    """Bring the model of a forecast to `precision`, calibrated on its initial state; None: as it is.

    UserError: the checkpoint is in another precision than fp32 already.
    """
    from wxkernels.forecast.calibrate import calibrate

    model = case.model
    if precision in (None, model.precision):
        return
    if model.precision != "fp32":
        raise UserError(
            f"{model.source}: is in {model.precision}, not {precision}; leave --precision away, or give the "
            "checkpoint that it was made from"
        )
    assert precision is not None
    console.print(f"calibrating {precision} on the initial state")
    states = case.initial.expand_dims("time")
    scheme = calibrate(model.to(device), states, precision, name=str(case.initial.attrs.get("source", "")))
    console.print(summary(scheme, 1), soft_wrap=True)


def _pattern(text: str) -> tuple[str, str]:
    pattern, equals, precision = text.rpartition("=")
    if not equals or precision not in ("fp32", "bf16", "int8", "fp8"):
        raise UserError(f"--keep: expected PATTERN=fp32, =bf16, =int8 or =fp8, got {text!r}")
    return pattern, precision


def _output(output: Path | None, model: Path | None, options: dict[str, Any]) -> Path:
    """Where the file goes; UserError before the work where it cannot."""
    if output is None:
        stem = options["random_weights"] or (model or data.default_model_path()).stem
        output = Path(f"{stem}-{options['precision']}.safetensors")
    require_writable(output)
    if output.exists() and not options["overwrite"]:
        raise UserError(f"{output} exists; choose another path, or replace it with --overwrite")
    return output


def _table(scheme: Scheme) -> Table:
    table = Table("layer", "precision")
    for name in ("SmoothQuant", "error", "before", "after (MB)"):
        table.add_column(name, justify="right")
    for name, layer in scheme.layers.items():
        table.add_row(
            name,
            layer.precision,
            f"{layer.smooth:g}" if layer.smooth else "",
            f"{layer.error:.2%}" if layer.error else "",
            *(f"{size / 1e6:.3g}" for size in (layer.size_before, layer.size_after)),
        )
    return table


def summary(scheme: Scheme, states: int) -> str:
    """What became of the network, in a line."""
    counts = Counter(layer.precision for layer in scheme.layers.values())
    kept: dict[str, list[str]] = {}
    for name, precision in scheme.kept.items():
        kept.setdefault(precision, []).append(name)
    parts = [
        f"{', '.join(f'{count} layers in {precision}' for precision, count in counts.items())}",
        f"error {scheme.error or 0:.2%} of the change (budget {scheme.budget or 0:.2%}, states: {states})",
        f"{scheme.size_before / 1e6:.1f} MB -> {scheme.size_after / 1e6:.1f} MB, {scheme.saved:.0%} less",
        *(f"kept in {precision}: {', '.join(names)}" for precision, names in kept.items()),
    ]
    return "; ".join(parts)
