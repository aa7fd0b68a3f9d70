"""Preferences in users' own files, in all forms, and what is refused of them."""

import json
from itertools import permutations
from math import exp
from pathlib import Path
from typing import Any

import own_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_preferences import PREFERENCE

from hydra_ray.config import ColumnsConfig, Task
from hydra_ray.lamp.choices import Choice, Ranking, candidates_of, choices_told, items_of, lacks_candidates, shown_input
from hydra_ray.lamp.leaks import is_leaking
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Query, Record, Rejected, User

ANN = {
    "user_id": "ann",
    "is_new": False,
    "history": [
        {"id": "r", "input": "Tell me a joke.", "chosen": "long", "rejected": "dull", "date": "1970-01-02"},
        {"id": "s", "chosen": "short", "rejected": ["dull", "long"]},
    ],
    "queries": [{"id": "q", "input": "Which?", "candidates": ["new", "dull", "an older one"], "target": "dull"}],
}
READ = User(
    user_id="ann",
    is_new=False,
    history=(
        Record(record_id="r", input='["Tell me a joke.", "dull", "long"]', output="long", date=86400),
        Record(record_id="s", input='["", "dull", "long", "short"]', output="short", date=None),
    ),
    queries=(Query(query_id="q", input='["Which?", "new", "dull", "an older one"]', target="dull"),),
)
EVENTS = [
    {"user_id": "ann", "id": "r", "input": "Tell me a joke.", "chosen": "long", "rejected": "dull", "date": 86400},
    {"user_id": "ann", "id": "s", "input": "", "chosen": "short", "rejected": ["dull", "long"]},
    {"user_id": "ann", "id": "q", "input": "Which?", "candidates": ["new", "dull", "an older one"], "target": "dull"},
]


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "users.jsonl"
    path.write_bytes(own_files.lines(rows))
    return path


def reason(folder: Path, row: dict[str, Any]) -> str:
    (found,) = own_files.read(PREFERENCE, written(folder, row))
    assert isinstance(found, Rejected)
    return found.reason


def test_rows_of_users_become_choices(tmp_path: Path):
    assert own_files.users(PREFERENCE, written(tmp_path, ANN)) == [READ]


def test_parquet_says_the_same(tmp_path: Path):
    rejected = [{**each, "rejected": [each["rejected"]]} for each in ANN["history"][:1]] + ANN["history"][1:]
    path = tmp_path / "users.parquet"
    pq.write_table(pa.Table.from_pylist([{**ANN, "history": rejected}]), path)
    assert own_files.users(PREFERENCE, path) == [READ]


def test_events_say_the_same(tmp_path: Path):
    events = [{**each, "is_new": False} for each in EVENTS]
    assert own_files.users(PREFERENCE, written(tmp_path, *events)) == [READ]


def test_a_table_with_columns_of_other_names_has_pairs_and_queries(tmp_path: Path):
    path = tmp_path / "events.csv"
    path.write_text(
        'who,better,worse,options,answer\nann,long,dull,,\nann,"short","dull, but long",,\n'
        'ann,,,"[""new"", ""dull""]",new\n'
    )
    columns = ColumnsConfig(user_id="who", chosen="better", rejected="worse", candidates="options", target="answer")
    (user,) = own_files.users(PREFERENCE, path, columns=columns)
    assert [Choice.of_text(each.input).candidates for each in user.history] == [
        ("dull", "long"),
        ("dull, but long", "short"),
    ]
    assert user.queries == (Query(query_id="0", input='["", "new", "dull"]', target="new"),)


RATED = {"id": "r", "input": "Which?", "answers": [{"text": "fine", "rating": 3}, {"text": "dull", "rating": 1}]}
LISTS = [
    {"answers": [{"text": text, "rating": rating} for text, rating in zip("bcad", (5, 2, 5.0, "1"), strict=True)]},
    {"candidates": ["d", "c", "b", "a"], "ratings": [1, 2, 5, 5]},
]


@pytest.mark.parametrize("given", LISTS)
def test_a_rated_list_tells_that_each_answer_is_before_those_rated_lower(tmp_path: Path, given: dict[str, Any]):
    (user,) = own_files.users(PREFERENCE, written(tmp_path, {"user_id": "ann", "history": [given], "queries": []}))
    (record,) = user.history
    assert Ranking.of_text(record.input).levels == (("a", "b"), ("c",), ("d",))
    assert items_of(PREFERENCE, record.input) == ("a", "b", "c", "d")
    told = list(choices_told(record))
    assert [(Choice.of_text(each.input).candidates, each.output) for each in told] == [
        (("a", "c", "d"), "a"),
        (("b", "c", "d"), "b"),
        (("c", "d"), "c"),
    ]
    assert len({each.record_id for each in told}) == 3


