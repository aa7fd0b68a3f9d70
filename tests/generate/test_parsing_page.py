# ruff: noqa: RUF001
"""Each row of the table of answers, and the properties that stand behind its rows."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from answer_cases import CASES, KINDS, MAILS, RATINGS, TITLES, labelled, page
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.config import Task
from hydra_ray.generate.folding import fold_looks
from hydra_ray.generate.label_search import is_whole, search_of
from hydra_ray.generate.parsing import EMPTY, SEVERAL_LABELS, parse_answer
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Answer, Generation

DOCUMENT = Path(__file__).parents[2] / "docs" / "parsing.md"
ALL_TASKS = (*TASKS.values(), *KINDS.values())
CLOSED = [(task, label) for task in ALL_TASKS if task.is_closed for label in task.labels]

WRAPPERS: tuple[Callable[[str], str], ...] = (
    lambda text: f" {text}\n",
    lambda text: f'"{text}"',
    lambda text: f"“{text}”",
    lambda text: f"「{text}」",
    lambda text: f"**{text}**",
    lambda text: f"`{text}`",
    lambda text: f"```\n{text}\n```",
    lambda text: f"````text\n{text}\n````",
    lambda text: f"~~~~\n{text}\n~~~~\n",
    lambda text: f"Here it is:\n\n{text}",
    lambda text: f"Sure!\n\nHier ist die Antwort:\n\n{text}",
    lambda text: f"以下是答案：\n{text}",
    lambda text: f"Answer: {text}",
    lambda text: f"<answer>{text}</answer>",
    lambda text: f"\ufeff\u200b{text}\u200f",
)
"""What may stand around an answer of any kind."""
FRAGMENTS = (
    "", " ", "\n", "\n\n", '"', "“", "'", "`", "```", "```json\n", "~~~\n", "**", "*", "_", "# ", "- ", "1. ", "\n2. ",
    "4", "5", "/", "-", ".", ",", "4/5", "½", "★", ":", "：", "Title: ", "Sure! ", "Here is a title", "{", "}", "[",
    '{"a": "', '"}', "<answer>", "</answer>", "\\boxed{", "comedy", "dark ", "not ", "喜剧", "不", "コメディ", "ตลก",
    "\u200b", "\u0301", "İ", "\ud83d", "\x00", "\r", "\u2028", "c++", "Rain",
)  # fmt: skip
"""What the rules look for."""
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=12).map("".join)


def parse(task: Task, text: str) -> Answer:
    return parse_answer(task, Generation(text=text, num_tokens=1, finish_reason="stop"))


def test_the_page_is_made_from_the_table():
    assert DOCUMENT.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.task.name}: {case.what}")
def test_an_answer_becomes_what_the_table_says(case):
    answer = parse(case.task, case.text)
    assert (answer.value, answer.error) == (case.value, case.error)


def test_no_row_of_the_table_is_there_twice():
    keys = [(case.task.name, case.what) for case in CASES]
    assert len(set(keys)) == len(keys)


@given(st.sampled_from(CLOSED), st.lists(st.sampled_from(WRAPPERS), max_size=2, unique=True))
def test_a_label_in_any_wrapper_is_that_label(task_and_label, wrappers):
    task, label = task_and_label
    text = label
    for wrap in wrappers:
        text = wrap(text)
    assert parse(task, text).value == label


@given(
    st.sampled_from(("Rain", "Rain in Spain", "What's new?", "雨")),
    st.lists(st.sampled_from(WRAPPERS), max_size=2, unique=True),
)
def test_a_title_in_any_wrapper_is_that_title(title, wrappers):
    text = title
    for wrap in wrappers:
        text = wrap(text)
    assert parse(TITLES, text).value == title


@given(st.sampled_from(ALL_TASKS), texts)
def test_any_text_is_an_answer_or_an_error_and_a_value_is_itself(task, text):
    answer = parse(task, text)
    assert (answer.value is None) != (answer.error is None)
    if answer.value is not None:
        assert answer.value in task.labels or not task.is_closed
        assert parse(task, answer.value).value == answer.value


@given(st.lists(st.text("ab .-+c", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
def test_labels_of_any_form_are_found_by_their_own_spelling(labels):
    labels = tuple(label.strip() for label in labels if label.strip())
    if labels and len({*labels}) == len(labels):
        task = labelled("any", *labels)
        assert [parse(task, label).value for label in labels] == list(labels)


@given(st.lists(st.sampled_from([*"ab", " ", "-", "ab", "喜", "剧", "ト"]), min_size=1, max_size=30).map("".join))
def test_the_search_finds_what_a_search_of_each_label_finds(text):
    labels = ("a", "b", "ab", "a b", "b a", "喜", "喜剧", "トト")
    found, _ = search_of(labels).contained(text)
    assert sorted(found) == sorted(_found_one_by_one(labels, text))


def _found_one_by_one(labels: tuple[str, ...], text: str) -> set[str]:
    folded = search_of(labels).fold(text)
    spans = [
        (start, start + len(label))
        for label in labels
        for start in range(len(folded))
        if folded.startswith(label, start) and is_whole(folded, start, start + len(label))
    ]
    return {
        folded[a:b] for a, b in spans if not any(c <= a and b <= d and d - c > b - a for c, d in spans)
    }  # fmt: skip


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called by some work, those of C included."""
    number = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return number


