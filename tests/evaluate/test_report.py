import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

import hydra_ray.evaluate.report
from hydra_ray.config import RunConfig, Task
from hydra_ray.errors import InputError, StorageError
from hydra_ray.evaluate import evaluation_data
from hydra_ray.evaluate.metrics import metrics_of, score_answer
from hydra_ray.evaluate.report import FeatureWeight, StageCost, build_report
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.evaluate.significance import holm
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import SystemAnswer

MakeAnswers = Callable[..., list[Any]]


def main_values(task: Task, pairs: list[Any], system: str) -> list[list[float]]:
    """The main metric of each query of each user, by plain loops."""
    values = []
    for user, answered in pairs:
        targets = {query.query_id: query.target for query in user.queries}
        values.append(
            [
                score_answer(task, answer.value, targets[query.query_id])[0]
                for query in answered.queries
                for answer in query.answers
                if answer.system == system
            ]
        )
    return values


def replace_answers(pairs: list[Any], change: Callable[[SystemAnswer], SystemAnswer | None]) -> list[Any]:
    def changed(query: Any) -> Any:
        kept = (change(answer) for answer in query.answers)
        return dataclasses.replace(query, answers=tuple(answer for answer in kept if answer is not None))

    return [
        (user, dataclasses.replace(answered, queries=tuple(changed(query) for query in answered.queries)))
        for user, answered in pairs
    ]


def test_every_system_gets_its_metric_over_all_queries(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 30, num_queries=2)
    report = build_report(task, iter(pairs), [], config)
    main = metrics_of(task)[0].name
    assert (report["num_users"], report["num_queries"]) == (30, 60)
    for system, entry in report["systems"].items():
        assert entry["metrics"][main]["low"] <= entry["metrics"][main]["value"] <= entry["metrics"][main]["high"]
        if system != "oracle":
            values = [value for user in main_values(task, pairs, system) for value in user]
            assert entry["metrics"][main]["value"] == pytest.approx(sum(values) / len(values))


def test_the_oracle_takes_the_best_of_the_pool_and_so_bounds_what_is_in_it(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 25)
    report = build_report(task, pairs, [], config)
    main = metrics_of(task)[0]
    best = []
    for user, answered in pairs:
        target = user.queries[0].target
        value = max(answered.queries[0].pool, key=lambda value: quality(task, value, target))
        best.append(score_answer(task, value, target)[0])
    oracle = report["systems"]["oracle"]["metrics"][main.name]["value"]
    assert oracle == pytest.approx(sum(best) / len(best))
    sign = 1 if main.is_higher_better else -1
    assert all(sign * oracle >= sign * entry["metrics"][main.name]["value"] for entry in report["systems"].values())


def test_differences_are_of_named_pairs_and_vanish_between_equals(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 30)
    twins = []
    for user, answered in pairs:
        (query,) = answered.queries
        hydra = next(answer for answer in query.answers if answer.system == "hydra")
        answers = [dataclasses.replace(hydra, system=a.system) if a.system == "rag_1" else a for a in query.answers]
        query = dataclasses.replace(query, answers=tuple(answers))
        twins.append((user, dataclasses.replace(answered, queries=(query,))))
    report = build_report(task, twins, [], config)
    systems = report["systems"]
    assert set(report["differences"]["hydra"]) == set(systems) - {"hydra"}
    assert {"hydra_shared", "hydra_shuffled"} <= set(report["differences"]["hydra_personal"])
    for first, by_second in report["differences"].items():
        for second, difference in by_second.items():
            for metric, figure in difference.items():
                values = [systems[name]["metrics"][metric]["value"] for name in (first, second)]
                assert figure["value"] == pytest.approx(values[0] - values[1])
    for figure in report["differences"]["hydra"]["rag_1"].values():
        assert figure == {"value": 0, "low": 0, "high": 0}
    assert report["significance"]["hydra"]["rag_1"]["p_value"] == 1
    assert report["comparisons"]["rag_1"]["overall"] == {"win": 0, "tie": 30, "loss": 0}


def test_wins_are_counted_by_user_and_add_up_over_history_groups(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 40, num_queries=3)
    report = build_report(task, pairs, [], config)
    sign = 1 if metrics_of(task)[0].is_higher_better else -1
    advantages = [
        sign * (sum(mine) - sum(theirs))
        for mine, theirs in zip(main_values(task, pairs, "hydra"), main_values(task, pairs, "vote"), strict=True)
    ]
    by_group = report["comparisons"]["vote"]
    assert by_group["overall"]["win"] == sum(advantage > 1e-9 for advantage in advantages)
    assert by_group["overall"]["loss"] == sum(advantage < -1e-9 for advantage in advantages)
    for outcome in ("win", "tie", "loss"):
        assert by_group["overall"][outcome] == sum(by_group[group][outcome] for group in report["history_groups"])
    assert sum(group["num_users"] for group in report["history_groups"].values()) == 40


