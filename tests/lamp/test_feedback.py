"""Feedback on answers: how its rows are read, and what record each becomes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_preferences import PREFERENCE
from rouge_score import rouge_scorer

from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.choices import Choice, choices_told
from hydra_ray.lamp.feedback import Feedback, judgement_of, read_feedback, record_of, taught_users
from hydra_ray.lamp.field_checks import MalformedError
from hydra_ray.lamp.given_answers import GivenAnswer, GivenAnswers
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Candidate, Group, Judgement, Query, Record, Rejected
from hydra_ray.runs.updates import Line

TAGS, RATING, TEXT = TASKS["planted"], TASKS["LaMP_3"], TASKS["LaMP_5"]
TWO = TAGS.model_copy(update={"labels": TAGS.labels[:2]})
CHOICE = Choice(asked="Which?", candidates=("b", "a", "c")).text


def said(**fields: Any) -> Feedback:
    (kind,) = fields.keys() - {"date"}
    value = fields[kind]
    row: dict[str, Any] = {"source": "f", "position": 0, "user_id": "u", "query_id": "q", "run": None, "kind": kind}
    return Feedback(**row, value=str(value), is_place=not isinstance(value, str), date=fields.get("date"))


def record(task: Task, answer: str | None, text: str = "a story", **fields: Any) -> Record:
    given = GivenAnswer(query=Query(query_id="q", input=text, target=None), answer=answer)
    found = record_of(task, given, said(**fields))
    assert found is not None
    return found


def judgement(answer: str | None, *drafts: str, **fields: Any) -> Judgement | None:
    """What is said of the drafts of a text task, each of which has its place as its feature."""
    candidates = tuple(
        Candidate(candidate_id=text, text=text, plain=(float(place),), quality=None)
        for place, text in enumerate(drafts)
    )
    row = {"group_id": "q/personal", "query_id": "q", "variant": "personal", "is_pseudo": False, "query": "a story"}
    query = Query(query_id="q", input="a story", target=None)
    group = Group(**row, candidates=candidates) if drafts else None
    return judgement_of(TEXT, GivenAnswer(query=query, answer=answer, drafts=group), said(**fields), ["place"])


def better_than(answer: str | None, **fields: Any) -> set[tuple[str, frozenset[str]]]:
    """Each preferred candidate with those that it is preferred to, of a query with the candidates b, a and c."""
    told = choices_told(record(PREFERENCE, answer, CHOICE, **fields))
    return {(each.output, frozenset(Choice.of_text(each.input).candidates) - {each.output}) for each in told}


@pytest.mark.parametrize(
    ("task", "answer", "fields", "expected"),
    [
        (TAGS, "comedy", {"chosen": "Romance"}, "romance"),
        (TAGS, "comedy", {"edited": "romance"}, "romance"),
        (TAGS, "comedy", {"thumb": "up"}, "comedy"),
        (TAGS, None, {"chosen": "romance"}, "romance"),
        (RATING, "3", {"chosen": 5}, "5"),
        (TWO, TWO.labels[0], {"thumb": "down"}, TWO.labels[1]),
        (TEXT, "A title", {"edited": "My title"}, "My title"),
    ],
)
def test_what_was_right_is_the_output(task: Task, answer: str | None, fields: dict[str, Any], expected: str):
    found = record(task, answer, **fields, date=7)
    assert (found.input, found.output, found.date) == ("a story", expected, 7)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"chosen": "a"}, {("a", frozenset("bc"))}),
        ({"chosen": 0}, {("b", frozenset("ac"))}),
        ({"chosen": "2"}, {("c", frozenset("ab"))}),
        ({"edited": "my own"}, {("my own", frozenset("abc"))}),
        ({"edited": "c"}, {("c", frozenset("ab"))}),
        ({"edited": "down"}, {("down", frozenset("abc"))}),
        ({"thumb": "up"}, {("b", frozenset("ac"))}),
        ({"thumb": "down"}, {("a", frozenset("b")), ("c", frozenset("b"))}),
    ],
)
def test_a_preference_is_over_the_candidates_that_were_not_preferred(fields: dict[str, Any], expected: set[Any]):
    assert better_than("b", **fields) == expected


@pytest.mark.parametrize("fields", [{"thumb": "up"}, {"thumb": "down"}, {"chosen": 0}, {"edited": "b"}])
def test_what_is_said_of_an_only_draft_needs_another_text_to_compare_it_with(fields: dict[str, Any]):
    choice = Choice(asked="Which?", candidates=("b",)).text
    with pytest.raises(MalformedError, match="the only candidate"):
        record(PREFERENCE, "b", choice, **fields)


def test_a_chosen_text_goes_before_a_place():
    choice = Choice(asked="", candidates=("1", "0")).text
    assert record(PREFERENCE, "1", choice, chosen="0").output == "0"
    assert record(PREFERENCE, "1", choice, chosen=0).output == "1"


@pytest.mark.parametrize(
    ("task", "answer", "fields", "expected"),
    [
        (TAGS, "comedy", {"chosen": "no such"}, "is not a label of planted"),
        (TAGS, "comedy", {"edited": "no such"}, "is not a label of planted"),
        (TAGS, "comedy", {"thumb": "down"}, "does not say which of the"),
        (RATING, "3", {"thumb": "down"}, "which of the 4 other labels is right; say it in `chosen`"),
        (TAGS, None, {"thumb": "up"}, "the query 'q' got no answer that a thumb could be about"),
        (TEXT, None, {"thumb": "up"}, "the query 'q' got no answer that a thumb could be about"),
    ],
)
def test_what_says_nothing_of_the_right_answer_is_refused(
    task: Task, answer: str | None, fields: dict[str, Any], expected: str
):
    with pytest.raises(MalformedError, match=expected):
        record(task, answer, **fields)


@pytest.mark.parametrize(
    ("fields", "better"),
    [
        ({"chosen": "a title"}, "b"),
        ({"chosen": 2}, "c"),
        ({"thumb": "up"}, "a"),
        ({"thumb": "down"}, "bc"),
    ],
)
def test_what_is_said_of_generated_text_judges_the_drafts_and_is_no_record(fields: dict[str, Any], better: str):
    drafts = {"a": "the title", "b": "a title", "c": "no title"}
    found = judgement("the title", *drafts.values(), **fields)
    assert found is not None
    assert (found.input, found.features, found.is_preference) == ("a story", ("place",), True)
    assert [(each.text, each.plain) for each in found.drafts] == [
        (text, (n,)) for n, text in enumerate(drafts.values())
    ]
    assert [each.quality for each in found.drafts] == [float(letter in better) for letter in drafts]
    given = GivenAnswer(query=Query(query_id="q", input="a story", target=None), answer="the title")
    assert record_of(TEXT, given, said(**fields)) is None


def test_an_own_text_judges_each_draft_by_the_metric():
    found = judgement("the title", "the title", "my own", edited="my own title")
    assert found is not None
    assert not found.is_preference
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    expected = [scorer.score("my own title", each.text)["rougeL"].fmeasure for each in found.drafts]
    assert [each.quality for each in found.drafts] == pytest.approx(expected)
    assert judgement("the title", edited="my own title") is None  # without drafts it is a record alone


def test_a_judgement_is_named_as_the_record_of_its_query():
    found = judgement("the title", "the title", "my own", edited="my own title")
    assert found is not None
    assert found.judgement_id == record(TEXT, "the title", edited="my own title").record_id


def test_closed_tasks_and_preferences_have_records_alone():
    given = GivenAnswer(query=Query(query_id="q", input="a story", target=None), answer="comedy")
    assert judgement_of(TAGS, given, said(chosen="romance"), []) is None


@pytest.mark.parametrize(
    ("answer", "drafts", "fields", "expected"),
    [
        ("a", ("a", "b"), {"chosen": "c"}, "none of the 2 candidates, nor the place of one"),
        ("a", ("a", "b"), {"chosen": 2}, "none of the 2 candidates, nor the place of one"),
        ("c", ("a", "b"), {"thumb": "up"}, "none of the 2 drafts that the answer was chosen from"),
        ("a", ("a",), {"thumb": "down"}, "the answer was the only draft"),
        ("a", (), {"thumb": "up"}, "keeps no drafts"),
        ("a", (), {"chosen": "a"}, "keeps no drafts"),
    ],
)
def test_what_says_nothing_of_kept_drafts_is_refused(
    answer: str, drafts: tuple[str, ...], fields: dict[str, Any], expected: str
):
    with pytest.raises(MalformedError, match=expected):
        judgement(answer, *drafts, **fields)


def test_every_answer_that_something_is_said_of_counts_once(monkeypatch: pytest.MonkeyPatch):
    """Also a label that a thumb calls wrong, though nothing tells which one is right: else only praise would count."""
    answers = {"right": "comedy", "wrong": "comedy", "corrected": "comedy", "praised late": "comedy", "failed": None}
    found: dict[tuple[str, str, str | None], GivenAnswer] = {
        ("u", query_id, None): GivenAnswer(query=Query(query_id=query_id, input="a story", target=None), answer=answer)
        for query_id, answer in answers.items()
    }
    given = GivenAnswers(found=found, answered=frozenset("u"))
    monkeypatch.setattr("hydra_ray.lamp.feedback.given_answers", lambda *_: given)
    rows = [
        replace(said(**fields), query_id=query_id)
        for query_id, fields in (
            ("right", {"chosen": "Comedy"}),
            ("wrong", {"thumb": "down"}),
            ("corrected", {"edited": "romance"}),
            ("praised late", {"thumb": "down"}),
            ("praised late", {"thumb": "up"}),
            ("failed", {"chosen": "romance"}),
        )
    ]
    taught = taught_users(TAGS, Line(root="", taught_by="run", follows=()), 0, rows, [])
    assert (taught.num_answers, taught.num_preferred) == (4, 2)
    assert ["does not say which of the" in each.reason for each in taught.rejected] == [True, True]
    (sample,) = taught.samples
    assert [each.output for each in sample.user.history] == ["comedy", "romance", "comedy", "romance"]


@pytest.mark.parametrize("chosen", ["no such", "3", 3, -1, "-1", 1.5])
def test_a_chosen_answer_that_was_none_is_refused(chosen: object):
    with pytest.raises(MalformedError, match="none of the 3 candidates, nor the place of one"):
        better_than("b", chosen=chosen)


def test_a_query_has_one_record_and_another_of_the_same_id_its_own():
    praised, corrected = record(TAGS, "comedy", thumb="up"), record(TAGS, "comedy", chosen="romance")
    assert praised.record_id == corrected.record_id
    assert record(TAGS, "comedy", "another story", thumb="up").record_id != praised.record_id


def read(folder: Path, *rows: Any) -> list[Feedback | Rejected]:
    file = folder / "said.jsonl"
    file.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in rows))
    return list(read_feedback(input_files([str(file)])))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"query_id": "q", "thumb": "up"}, "user_id is missing, not text"),
        ({"user_id": "u", "thumb": "up"}, "query_id is missing, not text"),
        ({"user_id": "u", "query_id": "q"}, "the row has nothing to say; expected one of chosen, thumb, edited"),
        ({"user_id": "u", "query_id": "q", "thumb": "up", "edited": "x"}, "the row has thumb and edited to say"),
        ({"user_id": "u", "query_id": "q", "thumb": "sideways"}, "thumb is neither up nor down"),
        ({"user_id": "u", "query_id": "q", "thumb": True}, "thumb is bool, not text"),
        ({"user_id": "u", "query_id": "q", "edited": " "}, "edited is empty"),
        ({"user_id": "u", "query_id": "q", "edited": ["x"]}, "edited is list, not text"),
        ({"user_id": "u", "query_id": "q", "edited": "x", "date": "soon"}, "the date is neither seconds since 1970"),
        ([1], "the row is list, not an object"),
        ("{", "the line is not JSON"),
    ],
)
def test_a_row_that_is_no_feedback_is_rejected_with_its_place(tmp_path: Path, row: object, expected: str):
    good = {"user_id": "u", "query_id": "q", "thumb": "UP", "run": "test+june", "date": "1970-01-02"}
    first, second = read(tmp_path, good, row)
    assert isinstance(first, Feedback)
    assert (first.kind, first.value, first.run, first.date) == ("thumb", "up", "test+june", 86400)
    assert isinstance(second, Rejected)
    assert second.position == 1
    assert second.reason.startswith(expected)


def test_a_table_says_the_same(tmp_path: Path):
    file = tmp_path / "said.csv"
    file.write_text('user_id;query_id;chosen;thumb;edited\nu;q;;up;\nu;r;1;;\nv;q;;;"my; own"\n')
    found = [each for each in read_feedback(input_files([str(file)])) if isinstance(each, Feedback)]
    assert [(each.user_id, each.query_id, each.kind, each.value) for each in found] == [
        ("u", "q", "thumb", "up"),
        ("u", "r", "chosen", "1"),
        ("v", "q", "edited", "my; own"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "there is no row in what was handed in"),
        ("hello there\n", "whose first line names the columns user_id, query_id; write it as one of these"),
        ("user_id,thumb\nu,up\n", "whose first line names the columns user_id, query_id"),
    ],
)
def test_a_file_without_feedback_is_refused(tmp_path: Path, content: str, expected: str):
    file = tmp_path / "said.csv"
    file.write_text(content)
    with pytest.raises(InputError, match=expected):
        list(read_feedback(input_files([str(file)])))
