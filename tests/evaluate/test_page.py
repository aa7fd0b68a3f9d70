import copy
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from hydra_ray.config import RunConfig, Task
from hydra_ray.evaluate.findings import findings, headline, verdict
from hydra_ray.evaluate.page import render_page
from hydra_ray.evaluate.report import StageCost, build_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements are nested properly, and collects tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(
    task: Task, config: RunConfig, costs: list[StageCost], make_answers: Callable[..., list[Any]]
) -> dict[str, Any]:
    return build_report(task, make_answers(task, 40), costs, config)


@pytest.fixture(scope="module")
def html(report: dict[str, Any]) -> str:
    return render_page(report)


def with_difference(report: dict[str, Any], system: str, value: float, low: float | None, high: float | None) -> Any:
    changed = copy.deepcopy(report)
    changed["differences"][system][report["metrics"][0]["name"]] = {"value": value, "low": low, "high": high}
    return changed


def test_the_page_is_well_formed_and_names_every_system_with_its_figures(report: dict[str, Any], html: str) -> None:
    page = Page(html)
    for system in report["systems"].values():
        assert system["title"] in page.text
        for figure in system["metrics"].values():
            assert f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" in page.text
    assert page.tags.count("svg") == page.tags.count("desc") == 6
    assert page.tags.count("title") == 7


def test_the_page_asks_for_nothing_outside_itself(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    references = [value or "" for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith("#") for value in references)
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert not re.search(r"https?://(?!www\.w3\.org/)", html)


def test_identifiers_are_unique_and_references_resolve(html: str) -> None:
    page = Page(html)
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    assert {value for name, value in page.attributes if name == "href"} <= {f"#{each}" for each in identifiers}


def test_plots_take_their_colours_from_the_theme(html: str) -> None:
    svgs = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert not any(re.search(r"#[0-9a-f]{6}\b", svg) for svg in svgs)
    assert all("var(--ink)" in svg for svg in svgs)


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_texts_of_users_are_shown_and_never_interpreted(report: dict[str, Any]) -> None:
    attack = '<script>alert(1)</script> & "quoted" $headline ${lead}'
    hostile = json.loads(json.dumps(report))
    hostile["run"] = attack
    for example in hostile["examples"]:
        example |= {"input": attack, "target": attack, "user_id": attack, "query_id": attack}
        example["answers"] = {
            name: {"value": attack, "error": None} if name == "hydra" else {"value": None, "error": attack}
            for name in example["answers"]
        }
    hostile["heads"]["reranker"] = {attack: 3}
    hostile["config"]["run"] = attack
    html = render_page(hostile)
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert page.text.count(attack) > 10 * len(hostile["examples"])


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_page_survives_one_user_no_stage_and_no_example(
    task: Task, config: RunConfig, make_answers: Callable[..., list[Any]]
) -> None:
    report = build_report(task, make_answers(task, 1), [], config)
    page = Page(render_page(report | {"examples": []}))
    assert "No difference can be shown" in page.text
    assert "one user alone gives no interval" in page.text


@pytest.mark.parametrize(
    ("low", "high", "is_higher_better", "said"),
    [
        (0.1, 0.3, True, "better"),
        (0.1, 0.3, False, "worse"),
        (-0.3, -0.1, True, "worse"),
        (-0.3, -0.1, False, "better"),
        (-0.1, 0.3, True, "open"),
        (0.0, 0.3, True, "open"),
        (None, None, True, "open"),
    ],
)
def test_a_verdict_is_what_the_interval_allows(
    low: float | None, high: float | None, is_higher_better: bool, said: str
) -> None:
    assert verdict({"value": 0.2, "low": low, "high": high}, {"is_higher_better": is_higher_better}) == said


def test_the_headline_follows_the_interval(report: dict[str, Any]) -> None:
    rival = report["best_prompt_baseline"]
    sign = 1 if report["metrics"][0]["is_higher_better"] else -1
    better = with_difference(report, rival, 0.2 * sign, *sorted((0.1 * sign, 0.3 * sign)))
    worse = with_difference(report, rival, -0.2 * sign, *sorted((-0.1 * sign, -0.3 * sign)))
    assert headline(better).startswith("HYDRA answers better than")
    assert headline(worse).startswith("HYDRA answers worse than")
    assert headline(with_difference(report, rival, 0.1, -0.1, 0.3)).startswith("No difference can be shown")


def test_findings_name_the_control_and_what_to_beware_of(report: dict[str, Any]) -> None:
    few = report | {"num_users": 12, "num_unjudged_queries": 1}
    sentences = findings(with_difference(few, "hydra_shuffled", 0.0, -0.1, 0.1))
    assert any(
        "another user's heads" in each and "it is not shown that the heads are personal" in each for each in sentences
    )
    assert any("fewer than 20 users" in each for each in sentences)
    assert any("want of a target: 1 query." in each for each in sentences)
    assert any("stage probes 1.2% of" in each for each in sentences)
