"""Figures of the documents as SVG: the gains that benchmarks/QUALITY.md has, and the path of a query."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hydra_ray.stages import STAGE_NAMES

_INK, _GREY, _LINE, _TEAL, _PALE = "#1f2328", "#57606a", "#d8dee4", "#0b7285", "#e3f4f6"
_GREY_BOX = "#eaeef2"
_ASKING = ("candidates", "profiles", "probes", "drafts")
_MINUS = "\N{MINUS SIGN}"
_PERCENT = rf"([+{_MINUS}][\d.]+)%"
_GAIN = re.compile(rf"{_PERCENT} \[{_PERCENT}, {_PERCENT}\]")
_NAMES = {"movielens_rating": "MovieLens ratings", "average": "Average"}
_TASKS = {
    "LaMP_2N": "news categories",
    "LaMP_3": "product ratings",
    "LaMP_4": "headlines",
    "LaMP_5": "paper titles",
}
"""What is asked in the sets whose names do not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Relative gain on a set, in percent, with its interval."""

    name: str
    value: float
    low: float
    high: float


def gains_of(quality: str) -> list[Gain]:
    """Return the gains over the strongest rivals that the text of QUALITY.md has, the average last; none unless all
    sets were measured."""
    bar = quality.partition("## Bar 1:")[2].partition("\n## ")[0]
    if "**NOT MEASURED.**" in bar:
        return []
    gains: list[Gain] = []
    for row in bar.partition("\n\n| set |")[2].partition("\n\n")[0].splitlines()[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        found = _GAIN.search(cells[5])
        assert found, row
        value, low, high = (float(each.replace(_MINUS, "-")) for each in found.groups())
        gains.append(Gain(name=cells[0], value=value, low=low, high=high))
    return gains


def gains_figure(gains: Sequence[Gain]) -> str:
    """Return one line a set: its gain as a dot, the interval as a bar."""
    left, right, top, step = 210, 640, 78, 34
    widest = 20 * (int(max(each.high for each in gains)) // 20 + 1)
    lowest = min(0, 20 * int(min(each.low for each in gains) // 20))
    bottom = top + step * len(gains)

    def place(percent: float) -> float:
        return round(left + (percent - lowest) / (widest - lowest) * (right - left), 1)

    parts = [
        _text(20, 32, "Gain over the strongest rival of any kind", size=17, weight="bold"),
        _text(20, 52, "Relative, per set of real users; bars are 95 % intervals.", colour=_GREY),
    ]
    for percent in range(lowest, widest + 1, 20):
        colour = _INK if percent == 0 else _LINE
        parts.append(f'<path d="M{place(percent)} {top - 12}V{bottom - 8}" stroke="{colour}"/>')
        parts.append(
            _text(place(percent), bottom + 10, f"{percent:+d} %" if percent else "0", colour=_GREY, at="middle")
        )
    for line, gain in enumerate(sorted(gains, key=lambda each: (each.name == "average", -each.value))):
        y = top + step * line + 6
        is_average = gain.name == "average"
        weight = "bold" if is_average else "normal"
        parts.append(_text(left - 16, y + 5, _title(gain.name), at="end", weight=weight))
        bar = f'stroke="{_TEAL}" stroke-width="{5 if is_average else 3}" stroke-linecap="round"'
        parts.append(f'<path d="M{place(gain.low)} {y}H{place(gain.high)}" {bar}/>')
        parts.append(f'<circle cx="{place(gain.value)}" cy="{y}" r="{8 if is_average else 6}" fill="{_TEAL}"/>')
        parts.append(_text(right + 16, y + 5, f"{gain.value:+.1f} %", weight=weight))
    return _figure(740, bottom + 28, parts, "Gain over the strongest rival of any kind, by set, with 95 % intervals")


def path_figure() -> str:
    """Return the path of a query through the method, in two rows."""
    steps = [
        ("Query", ("and the user's", "history"), "#ffffff"),
        ("Retriever", ("the user's records", "most like the query"), _PALE),
        ("Reranker", ("which records help", "this user"), _PALE),
        ("Generator", ("your LLM, unchanged,", "writes several drafts"), _GREY_BOX),
        ("Adapter", ("which draft fits", "this user"), _PALE),
        ("Answer", ("one for each query",), "#ffffff"),
    ]
    parts = [
        _text(20, 32, "The path of a query", size=17, weight="bold"),
        _text(20, 52, "Reranker and adapter: one base for all users, one small head for each.", colour=_GREY),
        *_rows(steps, per_row=3, width=172, height=76),
    ]
    return _figure(640, 276, parts, "Query and history, retriever, reranker, generator, adapter, answer")


def stages_figure() -> str:
    """Return the stages of a run in two rows, those that ask the generator marked."""
    steps = [(name, (), _GREY_BOX if name in _ASKING else _PALE) for name in STAGE_NAMES]
    parts = [
        _text(20, 32, "The stages of a run", size=17, weight="bold"),
        _text(20, 52, "Grey ones ask the generator. Each turns tables into tables.", colour=_GREY),
        *_rows(steps, per_row=5, width=96, height=44),
    ]
    return _figure(640, 212, parts, "Stages: " + ", ".join(STAGE_NAMES))


_Step = tuple[str, tuple[str, ...], str]
"""A box: its name, the lines below it, and its colour."""


def _rows(steps: Sequence[_Step], per_row: int, width: float, height: float) -> list[str]:
    """Return boxes with arrows from each to the next, in rows from left to right."""
    left, top, gap = 20, 74, (600 - per_row * width) / (per_row - 1)
    parts: list[str] = []
    for place, (name, lines, fill) in enumerate(steps):
        row, column = divmod(place, per_row)
        x, y = round(left + column * (width + gap), 1), top + row * (height + 34)
        parts += _box(x, y, width, name, lines, fill, height)
        if place + 1 == len(steps):
            continue
        middle = y + height / 2
        if column + 1 < per_row:
            parts.append(_arrow([(x + width + 3, middle), (x + width + gap - 2, middle)]))
        else:
            between, down = y + height + 17, left + width / 2
            bend = [(x + width / 2, y + height + 2), (x + width / 2, between), (down, between)]
            parts.append(_arrow([*bend, (down, y + height + 32)]))
    return parts


def _title(name: str) -> str:
    shown = _NAMES.get(name, name.replace("_", "-"))
    return f"{shown}, {_TASKS[name]}" if name in _TASKS else shown


def _box(x: float, y: float, width: float, name: str, lines: Sequence[str], fill: str, height: float) -> list[str]:
    """Return a box with a name and lines below it."""
    middle = x + width / 2
    first = y + height / 2 + 5 - 9 * len(lines)
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{_LINE}"/>',
        _text(middle, first, name, at="middle", weight="bold"),
        *(_text(middle, first + 18 * n, each, size=13, at="middle", colour=_GREY) for n, each in enumerate(lines, 1)),
    ]


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    """Return a line through points, with a head at the last one: to the right, or down."""
    (before_x, _), (x, y) = points[-2:]
    is_down = before_x == x
    head = f"M{x - 4} {y - 7}L{x} {y}L{x + 4} {y - 7}Z" if is_down else f"M{x - 7} {y - 4}L{x} {y}L{x - 7} {y + 4}Z"
    line = "L".join(f"{each_x} {each_y}" for each_x, each_y in points)
    return f'<path d="M{line}" stroke="{_GREY}" stroke-width="1.5"/><path d="{head}" fill="{_GREY}"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 14, colour: str = _INK, at: str = "start", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{at}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _figure(width: int, height: int, parts: Sequence[str], title: str) -> str:
    """Return the whole figure on a white card, which light and dark pages show alike."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, Segoe UI, Roboto, Helvetica, Arial, sans-serif" fill="none">'
    )
    card = f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", card, *parts, "</svg>", ""])
