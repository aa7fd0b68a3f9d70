"""Two runs compared, against plain loops and against the same answers judged as two systems of one run."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from parsed_page import ParsedPage
from synthetic import synthetic_config

from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.comparison import EvaluatedRun, compare_answers, evaluate_run, require_same_task
from hydra_ray.evaluate.comparison_page import render_comparison
from hydra_ray.evaluate.comparison_text import comparison_headline, comparison_text, coverage
from hydra_ray.evaluate.metrics import metrics_of, score_answer
from hydra_ray.evaluate.report import StageCost, build_report
from hydra_ray.evaluate.significance import holm
from hydra_ray.rows import AnsweredQuery, AnsweredUser, SystemAnswer, User

MakeAnswers = Callable[..., list[Any]]
Pairs = list[tuple[User, AnsweredUser]]
STAGES = {"probes": "0" * 16, "drafts": "1" * 16}


def evaluation(
    task: Task, pairs: Pairs, run: str = "before", stages: dict[str, str] | None = None, **sections: Any
) -> EvaluatedRun:
    costs = [
        StageCost(name=name, seconds=10.0, counters={"generated_tokens": 500 * place, "failed": 1}, is_reused=False)
        for place, name in enumerate(stages or STAGES, start=1)
    ]
    report = build_report(task, pairs, costs, synthetic_config(task, run, **sections))
    return evaluate_run(task, report, stages or STAGES, pairs)


def answer_of(query: AnsweredQuery, system: str) -> SystemAnswer:
    return next(answer for answer in query.answers if answer.system == system)


def as_two_systems(first: Pairs, second: Pairs) -> Pairs:
    """One run in which RAG answers what HYDRA did in the first run, and HYDRA what it did in the second."""
    earlier = {(a.user_id, q.query_id): answer_of(q, "hydra") for _, a in first for q in a.queries}
    both: Pairs = []
    for user, a in second:
        queries = tuple(
            dataclasses.replace(
                query,
                answers=(
                    dataclasses.replace(earlier[a.user_id, query.query_id], system="rag_k"),
                    answer_of(query, "hydra"),
                ),
            )
            for query in a.queries
        )
        both.append((user, dataclasses.replace(a, queries=queries)))
    return both


@pytest.fixture(scope="module")
def before(task: Task, make_answers: MakeAnswers) -> Pairs:
    return make_answers(task, 30, num_queries=2)


@pytest.fixture(scope="module")
def after(before: Pairs) -> Pairs:
    """The same users and targets; HYDRA answers what its personal heads did."""

    def changed(query: AnsweredQuery) -> AnsweredQuery:
        own = dataclasses.replace(answer_of(query, "hydra_shuffled"), system="hydra")
        return dataclasses.replace(query, answers=(*(a for a in query.answers if a.system != "hydra"), own))

    return [(user, dataclasses.replace(a, queries=tuple(map(changed, a.queries)))) for user, a in before]


@pytest.fixture(scope="module")
def comparison(task: Task, before: Pairs, after: Pairs) -> dict[str, Any]:
    # Another order of users and queries must not matter.
    turned = [(user, dataclasses.replace(a, queries=a.queries[::-1])) for user, a in after[::-1]]
    return compare_answers(task, evaluation(task, before), evaluation(task, turned, "after"))


def test_intervals_and_tests_are_those_of_two_systems_of_one_run(
    task: Task, comparison: dict[str, Any], before: Pairs, after: Pairs
) -> None:
    report = build_report(task, as_two_systems(before, after), [], synthetic_config(task))
    found = comparison["systems"]["hydra"]
    for name, figure in report["differences"]["hydra"]["rag_k"].items():
        assert found["metrics"][name]["difference"] == pytest.approx(figure)
    expected = report["significance"]["hydra"]["rag_k"]
    assert (found["test"], found["p_value"]) == (expected["test"], pytest.approx(expected["p_value"]))
    assert found["users"] == report["comparisons"]["rag_k"]["overall"]


def test_values_are_those_of_each_run_on_the_shared_queries(
    task: Task, comparison: dict[str, Any], before: Pairs, after: Pairs
) -> None:
    main = metrics_of(task)[0].name
    for place, pairs in enumerate((before, after)):
        targets = {query.query_id: query.target for user, _ in pairs for query in user.queries}
        values = [
            score_answer(task, answer_of(query, "hydra").value, targets[query.query_id])[0]
            for _, a in pairs
            for query in a.queries
        ]
        found = comparison["systems"]["hydra"]["metrics"][main]["values"][place]
        assert found == pytest.approx(sum(values) / len(values))


def test_queries_are_counted_one_by_one(task: Task, comparison: dict[str, Any], before: Pairs, after: Pairs) -> None:
    sign = 1 if metrics_of(task)[0].is_higher_better else -1
    counts = {"win": 0, "tie": 0, "loss": 0}
    for (user, earlier), (_, later) in zip(before, after, strict=True):
        targets = {query.query_id: query.target for query in user.queries}
        for one, two in zip(earlier.queries, later.queries, strict=True):
            scores = [score_answer(task, answer_of(q, "hydra").value, targets[q.query_id])[0] for q in (one, two)]
            advantage = sign * (scores[1] - scores[0])
            counts["win" if advantage > 0 else "loss" if advantage < 0 else "tie"] += 1
    assert comparison["systems"]["hydra"]["queries"] == counts


def test_systems_that_answered_alike_differ_by_nothing(comparison: dict[str, Any]) -> None:
    for system in ("zero_shot", "rag_k", "oracle"):
        found = comparison["systems"][system]
        assert found["p_value"] == 1
        assert found["users"]["win"] == found["users"]["loss"] == 0
        assert all(figure["difference"] == {"value": 0, "low": 0, "high": 0} for figure in found["metrics"].values())
    adjusted = holm([found["p_value"] for found in comparison["systems"].values()])
    assert [found["adjusted_p_value"] for found in comparison["systems"].values()] == adjusted


def test_queries_of_one_run_alone_are_counted_and_left_out(
    task: Task, comparison: dict[str, Any], before: Pairs, after: Pairs
) -> None:
    (user, a), *others = after
    single = (
        dataclasses.replace(user, queries=user.queries[:1]),
        dataclasses.replace(a, queries=a.queries[:1]),
    )
    found = compare_answers(task, evaluation(task, before[1:]), evaluation(task, [single, *others], "after"))
    assert (found["num_users"], found["num_queries"]) == (29, 58)
    assert found["alone"] == [{"num_users": 0, "num_queries": 0}, {"num_users": 1, "num_queries": 1}]
    assert "1 user and 1 query only in after" in coverage(found)
    assert "0 users and 0 queries only in before" in coverage(comparison)


def test_settings_and_versions_that_differ_are_named_as_overrides_name_them(task: Task, before: Pairs) -> None:
    first = evaluation(task, before)
    second = evaluation(task, before, "after", drafts={"num_samples": 3}, probes={"num_records": 7})
    second = dataclasses.replace(second, report=second.report | {"versions": {**first.report["versions"], "ray": "9"}})
    found = compare_answers(task, first, second)
    differing = {each["name"]: each["values"] for each in found["settings"]}
    assert differing == {"drafts.num_samples": [8, 3], "probes.num_records": [10, 7]}
    assert [(each["name"], each["values"][1]) for each in found["versions"]] == [("ray", "9")]
    assert "drafts.num_samples" in comparison_text(found)
    assert "No setting differs" in comparison_text(compare_answers(task, first, first))


def test_costs_stand_side_by_side_and_shared_results_are_marked(task: Task, before: Pairs) -> None:
    other = {"probes": STAGES["probes"], "drafts": "2" * 16, "gate": "3" * 16}
    found = compare_answers(task, evaluation(task, before), evaluation(task, before, "after", other))
    assert {stage["name"]: stage["is_same"] for stage in found["stages"]} == {
        "probes": True,
        "drafts": False,
        "gate": False,
    }
    assert found["stages"][2]["costs"]["seconds"] == [None, 10]
    assert found["totals"]["generated_tokens"] == [1500, 3000]
    assert "cost" not in found["totals"]
    text = comparison_text(found)
    assert "+1,500" in text
    assert "One result for both runs: probes." in text


def test_the_headline_says_no_more_than_interval_and_test_allow(comparison: dict[str, Any]) -> None:
    main = comparison["metrics"][0]
    sign = 1 if main["is_higher_better"] else -1
    for advantage, p_value, said in ((0.2, 0.01, "better"), (-0.2, 0.01, "worse"), (0.2, 0.2, "No difference")):
        changed = json.loads(json.dumps(comparison))
        figure = {"value": sign * advantage, "low": sign * advantage - 0.1, "high": sign * advantage + 0.1}
        changed["systems"]["hydra"]["metrics"][main["name"]]["difference"] = figure
        changed["systems"]["hydra"]["p_value"] = p_value
        assert said in comparison_headline(changed)


def test_runs_that_do_not_compare_are_refused(task: Task, before: Pairs, make_answers: MakeAnswers) -> None:
    first = evaluation(task, before)
    other_task = {**first.report["task"], "labels": ["a", "b"], "name": "other"}
    with pytest.raises(InputError, match="their tasks are"):
        require_same_task(first.report, {**first.report, "task": other_task})
    strangers = [
        (dataclasses.replace(user, user_id=f"x{user.user_id}"), dataclasses.replace(a, user_id=f"x{a.user_id}"))
        for user, a in before
    ]
    with pytest.raises(InputError, match="share none of their 60 and 60 judged queries"):
        compare_answers(task, first, evaluation(task, strangers, "after"))
    targets = make_answers(task, 30, num_queries=2, seed=1)
    with pytest.raises(InputError, match="one target in before and another in after"):
        compare_answers(task, first, evaluation(task, targets, "after"))


def test_a_comparison_is_plain_json_and_so_is_all_that_its_page_needs(comparison: dict[str, Any]) -> None:
    again = json.loads(json.dumps(comparison, allow_nan=False))
    assert again == comparison
    page = render_comparison(again)
    for found in again["systems"].values():
        assert found["titles"][0] in page
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "")


def test_names_and_settings_of_a_comparison_are_shown_as_text(comparison: dict[str, Any]) -> None:
    harmless, text = ParsedPage(render_comparison(comparison)), '<script>alert(1)</script> "{{ 7 * 7 }}" {% raw %}'
    hostile = json.loads(json.dumps(comparison)) | {"runs": [text, text], "systems_alone": [[text], []]}
    hostile["settings"] = [{"name": text, "values": [text, None]}]
    hostile["versions"] = [{"name": text, "values": [None, text]}]
    page = ParsedPage(render_comparison(hostile))
    assert page.text.count(text) > 30
    assert set(page.tags) == set(harmless.tags)
    assert (page.tags.count("article"), page.tags.count("table")) == (0, 5)


def test_the_printed_comparison_has_a_line_for_every_system(comparison: dict[str, Any]) -> None:
    lines = comparison_text(comparison).splitlines()
    for found in comparison["systems"].values():
        assert sum(line.startswith(f"  {found['titles'][0]}  ") for line in lines) == 1
