"""How an example tells which records were chosen, what the drafts scored, and where they come from."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from parsed_page import ParsedPage
from synthetic import CLASSIFICATION, synthetic_config

from hydra_ray.adapt.explanation import Explanation, ShownDraft, ShownRecord
from hydra_ray.evaluate.rendering import render
from hydra_ray.evaluate.report import build_report
from hydra_ray.evaluate.report_examples import examples_of
from hydra_ray.stages.explained import with_explanation

NUM_DRAFTS = 12


def record(name: str, places: tuple[int, int], prompts: tuple[str, ...]) -> ShownRecord:
    return ShownRecord(
        record_id=name,
        input=f"about {name}",
        output=f"output {name}",
        places={"retriever": places[0], "personal": places[1]},
        prompts=prompts,
        probe=None if name == "b" else "crime",
        probe_quality=None if name == "b" else 0.25,
    )


@pytest.fixture(scope="module")
def report(make_answers: Callable[..., list[Any]]) -> dict[str, Any]:
    """A report whose one example is explained."""
    report = build_report(CLASSIFICATION, make_answers(CLASSIFICATION, 40), [], synthetic_config())
    first = next(each for each in report["examples"] if each["answers"]["hydra"]["value"] is not None)
    answer = first["answers"]["hydra"]["value"]
    drafts = [
        ShownDraft(
            value=answer if place == NUM_DRAFTS - 1 else f"draft {place}",
            proposals={"rag_k sampled": 3, "probe cut short": 1} if place == 0 else {},
            scores={"personal": -float(place)},
            quality=0.5,
        )
        for place in range(NUM_DRAFTS)
    ]
    records = (record("a", (1, 2), ("rag_k", "personal")), record("b", (2, 1), ("personal",)))
    shown = with_explanation(first, Explanation(records=records, drafts=tuple(drafts)))
    return {**report, "examples": [shown]}


@pytest.fixture(scope="module")
def example(report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The example with its explanation, and how it is shown."""
    return report["examples"][0], examples_html(report)


def examples_html(report: dict[str, Any]) -> str:
    return render("examples.html", SimpleNamespace(examples=examples_of(report)))


def rows(html: str, caption: str) -> list[list[str]]:
    """The cells of a table, without their tags."""
    table = next(each for each in re.findall(r"<table>.*?</table>", html, flags=re.DOTALL) if caption in each)
    body = re.search(r"<tbody>(.*)</tbody>", table, flags=re.DOTALL)
    assert body is not None
    found = re.findall(r"<tr.*?</tr>", body[1], flags=re.DOTALL)
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL) for row in found)
    return [[re.sub("<[^>]+>", "", cell).strip() for cell in row] for row in cells]


def test_what_the_retriever_chose_stands_beside_what_the_head_chose(example: tuple[dict[str, Any], str]) -> None:
    assert rows(example[1], "Records that were retrieved") == [
        ["about a → output a", "✓ 1", "✓ 2", "crime 0.250"],
        ["about b → output b", "2", "✓ 1", "nothing"],
    ]


def test_the_best_drafts_are_shown_and_the_answer_whatever_its_score(example: tuple[dict[str, Any], str]) -> None:
    shown, html = example
    found = rows(html, "What each draft scored")
    assert [row[0] for row in found] == [*(f"draft {n}" for n in range(8)), shown["answers"]["hydra"]["value"]]
    assert [row[1] for row in found[1:3]] == ["\N{MINUS SIGN}1.000", "\N{MINUS SIGN}2.000"]
    assert f"{NUM_DRAFTS - len(found)} more are left out" in html
    assert found[0][-1] == "RAG k=4 (3 sampled), one record alone cut short"


def test_an_example_tells_what_the_gate_chose_and_why(example: tuple[dict[str, Any], str]) -> None:
    shown, html = example
    titles = {"hydra_shared": "HYDRA, shared head", "hydra_personal": "HYDRA, personal heads"}
    assert f"<dt>The gate chose</dt><dd>{titles[shown['choice']]}</dd>" in html
    assert shown["reason"] in html


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\" onload='x'", "{{ 7 * 7 }}{% raw %}", "\u202e\x07"])
def test_texts_of_an_example_are_shown_as_text(report: dict[str, Any], text: str) -> None:
    (shown,) = report["examples"]
    records = [each | {"input": text, "output": text, "probe": text} for each in shown["records"]]
    drafts = [each | {"value": text, "proposals": {text: 1}} for each in shown["drafts"]]
    hostile = shown | {"records": records, "drafts": drafts, "reason": text, "choice": text}
    page, harmless = (ParsedPage(examples_html({**report, "examples": [each]})) for each in (hostile, shown))
    assert page.text.count(text) == 3 * len(records) + 2 * 8 + 2
    assert set(page.tags) <= set(harmless.tags)


def test_without_examples_the_page_says_so() -> None:
    assert "None were kept" in examples_html({"examples": []})