@pytest.mark.parametrize("given", LISTS)
def test_a_table_has_rated_lists_as_json(tmp_path: Path, given: dict[str, Any]):
    path = tmp_path / "events.csv"
    cells = ",".join('"' + json.dumps(each).replace('"', '""') + '"' for each in given.values())
    path.write_text(f"user_id,{','.join(given)},input\nann,{cells},Which?\n")
    (user,) = own_files.users(PREFERENCE, path)
    assert user.queries == ()
    assert Ranking.of_text(user.history[0].input).asked == "Which?"


def test_two_rated_answers_are_a_choice(tmp_path: Path):
    chosen = {"id": "r", "input": "Which?", "chosen": "fine", "rejected": "dull"}
    rows = [{"user_id": "ann", "history": [each], "queries": []} for each in (RATED, chosen)]
    (one,), (other,) = (own_files.users(PREFERENCE, written(tmp_path, row)) for row in rows)
    assert one == other


def test_answers_that_are_rated_alike_tell_nothing(tmp_path: Path):
    tie = {"answers": [{"text": "a", "rating": 2}, {"text": "b", "rating": 2}]}
    (user,) = own_files.users(PREFERENCE, written(tmp_path, {"user_id": "ann", "history": [tie], "queries": []}))
    assert len(user.history) == 1
    assert list(choices_told(user.history[0])) == []


def test_probabilities_of_all_rankings_of_answers_add_up_to_one():
    scores = {"a": 0.3, "b": -1.2, "c": 2.0, "d": 0.1}
    total = 0.0
    for order in permutations(scores):
        probability = 1.0
        for choice, answer in Ranking(asked="", levels=tuple((each,) for each in order)).choices():
            probability *= exp(scores[answer]) / sum(exp(scores[each]) for each in choice.candidates)
        total += probability
    assert total == pytest.approx(1)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"answers": [{"text": "a", "rating": 1}]}, "record 0 has 1 candidates, expected two or more"),
        ({"answers": [{"text": "a"}, {"text": "b", "rating": 1}]}, "the rating of candidate 0 of record 0 is missing"),
        ({"answers": ["a", "b"]}, "answer 0 of record 0 is str, not an object"),
        ({"answers": [{"text": "a", "rating": 1}] * 2}, "record 0 has a candidate twice"),
        ({"answers": "[1"}, "the answers of record 0 are a text, expected a list, or one written as JSON"),
        ({"candidates": ["a", "b"], "ratings": [1]}, "record 0 has 2 candidates and 1 ratings, expected one for each"),
        ({"ratings": [1, 2]}, "the candidates of record 0 is missing, not a list"),
        ({"candidates": ["a", "b"], "ratings": [1, "x"]}, "the rating of candidate 1 of record 0 is a text, not a num"),
        ({"candidates": ["a", "b"], "ratings": [1, True]}, "the rating of candidate 1 of record 0 is bool, not text"),
        ({"candidates": ["a", "b"], "ratings": [1, "inf"]}, "the rating of candidate 1 of record 0 is not finite"),
        (
            {**RATED, "chosen": "fine"},
            "record 0 has ratings, and a chosen or a rejected candidate; give one of the two",
        ),
        ({**RATED, "ratings": [1]}, "record 0 has answers, and candidates or ratings; give one of the two"),
    ],
)
def test_a_list_that_is_not_rated_is_refused(tmp_path: Path, record: dict[str, Any], expected: str):
    assert reason(tmp_path, {"user_id": "ann", "history": [record], "queries": []}).startswith(expected)


def test_a_rated_list_is_never_asked_as_a_query(tmp_path: Path):
    rated = {"id": "r", "candidates": ["a", "b", "c"], "ratings": [2, 1, 1.5], "date": 9}
    events = [{"user_id": "ann", **rated}, {"user_id": "ann", "chosen": "a", "rejected": "b", "date": 1}]
    (user,) = own_files.users(PREFERENCE, written(tmp_path, *events))
    assert [each.record_id for each in user.history] == ["r"]
    assert [each.input for each in user.queries] == ['["", "a", "b"]']


