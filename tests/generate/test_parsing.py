import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.config import Task
from hydra_ray.generate.parsing import (
    EMPTY,
    NO_LABEL,
    SEVERAL_LABELS,
    failed_answer,
    label_probabilities,
    parse_answer,
)
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Generation, Token

MOVIES, NEWS, RATINGS, HEADLINES = TASKS["LaMP_2M"], TASKS["LaMP_2N"], TASKS["LaMP_3"], TASKS["LaMP_4"]
CLOSED = [task for task in TASKS.values() if task.is_closed]


def parse(task, text):
    answer = parse_answer(task, Generation(text=text, num_tokens=3, finish_reason="stop"))
    assert answer.text == text
    assert answer.num_tokens == 3
    assert (answer.value is None) != (answer.error is None)
    return answer


@given(st.sampled_from([(task, label) for task in CLOSED for label in task.labels]), st.data())
def test_a_label_in_any_case_spacing_and_quotes_is_exactly_that_label(task_and_label, draw):
    task, label = task_and_label
    text = draw.draw(st.sampled_from([label, label.upper(), label.title(), label.replace(" ", " \n ")]))
    before = draw.draw(st.sampled_from(["", " ", '"', "“", "**"]))
    after = draw.draw(st.sampled_from(["", ".", '"', "”\n", "**", "!"]))
    answer = parse(task, before + text + after)
    assert (answer.value, answer.is_exact) == (label, True)


@pytest.mark.parametrize(
    ("task", "text", "value"),
    [
        (MOVIES, "It is a dark comedy, I think.", "dark comedy"),
        (MOVIES, "Tag: Sci-Fi", "sci-fi"),
        (MOVIES, "comedy; comedy", "comedy"),
        (NEWS, "The category is style & beauty", "style & beauty"),
        (RATINGS, "4.0", "4"),
        (RATINGS, "4 stars", "4"),
        (RATINGS, "4/5", "4"),
        (RATINGS, "I would say: 3.", "3"),
    ],
)
def test_the_only_label_in_a_longer_answer_counts_and_is_marked(task, text, value):
    answer = parse(task, text)
    assert (answer.value, answer.is_exact) == (value, False)


@pytest.mark.parametrize(
    ("task", "text", "error"),
    [
        (MOVIES, "comedy, not dark comedy", SEVERAL_LABELS),
        (MOVIES, "action or comedy", SEVERAL_LABELS),
        (MOVIES, "non-violence", NO_LABEL),
        (MOVIES, "comedies", NO_LABEL),
        (NEWS, "healthy liv", NO_LABEL),
        (NEWS, "sport", NO_LABEL),
        (RATINGS, "4/10", SEVERAL_LABELS),
        (RATINGS, "between 3 and 4", SEVERAL_LABELS),
        (RATINGS, "4.5", NO_LABEL),
        (RATINGS, "-4", NO_LABEL),
        (RATINGS, "14", NO_LABEL),
        (RATINGS, "good", NO_LABEL),
    ],
)
def test_an_answer_without_one_clear_label_is_an_error(task, text, error):
    answer = parse(task, text)
    assert (answer.value, answer.error, answer.is_exact) == (None, error, False)


@given(st.sampled_from(list(TASKS.values())), st.text(st.sampled_from(" \t\n\r\u00a0"), max_size=5))
def test_an_empty_answer_is_an_error_in_every_task(task, text):
    assert parse(task, text).error == EMPTY


@given(st.sampled_from(list(TASKS.values())), st.text(max_size=60))
def test_any_text_is_either_an_answer_or_an_error(task, text):
    answer = parse(task, text)
    if task.is_closed:
        assert answer.value is None or answer.value in task.labels
    else:
        assert answer.value is None or answer.value.strip() == answer.value != ""


def test_labels_that_differ_in_case_only_are_told_apart_by_their_spelling():
    task = Task(name="case", kind="classification", instruction="?", labels=("A", "a", "b"))
    assert parse(task, " a ").value == "a"
    assert parse(task, "'a'").error == SEVERAL_LABELS


