import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import CLASSIFICATION, TEXT, synthetic_answers, synthetic_config

from hydra_ray import storage
from hydra_ray.config import Task
from hydra_ray.evaluate.report import build_report
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.forget.run_results import (
    drop_from_report,
    drop_predictions,
    find_in_predictions,
    find_in_report,
    prediction_ids,
    traces_of,
)
from hydra_ray.lamp.predictions import official_predictions, own_prediction_id, read_predictions
from hydra_ray.rows import Prediction, to_dict, to_table

GONE = "dev:3"


def reported(folder: Path, task: Task) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A report in a folder, and the answers that it is made of."""
    pairs = synthetic_answers(task, 40)
    report = build_report(task, pairs, [], synthetic_config(task))
    storage.write_json(f"{folder}/metrics.json", report)
    storage.write_bytes(f"{folder}/report.html", render_page(report).encode())
    return report, [to_dict(answered) for _, answered in pairs]


@pytest.mark.parametrize("task", [CLASSIFICATION, TEXT], ids=lambda task: task.kind)
def test_a_report_and_its_page_lose_the_user_and_nothing_else(tmp_path: Path, task: Task):
    report, answers = reported(tmp_path, task)
    # The first users give the examples and the reasons that are kept.
    for user_id in [report["examples"][0]["user_id"], GONE]:
        before = storage.read_json(f"{tmp_path}/metrics.json")
        traces = traces_of(row for row in answers if row["user_id"] == user_id)
        assert find_in_report(f"{tmp_path}/metrics.json", {user_id, "nobody"}, traces) == {user_id: 1}
        drop_from_report(f"{tmp_path}/metrics.json", {user_id}, traces)
        after = storage.read_json(f"{tmp_path}/metrics.json")
        assert {name for name in before if before[name] != after[name]} <= {"users", "examples", "gate"}
        place = before["users"]["user_id"].index(user_id)
        for name, column in {**before["users"], **before["users"]["quality"]}.items():
            if name != "quality":
                kept = {**after["users"], **after["users"]["quality"]}[name]
                assert kept == column[:place] + column[place + 1 :]
        assert after["examples"] == [each for each in before["examples"] if each["user_id"] != user_id]
        for content in (json.dumps(after), Path(tmp_path, "report.html").read_text()):
            assert not any(reason in content for reason in traces.reasons[user_id])
            assert f'"{user_id}"' not in content
            assert f"of user {user_id}<" not in content
        assert find_in_report(f"{tmp_path}/metrics.json", {user_id}, traces) == {}


def test_a_page_of_another_version_is_removed(tmp_path: Path):
    report, answers = reported(tmp_path, TEXT)
    del report["harm"]
    storage.write_json(f"{tmp_path}/metrics.json", report)
    drop_from_report(f"{tmp_path}/metrics.json", {GONE}, traces_of(answers))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert GONE not in storage.read_json(f"{tmp_path}/metrics.json")["users"]["user_id"]


def test_predictions_are_found_by_lamps_query_id_or_by_own_user_and_query_id():
    assert list(prediction_ids("dev:17", "17")) == ["dev:17/17", "17"]
    assert list(prediction_ids("ann", "17")) == ["ann/17"]


def own_rows(pairs: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Rows of the answers table, one query each: user, query and answer."""
    return [
        {"user_id": user, "queries": [{"query_id": query, "answers": [{"system": "hydra", "value": answer}]}]}
        for user, query, answer in pairs
    ]


def written(folder: Path, pairs: list[tuple[str, str, str]]) -> str:
    """The predictions of some users' own queries as a run writes them."""
    rows = [
        Prediction(user_id=u, query_id=q, prediction_id=own_prediction_id(u, q), answer=a, choice="c")
        for u, q, a in pairs
    ]
    storage.write_part(f"{folder}/predictions.parquet", to_table(rows, Prediction))
    official_predictions("t", [(row.prediction_id, row.answer) for row in rows], f"{folder}/predictions.json")
    return f"{folder}/predictions.json"


ANN, ANN_ZQ = ("ann", "zq/qq"), ("ann/zq", "qq")


@pytest.mark.parametrize("answers", [("war", "war"), ("war", "comedy")])
@pytest.mark.parametrize("place", [0, 1])
def test_ids_that_look_alike_are_told_apart_by_the_table(tmp_path: Path, answers: tuple[str, str], place: int):
    pairs = [(*ANN, answers[0]), (*ANN_ZQ, answers[1]), ("bob", "zq", "war")]
    location = written(tmp_path, pairs)
    ids = [name for name, _ in read_predictions(location)[1]]
    assert ids == ["ann/zq/qq", "ann%2Fzq/qq", "bob/zq"]
    traces = traces_of(own_rows([pairs[place]]))
    assert find_in_predictions(location, traces) == {pairs[place][0]: 1}
    drop_predictions(location, traces)
    assert [name for name, _ in read_predictions(location)[1]] == [name for name in ids if name != ids[place]]


@pytest.mark.parametrize("place", [0, 1])
def test_forgetting_leaves_a_file_alone_that_the_user_is_not_in(tmp_path: Path, place: int):
    pairs = [(*ANN, "war"), (*ANN_ZQ, "war")]
    location = written(tmp_path, [pairs[1 - place]])
    traces = traces_of(own_rows([pairs[place]]))
    assert find_in_predictions(location, traces) == {}
    drop_predictions(location, traces)
    assert len(read_predictions(location)[1]) == 1


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("answers", [("war", "comedy"), ("war", "war")])
def test_in_files_of_earlier_versions_one_of_two_equal_ids_is_removed(
    tmp_path: Path, answers: tuple[str, str], place: int
):
    location = f"{tmp_path}/predictions.json"
    official_predictions("t", [("ann/zq/qq", each) for each in answers], location)
    pairs = [(*ANN, answers[0]), (*ANN_ZQ, answers[1])]
    traces = traces_of(own_rows([pairs[place]]))
    assert find_in_predictions(location, traces) == {pairs[place][0]: 1}
    drop_predictions(location, traces)
    assert read_predictions(location)[1] == [("ann/zq/qq", answers[1 - place])]
    drop_predictions(location, traces_of(own_rows(pairs)))
    assert read_predictions(location)[1] == []


@given(pairs=st.sets(st.tuples(st.text("a/%2F", min_size=1), st.text("a/%2F", min_size=1)), min_size=2))
def test_no_two_queries_of_own_users_have_one_id(pairs: set[tuple[str, str]]):
    assert len({own_prediction_id(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(("user_id", "query_id"), [("ann", "q"), ("ann b", "0"), ("ü:1", "a/b")])
def test_ids_without_a_slash_in_the_users_are_as_they_were(user_id: str, query_id: str):
    assert own_prediction_id(user_id, query_id) == f"{user_id}/{query_id}"


def test_a_prediction_file_loses_the_users_answers(tmp_path: Path):
    location = f"{tmp_path}/predictions.json"
    golds = [("17", "war"), ("ann/0", "war"), ("bob/0", "war"), ("0", "comedy")]
    official_predictions("LaMP_2", golds, location)
    rows = [{"user_id": each, "queries": [{"query_id": name}]} for each, name in (("dev:17", "17"), ("ann", "0"))]
    traces = traces_of(rows)
    assert find_in_predictions(location, traces) == {"dev:17": 1, "ann": 1}
    drop_predictions(location, traces)
    assert read_predictions(location) == ("LaMP_2", golds[2:])
