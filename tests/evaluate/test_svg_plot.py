"""Plots as matplotlib draws them: texts in a drawing are text, identifiers and colours are the page's."""

import re
from xml.etree import ElementTree

from hydra_ray.evaluate.svg_plot import COLOURS, Plot, draw_plot

HOSTILE = "</svg><script>&amp; \"'{{ 7 }} $a^2$ -->"


def drawn(text: str, name: str = "bars") -> Plot:
    def draw(axes):
        axes.barh([0], [1], color=COLOURS["accent"], label=text)
        axes.text(0, 0, text)
        axes.set_xlabel(text)
        axes.set_yticks([0], [text])
        axes.legend()

    return draw_plot(name, "title", "description", 4, draw)


def elements(plot: Plot) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(f"<svg>{plot.drawing}</svg>").iter())


def test_texts_in_a_drawing_are_text():
    found = elements(drawn(HOSTILE))
    assert {each.tag for each in found} == {each.tag for each in elements(drawn("text"))}
    assert [each.text for each in found].count(HOSTILE) == 4


def test_identifiers_of_two_plots_on_a_page_differ_and_resolve():
    plots = [drawn("text", name) for name in ("first", "second")]
    identifiers = [[each.attrib["id"] for each in elements(plot) if "id" in each.attrib] for plot in plots]
    assert not set(identifiers[0]) & set(identifiers[1])
    for plot, own in zip(plots, identifiers, strict=True):
        references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', plot.drawing)
        assert references
        assert {first or second for first, second in references} <= set(own)


def test_colours_are_the_page_s_variables():
    drawing = drawn("text").drawing
    assert "var(--accent)" in drawing
    assert not any(colour in drawing for colour in COLOURS.values())