def test_a_system_that_always_failed_is_reported_at_its_worst(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = replace_answers(make_answers(task, 10), lambda a: SystemAnswer(system=a.system, value=None, error="died"))
    pairs = [
        (user, dataclasses.replace(each, queries=tuple(dataclasses.replace(q, pool=()) for q in each.queries)))
        for user, each in pairs
    ]
    report = build_report(task, pairs, [], config)
    for entry in report["systems"].values():
        assert entry["failed_answers"] == 10
        if task.kind != "rating":
            assert all(figure["value"] == 0 for figure in entry["metrics"].values())
        else:
            assert entry["metrics"]["mae"]["value"] >= 2


def test_one_user_with_one_query_is_reported_without_intervals(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    report = build_report(task, make_answers(task, 1), [], config)
    assert report["num_queries"] == 1
    assert report["systems"]["hydra"]["metrics"][metrics_of(task)[0].name]["low"] is None


def test_the_report_is_plain_json_and_the_same_every_time(
    task: Task, config: RunConfig, costs: list[StageCost], make_answers: MakeAnswers
) -> None:
    report = build_report(task, make_answers(task, 12), costs, config)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report == build_report(task, make_answers(task, 12), costs, config)


def test_failure_shares_are_of_the_answers_and_heads_are_counted_by_user(
    task: Task, config: RunConfig, costs: list[StageCost], make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 12)
    report = build_report(task, pairs, costs, config)
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert stages["probes"]["failed_fraction"] == 17 / 1440
    assert stages["drafts"]["failed_fraction"] == 0
    assert stages["reranker"]["failed_fraction"] is None
    assert sum(report["heads"]["reranker"].values()) == sum(report["heads"]["adapter"].values()) == 12
    assert report["versions"]["numpy"]


def test_weights_of_plain_features_reach_the_page(task: Task, config: RunConfig, make_answers: MakeAnswers) -> None:
    weight = FeatureWeight(scorer="adapter", name="vote_share", weight=-0.75)
    report = build_report(task, make_answers(task, 6), [], config, [weight])
    assert report["features"] == [{"scorer": "adapter", "name": "vote_share", "weight": -0.75}]
    assert '<th scope="row">adapter</th><td>vote_share</td><td>\N{MINUS SIGN}0.750</td>' in render_page(report)


def test_queries_without_a_target_are_counted_and_left_out(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    (user, answered), *others = make_answers(task, 6)
    unknown = dataclasses.replace(user, queries=tuple(dataclasses.replace(q, target=None) for q in user.queries))
    report = build_report(task, [(unknown, answered), *others], [], config)
    assert (report["num_users"], report["num_queries"], report["num_unjudged_queries"]) == (5, 5, 1)
    with pytest.raises(InputError, match="known target"):
        build_report(task, [(unknown, answered)], [], config)


def test_at_most_two_examples_of_each_outcome_are_kept(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    examples = build_report(task, make_answers(task, 60), [], config)["examples"]
    outcomes = [example["outcome"] for example in examples]
    assert {outcome: outcomes.count(outcome) for outcome in set(outcomes)} == {"better": 2, "same": 2, "worse": 2}


def test_quality_is_higher_the_better_and_listed_by_user(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 30, num_queries=2)
    report = build_report(task, pairs, [], config)
    assert report["users"]["user_id"] == [user.user_id for user, _ in pairs]
    assert report["users"]["num_history"] == [len(user.history) for user, _ in pairs]
    assert report["users"]["num_queries"] == [2] * 30
    for system, entry in report["systems"].items():
        listed = report["users"]["quality"][system]
        assert entry["quality"]["value"] == pytest.approx(sum(listed) / 30, abs=1e-4)
        assert entry["quality"]["low"] <= entry["quality"]["value"] <= entry["quality"]["high"]
        if task.kind == "rating":
            assert entry["quality"]["value"] == pytest.approx(1 - entry["metrics"]["mae"]["value"] / 4)
            assert entry["quality"]["low"] == pytest.approx(1 - entry["metrics"]["mae"]["high"] / 4)
        if system != "oracle":
            errors = [sum(values) / 2 for values in main_values(task, pairs, system)]
            expected = [1 - error / 4 if task.kind == "rating" else error for error in errors]
            assert listed == pytest.approx(expected, abs=1e-4)


def test_figures_of_single_users_are_kept_for_few_users_only(
    task: Task, config: RunConfig, make_answers: MakeAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (evaluation_data, hydra_ray.evaluate.report):
        monkeypatch.setattr(module, "MAX_LISTED_USERS", 9)
    assert build_report(task, make_answers(task, 9), [], config)["users"] is not None
    assert build_report(task, make_answers(task, 10), [], config)["users"] is None


def test_significance_leaves_the_oracle_out_and_corrects_within_one_first_system(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    report = build_report(task, make_answers(task, 60), [], config)
    assert set(report["significance"]["hydra"]) == set(report["systems"]) - {"hydra", "oracle"}
    for family in report["significance"].values():
        adjusted = holm([test["p_value"] for test in family.values()])
        assert [test["adjusted_p_value"] for test in family.values()] == adjusted
        assert {test["test"] for test in family.values()} == {
            "exact McNemar" if task.kind == "classification" else "paired t"
        }


def test_tables_that_do_not_belong_together_are_refused(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    (first, first_answered), (second, second_answered) = make_answers(task, 2)
    with pytest.raises(StorageError, match="beside user"):
        build_report(task, [(first, second_answered), (second, first_answered)], [], config)
    with pytest.raises(StorageError, match="in one of the users and answers tables"):
        build_report(task, [(first, dataclasses.replace(first_answered, queries=()))], [], config)
    lacking = replace_answers([(second, second_answered)], lambda a: None if a.system == "vote" else a)
    with pytest.raises(StorageError, match="was answered by"):
        build_report(task, [(first, first_answered), *lacking], [], config)
    unknown = replace_answers(
        [(first, first_answered)], lambda a: dataclasses.replace(a, system="best") if a.system == "vote" else a
    )
    with pytest.raises(StorageError, match="'best'"):
        build_report(task, unknown, [], config)
