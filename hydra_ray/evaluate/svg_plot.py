# matplotlib's signatures leave most argument types open, which strict checking reports at every call.
# pyright: reportUnknownMemberType=false
"""Plots as inline SVG whose colours are the page's own CSS variables, so that both themes work."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib wants real colours: each variable has a stand-in that is replaced in the finished SVG.
_VARIABLES = ("ink", "muted", "line", "paper", "accent", "prompt", "count", "head", "worse")
COLOURS = {name: f"#0000{position + 1:02x}" for position, name in enumerate(_VARIABLES)}
_WIDTH_INCHES = 4.8
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hydra_ray",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["ink"],
    "grid.color": COLOURS["line"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "ytick.left": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Plot for a page. Key: name."""

    name: str
    """Prefix of all identifiers in it, unique on the page."""
    title: str
    description: str
    """Numbers that are drawn, in words."""
    view_box: str
    """Left, top, width and height of the drawing, in its own units."""
    drawing: str
    """SVG elements that matplotlib made; they stand on the page as they are."""


def draw_plot(
    name: str,
    title: str,
    description: str,
    num_rows: int,
    draw: Callable[["Axes"], None],
    width_inches: float = _WIDTH_INCHES,
) -> Plot:
    """Return a plot that fits its column.

    Args:
        name: unique on the page.
        description: numbers that are drawn, in words.
        num_rows: height, in lines of text.
        draw: draws it, in colours of COLOURS.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width_inches, 0.75 + 0.28 * num_rows), layout="constrained")
        draw(figure.add_subplot())
        opening, drawing = _drawn(figure)
    for variable, colour in COLOURS.items():
        drawing = drawing.replace(colour, f"var(--{variable})")
    # Identifiers are the page's, not the plot's: without the prefix one plot would use another's shapes.
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    view_box = re.search(r'viewBox="([^"]+)"', opening)
    assert view_box is not None
    return Plot(name=name, title=title, description=description, view_box=view_box[1], drawing=drawing)


def _drawn(figure: "Figure") -> tuple[str, str]:
    """Return the opening tag of a figure's SVG, and its elements without what refers to anything outside the page."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    whole = sink.getvalue()
    without_metadata = re.sub(r"<metadata>.*?</metadata>", "", whole[whole.index("<svg") :], flags=re.DOTALL)
    opening, _, content = without_metadata.partition(">")
    return opening, content.strip().removesuffix("</svg>").replace("xlink:href", "href")
