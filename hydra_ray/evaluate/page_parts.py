"""Parts of pages as plain data; templates/parts.html has the markup of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydra_ray.evaluate.svg_plot import Plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """Texts above the content of a page."""

    title: str
    """Title of the document."""
    subtitle: str
    headline: str
    lead: str
    """Sentence below the headline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One large number."""

    title: str
    value: str
    note: str
    is_shown: bool = False
    """Whether the number is a difference that is shown, which is set apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotFigure:
    """Plot with its caption."""

    title: str
    note: str
    plot: Plot


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table's cell, title or caption, with a note in small print."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Row of a table."""

    is_own: bool
    """Whether the row is about HYDRA itself, which is set apart."""
    cells: Sequence[Cell]
    """Cells, of which the first is the row's title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Table of texts."""

    caption: str
    titles: Sequence[Cell]
    rows: Sequence[Row]


def make_row(*cells: Cell | str, is_own: bool = False) -> Row:
    """Return a row whose texts may come without a note."""
    return Row(is_own=is_own, cells=_cells(cells))


def make_table(caption: str, titles: Iterable[Cell | str], rows: Iterable[Row]) -> Table:
    """Return a table whose titles may come without a note."""
    return Table(caption=caption, titles=_cells(titles), rows=tuple(rows))


def _cells(texts: Iterable[Cell | str]) -> tuple[Cell, ...]:
    return tuple(Cell(text) if isinstance(text, str) else text for text in texts)
