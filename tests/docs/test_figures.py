"""The figures of the documents show the figures that were measured."""

import xml.etree.ElementTree as ET

import pytest
from figures import Gain, gains_figure, gains_of, path_figure, stages_figure

from hydra_ray.stages import STAGE_NAMES

QUALITY = """
## Bar 1: Gain over the strongest rival of any kind

**FAIL.** On average +11.0%.

| set | users | rival | HYDRA | rival's quality | relative gain | difference | share of the room | p |
|---|---:|---|---:|---:|---|---|---|---:|
| LaMP_2N | 93 | RAG k=4 | 0.6 | 0.5 | +22.4% [\N{MINUS SIGN}3.6%, +48.7%] | +0.1 [+0.0, +0.2] | +3.0% | 0.1 |
| average | | | | | +11.0% [+1.4%, +37.9%] | | +3.0% | |

## Bar 2: Another

| task | relative gain |
"""


def texts_of(figure: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(figure).iter("{http://www.w3.org/2000/svg}text")]


def test_gains_are_those_of_the_first_bar():
    assert gains_of(QUALITY) == [
        Gain(name="LaMP_2N", value=22.4, low=-3.6, high=48.7),
        Gain(name="average", value=11.0, low=1.4, high=37.9),
    ]


def test_a_bar_without_all_sets_has_no_figure():
    assert gains_of(QUALITY.replace("FAIL", "NOT MEASURED")) == []


def test_each_gain_stands_where_the_axis_says():
    figure = gains_figure(gains_of(QUALITY))
    svg = ET.fromstring(figure)
    ticks = {
        (each.text or "0").removesuffix(" %"): float(each.attrib["x"])
        for each in svg.iter("{http://www.w3.org/2000/svg}text")
        if each.attrib["text-anchor"] == "middle"
    }
    assert set(ticks) == {"-20", "0", "+20", "+40", "+60"}
    dots = [float(each.attrib["cx"]) for each in svg.iter("{http://www.w3.org/2000/svg}circle")]
    unit = (ticks["+20"] - ticks["0"]) / 20
    assert dots == pytest.approx([ticks["0"] + 22.4 * unit, ticks["0"] + 11 * unit], abs=0.2)
    assert {"LaMP-2N, news categories", "Average", "+22.4 %", "+11.0 %"} <= set(texts_of(figure))


def test_the_figure_of_stages_has_every_stage_in_order():
    assert texts_of(stages_figure())[2:] == list(STAGE_NAMES)


def test_the_path_ends_in_an_answer():
    assert {"Query", "Retriever", "Reranker", "Generator", "Adapter", "Answer"} <= set(texts_of(path_figure()))
