from collections.abc import Callable
from typing import Any

import pytest

from hydra_ray.config import RunConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.learning_curves import curve_over_runs, curve_table
from hydra_ray.evaluate.report import build_report

MakeAnswers = Callable[..., list[Any]]


def test_the_history_curve_is_the_mean_of_the_users_in_each_group(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    pairs = make_answers(task, 90, num_queries=2)
    report = build_report(task, pairs, [], config)
    users = report["users"]
    points = report["history_curve"]["points"]
    assert len(points) == 4
    assert sum(point["num_users"] for point in points) == 90
    for point in points:
        shortest, longest = map(int, point["label"].split(" to "))
        members = [place for place, length in enumerate(users["num_history"]) if shortest <= length <= longest]
        assert len(members) == point["num_users"]
        for name, figure in point["quality"].items():
            expected = sum(users["quality"][name][place] for place in members) / len(members)
            assert figure["value"] == pytest.approx(expected, abs=1e-4)
            assert figure["low"] <= figure["value"] <= figure["high"]
        gain = point["quality"]["hydra"]["value"] - point["quality"]["rag_k"]["value"]
        assert point["gain"]["value"] == pytest.approx(gain)


def test_few_users_make_one_point(task: Task, config: RunConfig, make_answers: MakeAnswers) -> None:
    assert len(build_report(task, make_answers(task, 19), [], config)["history_curve"]["points"]) == 1


def test_runs_become_a_curve_in_the_order_of_their_setting(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    reports = []
    for num_records in (10, 4, 20):
        probes = config.probes.model_copy(update={"num_records": num_records})
        changed = config.model_copy(update={"probes": probes})
        reports.append(build_report(task, make_answers(task, 12, seed=num_records), [], changed))
    curve = curve_over_runs(reports, "probes.num_records", systems=("rag_k", "hydra"))
    assert [point["label"] for point in curve["points"]] == ["4", "10", "20"]
    assert curve["points"][0]["quality"]["hydra"] == reports[1]["systems"]["hydra"]["quality"]
    lines = curve_table(curve, "N").splitlines()
    assert lines[0] == "| N | users | RAG k=4 | HYDRA |"
    value = reports[2]["systems"]["hydra"]["quality"]
    assert lines[-1].startswith("| 20 | 12 |")
    assert lines[-1].endswith(f"| {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}] |")


def test_runs_that_make_no_curve_are_refused(task: Task, config: RunConfig, make_answers: MakeAnswers) -> None:
    report = build_report(task, make_answers(task, 3), [], config)
    with pytest.raises(InputError, match=r"no setting 'probes\.records'"):
        curve_over_runs([report], "probes.records")
    with pytest.raises(InputError, match="of one task"):
        curve_over_runs([report, {**report, "task": {**report["task"], "name": "other"}}], "probes.num_records")
