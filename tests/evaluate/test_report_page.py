import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from parsed_page import ParsedPage
from synthetic import synthetic_best_of_n

from hydra_ray.config import RunConfig, Task
from hydra_ray.evaluate.best_of_n import best_of_n_curve
from hydra_ray.evaluate.report import StageCost, build_report
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.evaluate.text_report import best_of_n_sentence, report_sections

HOSTILE = (
    "<script>alert(1)</script> & \"quoted\" 'single' $headline ${lead} {{ 7 * 7 }} {% raw %} {# note #} "
    "</pre></dd> --> \u202e\u05e9\u05dc\u05d5\u05dd\u202c \x07\x1b"
)


@pytest.fixture(scope="module")
def report(
    task: Task, config: RunConfig, costs: list[StageCost], make_answers: Callable[..., list[Any]]
) -> dict[str, Any]:
    pairs = make_answers(task, 40)
    best_of_n = synthetic_best_of_n(task, pairs, config.report)
    return build_report(task, pairs, costs, config) | {"best_of_n": best_of_n}


@pytest.fixture(scope="module")
def html(report: dict[str, Any]) -> str:
    return render_page(report)


def test_the_page_is_well_formed_and_names_every_system_with_its_figures(report: dict[str, Any], html: str) -> None:
    page = ParsedPage(html)
    for system in report["systems"].values():
        assert system["title"] in page.text
        for figure in system["metrics"].values():
            assert f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" in page.text
    assert page.tags.count("svg") == page.tags.count("desc") == 8
    assert page.tags.count("title") == 9


def test_the_page_says_what_the_card_says(report: dict[str, Any], html: str) -> None:
    text = ParsedPage(html).text
    for section in report_sections(report):
        assert section.title in text
        for sentence in section.sentences:
            assert sentence in text


def test_best_of_n_is_drawn_and_said_under_the_plot_and_left_out_where_it_is_not_known(
    report: dict[str, Any], html: str
) -> None:
    points = report["best_of_n"]["points"]
    described = "; ".join(
        f"{point['num_drafts']}: HYDRA, personal heads {point['quality']['personal']['value']:.3f}, "
        f"HYDRA, shared head {point['quality']['shared']['value']:.3f}, "
        f"HYDRA, routed shared heads {point['quality']['routed']['value']:.3f}, "
        f"Oracle best of drafts {point['oracle']['value']:.3f}"
        for point in points
    )
    assert described in ParsedPage(html).text
    assert ParsedPage(html).text.count(best_of_n_sentence(report) or "") == 2
    for without in ({**report, "best_of_n": None}, {name: report[name] for name in report if name != "best_of_n"}):
        assert "Best of N" not in render_page(without)


def test_routed_heads_that_choose_as_the_shared_head_are_not_drawn(report: dict[str, Any]) -> None:
    best = json.loads(json.dumps(report["best_of_n"]))
    for point in best["points"]:
        point["quality"]["routed"] = point["quality"]["shared"]
    assert list(best_of_n_curve(best, system_titles_of(report))["titles"]) == [
        "hydra_personal",
        "hydra_shared",
        "oracle",
    ]


def system_titles_of(report: dict[str, Any]) -> dict[str, str]:
    return {name: system["title"] for name, system in report["systems"].items()}


def test_the_page_asks_for_nothing_outside_itself(html: str) -> None:
    page = ParsedPage(html)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    references = [value or "" for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith("#") for value in references)
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert not re.search(r"https?://(?!www\.w3\.org/)", html)


def test_identifiers_are_unique_and_references_resolve(html: str) -> None:
    page = ParsedPage(html)
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    assert {value for name, value in page.attributes if name == "href"} <= {f"#{each}" for each in identifiers}


def test_plots_take_their_colours_from_the_theme(html: str) -> None:
    svgs = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert not any(re.search(r"#[0-9a-f]{6}\b", svg) for svg in svgs)
    assert all("var(--ink)" in svg for svg in svgs)


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_texts_of_users_are_shown_and_never_interpreted(report: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(report))
    hostile["run"] = HOSTILE
    for example in hostile["examples"]:
        example |= {"input": HOSTILE, "target": HOSTILE, "user_id": HOSTILE, "query_id": HOSTILE}
        example["answers"] = {
            name: {"value": HOSTILE, "error": None} if name == "hydra" else {"value": None, "error": HOSTILE}
            for name in example["answers"]
        }
    hostile["heads"]["reranker"] = {HOSTILE: 3}
    hostile["gate"] = {HOSTILE: {**hostile["gate"]["hydra_shared"], "reasons": [HOSTILE]}}
    hostile["features"] = [{"scorer": HOSTILE, "name": HOSTILE, "weight": 1.0}]
    hostile["config"]["run"] = HOSTILE
    hostile["stages"][0]["name"] = "<script>alert(2)</script>"
    hostile["versions"] = {HOSTILE: HOSTILE}
    html = render_page(hostile)
    page = ParsedPage(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert page.text.count(HOSTILE) > 10 * len(hostile["examples"])


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_page_survives_one_user_no_stage_and_no_example(
    task: Task, config: RunConfig, make_answers: Callable[..., list[Any]]
) -> None:
    report = build_report(task, make_answers(task, 1), [], config)
    page = ParsedPage(render_page(report | {"examples": []}))
    assert "No difference can be shown" in page.text
    assert "one user alone gives no interval" in page.text


def luminance(colour: str) -> float:
    """By WCAG 2.2, of a colour as #rrggbb."""
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_from_what_they_are_drawn_on(html: str, scheme: str) -> None:
    themes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{[^}]*\}", html)]
    assert len(themes) == 2
    colours = themes[["light", "dark"].index(scheme)]
    assert (luminance(colours["paper"]) > 0.5) == (scheme == "light")
    for ground in ("paper", "sheet"):
        for text in ("ink", "muted", "accent"):
            assert contrast(colours[text], colours[ground]) >= 4.5
        for drawn in ("prompt", "count", "head", "worse"):
            assert contrast(colours[drawn], colours[ground]) >= 3
    # Numbers inside bars.
    assert contrast(colours["paper"], colours["worse"]) >= 4.5
    assert contrast(colours["ink"], colours["line"]) >= 4.5