def many_labels(number: int) -> tuple[str, ...]:
    return tuple(f"label {place} of many" for place in range(number))


def test_work_grows_as_the_number_of_labels_that_an_answer_names():
    def work(number: int) -> int:
        task = labelled("many", *many_labels(number))
        text = ", ".join(task.labels)
        assert parse(task, "x").error is not None  # builds the search
        return calls_of(lambda: parse(task, text))

    assert work(2000) < 4.4 * work(500)


HOSTILE = (
    "(", "1", "1.", "1 ", "4-", "4/", '"', "'", "“‘", "`", "```\n", "*", "**", "_", "[", "{", '{"a":', "<b>", "Title: ",
    "Title:\n", "a:\n", "Sure! ", "Sure!\n", "Here is a title ", "- ", "1. ", "- a\n", "# ", "comedy ", "not a ",
    "&amp;", "Answer: ```\n", "```\n~~~\n", " ", "\n", "\u200b ", "\u0301", "★", "★ ", "喜剧", "不", "\\boxed{", "$",
    "#", "Answer: comedy\n", "Explanation: ", "\\boxed{a}", "<answer>a</answer>", "Final answer: x. ", "4 out of ",
    "<|a|>", "긍정입니다 ",
)  # fmt: skip


@pytest.mark.parametrize("task", [RATINGS, TITLES, MAILS, KINDS["one of LaMP's tags"]], ids=lambda task: task.name)
@pytest.mark.parametrize("piece", HOSTILE)
def test_work_grows_as_the_length_of_an_answer(task, piece):
    def work(length: int) -> int:
        text = piece * (length // len(piece))
        return calls_of(lambda: parse(task, text))

    assert work(8000) <= 4.4 * work(2000) + 500


@pytest.mark.parametrize("task", [RATINGS, TITLES, MAILS, KINDS["one of LaMP's tags"]], ids=lambda task: task.name)
def test_a_quarter_of_a_megabyte_of_a_mark_ends(task):
    # Quadratic work inside an expression is not seen in the number of calls: it would take minutes.
    for mark in ("~", "`", "~~~ ", "<", "{", '"', "4", "\u2605", "\\boxed{", "Answer: "):
        assert parse(task, mark * (2**18 // len(mark))).num_tokens == 1


def test_a_number_of_any_length_is_no_rating():
    for text in ("9" * 5000, "0." + "3" * 5000, "1" * 100_000, "1e999", "-" * 1000 + "4" * 1000):
        assert parse(RATINGS, text).value is None


def test_a_long_run_of_combining_marks_is_cut_before_it_is_sorted():
    marks = "e" + "\u0301\u0323" * 100_000
    assert len(fold_looks(marks)) < 40
    assert parse(RATINGS, marks + " 4").value == "4"
    assert fold_looks("e" + "\u0323\u0301" * 15) == fold_looks("e" + "\u0301\u0323" * 15)


def test_json_that_is_nested_too_deeply_is_text():
    assert parse(RATINGS, "[" * 100_000 + "]" * 100_000).value is None
    assert parse(TITLES, '{"a":' * 5000 + "1" + "}" * 5000).value is not None


def test_a_label_that_looks_like_another_is_told_by_its_spelling():
    task = labelled("alike", "sınıf", "sinif", "-1", "−1")
    assert [parse(task, label).value for label in task.labels] == list(task.labels)


def test_labels_that_differ_in_case_are_both_in_a_text_that_does_not_say_which():
    task = labelled("case", "Us", "US")
    assert parse(task, "it is us").error == SEVERAL_LABELS


def test_an_answer_of_markup_only_is_empty():
    assert parse(TITLES, "```\n```").error == EMPTY