def test_labels_keep_the_marks_that_belong_to_them():
    task = Task(name="marks", kind="classification", instruction="?", labels=("c", "c++", "c#"))
    assert [parse(task, text).value for text in ("C", "c++.", '"C#"')] == ["c", "c++", "c#"]
    scale = Task(name="scale", kind="rating", instruction="?", labels=("-1", "0", "1"))
    assert [parse(scale, text).value for text in ("-1", "-1.0", "it is 1")] == ["-1", "-1", "1"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("  A Title \n", "A Title"),
        ('Title: "A Title"', "A Title"),
        ("Headline:\n“A Title”\n\nThis headline says it all.", "A Title"),
        ('"Yes" and "No"', '"Yes" and "No"'),
        ("What's new?", "What's new?"),
    ],
)
def test_a_title_is_freed_of_what_surrounds_it(text, value):
    answer = parse(HEADLINES, text)
    assert (answer.value, answer.is_exact) == (value, True)


def test_a_long_text_keeps_its_lines():
    task = Task(name="mail", kind="text", instruction="?", max_tokens=256)
    assert parse(task, "Dear all,\n\nno.\n").value == "Dear all,\n\nno."


def test_a_title_of_quotes_only_is_an_error():
    assert parse(HEADLINES, '""').error == EMPTY
    assert parse(HEADLINES, "\N{REPLACEMENT CHARACTER}\n\nWhy").error == EMPTY  # no reader would see its first line


def test_a_failed_request_is_an_answer_with_an_error_and_no_value():
    answer = failed_answer("timed out")
    assert (answer.text, answer.value, answer.error, answer.num_tokens) == ("", None, "timed out", 0)


LABELS = ("comedy", "classic", "romance", "dark comedy")


def tokens(**probabilities: float) -> tuple[Token, ...]:
    return tuple(Token(text=text, log_probability=math.log(each)) for text, each in probabilities.items())


def test_a_labels_probability_is_that_of_the_first_tokens_it_begins_with():
    first = tokens(rom=0.3, comedy=0.1, ROMAN=0.2)
    assert label_probabilities(LABELS, first) == pytest.approx((0.1, 0, 0.5, 0))


def test_a_first_token_of_several_labels_is_divided_among_them():
    assert label_probabilities(LABELS, tokens(c=0.4, co=0.2)) == pytest.approx((0.4, 0.2, 0, 0))


def test_what_no_label_begins_with_stays_out():
    first = (*tokens(The=0.5, medy=0.1, comedyx=0.1), Token(text=" ", log_probability=math.log(0.2)))
    assert label_probabilities(LABELS, first) == (0, 0, 0, 0)
    spaced = Token(text=" Com", log_probability=math.log(0.25))
    assert label_probabilities(LABELS, (*first, spaced)) == pytest.approx((0.25, 0, 0, 0))


@given(st.dictionaries(st.sampled_from([*"cdrxC", " c", "co", "cl", "romance", "dark", " "]), st.floats(0.01, 0.1)))
def test_probabilities_sum_to_what_the_told_tokens_of_labels_have(told):
    first = tokens(**told)
    expected = [0.0] * len(LABELS)
    for text, probability in told.items():
        owners = [n for n in range(len(LABELS)) if text.strip() and LABELS[n].startswith(text.strip().lower())]
        for owner in owners:
            expected[owner] += probability / len(owners)
    assert label_probabilities(LABELS, first) == pytest.approx(tuple(expected) if first else ())


def test_where_tokens_are_not_told_or_all_labels_begin_alike_nothing_is_known():
    assert label_probabilities(LABELS, ()) == ()
    bracket = (Token(text="[", log_probability=-0.1),)
    assert label_probabilities(TASKS["LaMP_1"].labels, bracket) == ()
    assert parse_answer(NEWS, Generation(text="sports", num_tokens=1, finish_reason="stop")).label_probabilities == ()


def test_an_answer_carries_what_the_generator_tells_of_its_probability():
    first = (Token(text="1", log_probability=math.log(0.7)), Token(text="5", log_probability=math.log(0.2)))
    generation = Generation(text="1", num_tokens=1, finish_reason="stop", log_probability=-0.4, first_tokens=first)
    answer = parse_answer(RATINGS, generation)
    assert answer.log_probability == -0.4
    assert answer.label_probabilities == pytest.approx((0.7, 0, 0, 0, 0.2))