def test_without_queries_the_newest_event_is_asked(tmp_path: Path):
    (user,) = own_files.users(PREFERENCE, written(tmp_path, *EVENTS[:2]))
    assert [each.record_id for each in user.history] == ["s"]
    assert user.queries == (Query(query_id="r", input='["Tell me a joke.", "dull", "long"]', target="long"),)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"chosen": "a"}, "the rejected candidate of record 0 is missing, not text"),
        ({"rejected": "a"}, "the chosen candidate of record 0 is missing, not text"),
        ({"chosen": "a", "rejected": " a "}, "the chosen candidate of record 0 is also a rejected one"),
        ({"chosen": "a", "rejected": ["b", "b"]}, "record 0 has a candidate twice"),
        ({"chosen": "a", "rejected": []}, "record 0 has 1 candidates, expected two or more"),
        ({"chosen": "a", "rejected": [" "]}, "candidate 0 of the rejected candidate of record 0 is empty"),
        ({"chosen": {"text": "a"}, "rejected": "b"}, "the chosen candidate of record 0 is dict, not text"),
        ({"input": "a", "output": "b"}, "the chosen candidate of record 0 is missing, not text"),
    ],
)
def test_a_record_that_is_no_preference_is_refused(tmp_path: Path, record: dict[str, Any], expected: str):
    assert reason(tmp_path, {"user_id": "ann", "history": [record], "queries": []}) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"id": "a"}, "query 0 has neither candidates to choose among nor an input to draft them for"),
        ({"input": " "}, "query 0 has neither candidates to choose among nor an input to draft them for"),
        (
            {"input": "a", "target": "b"},
            "query 0 has a target and no candidates; the target is one of them: give candidates, or leave target out",
        ),
        ({"candidates": "a"}, "the candidates of query 0 are a text, expected a list, or one written as JSON"),
        ({"candidates": {"a": 1}}, "the candidates of query 0 is dict, not a list"),
        ({"candidates": ["a"]}, "query 0 has 1 candidates, expected two or more"),
        ({"candidates": ["a", "a "]}, "query 0 has a candidate twice"),
        ({"candidates": ["a", None]}, "candidate 1 of query 0 is missing, not text"),
        ({"candidates": ["a", "b"], "target": "c"}, "the target of query 0 is none of its 2 candidates"),
        (
            {"candidates": ["a", "b"], "chosen": "a"},
            "query 0 has candidates, as a query, and a chosen one, as a record; give one of the two",
        ),
    ],
)
def test_a_query_without_a_choice_is_refused(tmp_path: Path, query: dict[str, Any], expected: str):
    assert reason(tmp_path, {"user_id": "ann", "history": [], "queries": [query]}) == expected


@pytest.mark.parametrize(
    "rows",
    [
        [
            {
                "user_id": "ann",
                "history": [{"input": "Why?", "chosen": "a", "rejected": "b"}],
                "queries": [{"input": "How?"}],
            }
        ],
        [
            {"user_id": "ann", "input": "Why?", "chosen": "a", "rejected": "b"},
            {"user_id": "ann", "input": "How?", "chosen": None},
        ],
    ],
)
def test_an_input_alone_is_a_query_whose_candidates_are_to_be_drafted(tmp_path: Path, rows: list[dict[str, Any]]):
    (user,) = own_files.users(PREFERENCE, written(tmp_path, *rows))
    (query,) = user.queries
    assert Choice.of_text(query.input) == Choice(asked="How?", candidates=())
    assert lacks_candidates(query)
    assert len(user.history) == 1


def test_a_training_users_query_needs_its_target(tmp_path: Path):
    row = {"user_id": "ann", "is_new": False, "history": [], "queries": [{"candidates": ["a", "b"]}]}
    assert reason(tmp_path, row) == "query 0 of a training user has no target"


def test_equal_choices_in_any_order_have_one_text(tmp_path: Path):
    turned = {**ANN, "history": [ANN["history"][0], {**ANN["history"][1], "rejected": ["long", "dull"]}]}
    assert own_files.users(PREFERENCE, written(tmp_path, turned)) == [READ]


@pytest.mark.parametrize(("candidates", "leaks"), [(["long", "Dull"], True), (["long", "other"], False)])
def test_a_query_whose_candidates_a_record_judged_gives_its_target_away(candidates: list[str], leaks: bool):
    query = Query(query_id="q", input=Choice(asked="anything", candidates=tuple(candidates)).text, target=None)
    user = User(user_id="u", is_new=True, history=READ.history, queries=(query,))
    assert is_leaking(PREFERENCE, user) == leaks


def test_candidates_and_items_are_those_of_the_text_or_of_the_task():
    text = READ.queries[0].input
    assert candidates_of(PREFERENCE, text) == items_of(PREFERENCE, text) == ("new", "dull", "an older one")
    assert shown_input(PREFERENCE, text) == "Which?\n[1] new\n[2] dull\n[3] an older one"
    rating = TASKS["LaMP_3"]
    assert candidates_of(rating, "fine") == ("1", "2", "3", "4", "5")
    assert items_of(rating, "fine") == ("fine",)
    assert shown_input(rating, "fine") == "fine"


def test_only_the_target_itself_is_right():
    assert quality(PREFERENCE, "dull", "dull") == 1
    assert quality(PREFERENCE, "Dull", "dull") == 0


@pytest.mark.parametrize(
    "wrong",
    [{"labels": ("a", "b")}, {"option_pattern": "(a)"}, {"is_history_labelled": False}, {"record_input": ()}],
)
def test_a_preference_task_has_no_settings_of_other_kinds(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"preference|labels are needed"):
        Task.model_validate({**json.loads(PREFERENCE.model_dump_json(exclude_defaults=True)), **wrong})
