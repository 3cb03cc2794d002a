"""A picture of a network's time by part."""

from collections.abc import Sequence
from pathlib import Path

from wxkernels.bench.profile import Part
from wxkernels.errors import UserError
from wxkernels.io.files import whole_file

# Okabe and Ito's colours, told apart with every kind of colour vision and, by their lightness, in grey.
_COLOURS = ("#F0E442", "#56B4E9", "#0072B2", "#D55E00", "#BBBBBB")


def plot_parts(parts: Sequence[Part], title: str, path: str | Path) -> None:
    """Stacked bars, one a variant, of the milliseconds of each part; a black line is the variant's floor.

    The kind of file is that of the name (PNG, PDF, SVG). UserError: without matplotlib, or not writable.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib: pip install 'wxkernels[plot]'") from None

    backends = list(dict.fromkeys(part.backend for part in parts))
    names = list(dict.fromkeys(part.part for part in parts))
    by_place = {(part.backend, part.part): part for part in parts}
    totals = [sum(by_place[backend, name].median_ms for name in names) for backend in backends]
    unit, scale = ("s", 1e-3) if max(totals) >= 1e3 else ("ms", 1.0)
    with matplotlib.rc_context({"font.size": 9, "axes.linewidth": 0.8, "legend.frameon": False}):
        figure = Figure(figsize=(7.5, 1.3 + 0.45 * len(backends)), layout="constrained")
        ax = figure.subplots()
        left = [0.0] * len(backends)
        for name, colour in zip(names, _COLOURS, strict=False):
            widths = [scale * by_place[backend, name].median_ms for backend in backends]
            ax.barh(backends, widths, left=left, color=colour, edgecolor="white", linewidth=0.5, label=name)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for row, (backend, total) in enumerate(zip(backends, totals, strict=True)):
            floors = [by_place[backend, name].floor_ms for name in names]
            known = scale * sum(floor for floor in floors if floor is not None)
            if known:
                ax.vlines(known, row - 0.4, row + 0.4, color="black", label="" if row else "floor")
            ax.text(scale * total, row, f" {scale * total:.3g} {unit}", va="center")
        ax.invert_yaxis()
        ax.set_xlim(0, 1.12 * scale * max(totals))
        ax.set_xlabel(f"time of a step, {unit}")
        ax.set_title(title, loc="left", fontsize=9.5)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(names) + 1)
        kind = Path(path).suffix[1:] or "png"
        with whole_file(path) as partial:
            try:
                figure.savefig(partial, format=kind, dpi=200)
            except ValueError as error:
                raise UserError(f"cannot write {path}: {error}") from None
