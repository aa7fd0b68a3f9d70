"""Templates: a text is shown as the text it is, wherever it stands, and nothing else than a drawing is markup."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError
from parsed_page import ParsedPage

import hydra_ray
from hydra_ray.evaluate.page_parts import Cell, PlotFigure, Tile, make_row, make_table
from hydra_ray.evaluate.rendering import environment, render
from hydra_ray.evaluate.svg_plot import Plot

SOURCE = Path(hydra_ray.__path__[0])
TEMPLATES = SOURCE / "evaluate" / "templates"
HOSTILE = {
    "element": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "end": "</pre></td></title></summary></svg></style></main>--> ]]>",
    "quotes": """" onload="alert(1)' onload='alert(1)`""",
    "entities": "&lt;b&gt; &amp;amp; &#60;script&#62; &nbsp",
    "template": "{{ 7 * 7 }} {% raw %} {# note #} {{ self }} $headline ${lead} %s {0}",
    "control": "\x01\x07\x1b[31m\x7f\u2028\ufeff",
    "long": "ab <c> " * 20_000,
    "rtl": "\u05e9\u05dc\u05d5\u05dd \u202etxt.exe\u202c \u0645\u0631\u062d\u0628\u0627",
}
PLACES = {
    "row title, cell, note, column title and caption of a table": ("{{ parts.table(page.table) }}", 7),
    "caption and note of a sheet": ("{% call parts.sheet(page.text, page.text, []) %}{% endcall %}", 2),
    "tile": ("{{ parts.tiles([page.tile]) }}", 3),
    "caption and plot of a figure": ("{{ parts.figure(page.figure) }}", 4),
    "summary and content of a section": ("{% call parts.folded(page.text) %}{{ page.text }}{% endcall %}", 2),
    "block of code": ("{{ parts.code(page.text) }}", 1),
    "title of the document": ("<title>{{ page.text }}</title>", 1),
}


def page_of(text: str) -> SimpleNamespace:
    """A page with a text in all places."""
    plot = Plot(name=text, title=text, description=text, view_box=text, drawing="<g></g>")
    cell = Cell(text, text)
    return SimpleNamespace(
        text=text,
        tile=Tile(title=text, value=text, note=text),
        figure=PlotFigure(title=text, note=text, plot=plot),
        table=make_table(text, [cell], [make_row(cell, cell)]),
    )


def rendered(markup: str, page: object) -> str:
    source = '{% import "parts.html" as parts %}' + markup
    return environment().from_string(source).render(page=page)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("place", PLACES)
def test_text_is_shown_as_it_is_wherever_it_stands(place: str, kind: str):
    markup, count = PLACES[place]
    harmless, page = (ParsedPage(rendered(markup, page_of(text))) for text in ("text", HOSTILE[kind]))
    assert page.tags == harmless.tags
    assert page.text.count(HOSTILE[kind]) == harmless.text.count("text") == count


@pytest.mark.parametrize("kind", HOSTILE)
def test_text_in_an_attribute_stays_inside_it(kind: str):
    text = HOSTILE[kind]
    attributes = ParsedPage(rendered("{{ parts.plot(page.figure.plot) }}", page_of(text))).attributes
    assert attributes == [
        ("viewbox", text),
        ("role", "img"),
        ("aria-labelledby", f"{text}-title {text}-desc"),
        ("id", f"{text}-title"),
        ("id", f"{text}-desc"),
    ]


def test_drawing_of_a_plot_is_the_only_markup_that_is_not_escaped():
    sources = {path.name: path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.html")}
    unescaped = re.compile(r"\|\s*safe\b|autoescape")
    found = [
        (name, line.strip()) for name, text in sources.items() for line in text.splitlines() if unescaped.search(line)
    ]
    assert found == [("parts.html", "{{ plot.drawing | safe }}")]
    assert len(sources) > 4


def test_no_python_file_has_markup():
    element = re.compile(
        r"</?(?:div|p|table|t[rdh]|span|small|strong|details|summary|figure|h[1-6]|ul|li|dl|pre)\b[^|]*>"
    )
    escaping = re.compile(r"from html import|import html\b|markupsafe|\bMarkup\b|__html__")
    files = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert not [path for path, text in files.items() if element.search(text) or escaping.search(text)]
    assert len(files) > 100


def test_name_that_is_not_defined_is_an_error():
    with pytest.raises(UndefinedError, match="no attribute 'examples'"):
        render("examples.html", SimpleNamespace())
    with pytest.raises(UndefinedError, match="has no attribute 'subtitle'"):
        rendered("{{ page.tile.subtitle }}", page_of("text"))


def test_page_of_no_rows_and_no_notes_has_no_empty_elements():
    table = make_table("caption", ["title"], [make_row("first", Cell("second"))])
    html = rendered("{{ parts.table(page) }}", table)
    assert "small" not in ParsedPage(html).tags
    assert '<th scope="row">first</th>' in html
    assert "<td>second</td>" in html
