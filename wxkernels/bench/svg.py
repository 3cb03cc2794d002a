"""A plot as SVG within a page: text stays text, and the colours are those of the page, light or dark."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from wxkernels.bench import drawing, plots

#: What the page's style sheet defines for a colour of the pictures.
_THEME = {
    drawing.INK: "currentColor",
    drawing.PAPER: "var(--paper)",
    drawing.FAINT: "var(--faint)",
    **{colour: f"var(--{kind})" for kind, colour in drawing.COLOURS.items()},
}
_THEME = {colour.lower(): value for colour, value in _THEME.items()}


def inline_svg(plot: plots.Plot, prefix: str) -> str:
    """The <svg> element of `plot`; `prefix` keeps its ids apart from others' in the page.

    UserError: without matplotlib.
    """
    figure = plots.draw([plot])
    text = io.StringIO()
    with drawing.require_matplotlib().rc_context({"svg.fonttype": "none", "svg.hashsalt": "wxkernels"}):
        bare = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=bare)
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _name(child.tag) in ("style", "metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _name(element.tag)
        element.attrib = {_name(name): _themed(value, prefix) for name, value in element.attrib.items()}
        if element.tag == "g":
            element.attrib.pop("id", None)
        elif "id" in element.attrib:
            element.set("id", f"{prefix}-{element.get('id')}")
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": plot.title}
    return ElementTree.tostring(root, encoding="unicode")


def _name(name: str) -> str:
    """Without its namespace, which HTML knows."""
    return name.rpartition("}")[2]


def _themed(value: str, prefix: str) -> str:
    value = re.sub(r"#[0-9a-f]{6}", lambda found: _THEME.get(found[0], found[0]), value)
    value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
    return re.sub(r"^#|(?<=url\()#", f"#{prefix}-", value)
