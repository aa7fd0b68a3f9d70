import unicodedata

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.quality import canonical_label, quality
from hydra_ray.lamp.tasks import TASKS

FULL_WIDTH = "".join(map(chr, (0xFF21, 0xFF22, 0xFF23)))  # ABC
TAGS, RATING, TITLE = TASKS["LaMP_2M"], TASKS["LaMP_3"], TASKS["LaMP_5"]


@examples(max_examples=50)
@given(st.sampled_from(TAGS.labels), st.sampled_from(TAGS.labels))
def test_a_label_is_right_only_where_it_is_the_target(value, target):
    assert quality(TAGS, f" {value.upper()}\n", target) == float(value == target)


@pytest.mark.parametrize("value", ["", "comedy", "dark comedy and comedy"])
def test_a_part_of_a_label_or_a_longer_text_is_wrong(value):
    assert quality(TAGS, value, "dark comedy") == 0


@pytest.mark.parametrize(("value", "expected"), [("5", 1), ("4", 0.75), ("1", 0), ("4.0", 0.75), ("-40", 0)])
def test_a_rating_loses_by_its_share_of_the_largest_distance(value, expected):
    assert quality(RATING, value, "5") == expected


@pytest.mark.parametrize("wrong", ["five", "", "nan", "inf"])
def test_a_rating_that_is_no_number_is_refused(wrong):
    with pytest.raises(InputError, match=r"lamp\.task"):
        quality(RATING, "4", wrong)


@examples(max_examples=50)
@given(st.text(alphabet="abc .,D", max_size=30), st.text(alphabet="abc .,D", max_size=30))
def test_text_quality_is_rouge_l_without_stemming(value, target):
    oracle = RougeScorer(["rougeL"], use_stemmer=False).score(target, value)["rougeL"].fmeasure
    assert quality(TITLE, value, target) == oracle


@examples(max_examples=50)
@given(st.sampled_from(sorted(TASKS)), st.data())
def test_a_target_is_its_own_best_answer(name, data):
    task = TASKS[name]
    target = data.draw(st.sampled_from(task.labels or ("A title",)))
    other = data.draw(st.sampled_from(task.labels or ("Another title", "")))
    assert quality(task, target, target) == 1
    assert 0 <= quality(task, other, target) <= 1


def test_labels_are_recognized_in_any_case_and_ratings_in_any_notation():
    assert canonical_label(TAGS, " Dark Comedy ") == "dark comedy"
    assert canonical_label(TAGS, "dark") is None
    assert canonical_label(RATING, "4.0") == "4"
    assert canonical_label(RATING, "4.5") is None
    assert canonical_label(RATING, "four") is None


def test_a_rating_task_with_one_label_does_not_divide_by_zero():
    task = Task(name="one", kind="rating", instruction="?", labels=("3",))
    assert quality(task, "3", "3") == 1


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_label_is_found_in_whatever_unicode_form(form):
    task = Task(
        name="t", kind="classification", instruction="Which?", labels=("café", "Straße", FULL_WIDTH, "ホテル", "한국")
    )
    for label in task.labels:
        assert canonical_label(task, unicodedata.normalize(form, f" {label.upper()} ")) == label
    assert canonical_label(task, "ﾎﾃﾙ") == "ホテル"
    assert canonical_label(task, "abc") == FULL_WIDTH
    assert canonical_label(task, "cafe") is None


def test_labels_that_differ_by_form_alone_stay_apart():
    task = Task(name="t", kind="classification", instruction="Which?", labels=("x2", "x²"))
    assert [canonical_label(task, text) for text in ("x2", "X²", "\N{FULLWIDTH LATIN SMALL LETTER X}2")] == [
        "x2",
        "x²",
        None,
    ]


def test_full_width_digits_are_a_rating():
    assert canonical_label(RATING, "\N{FULLWIDTH DIGIT FOUR}") == "4"
    assert canonical_label(RATING, "\N{FULLWIDTH DIGIT FOUR}\N{FULLWIDTH FULL STOP}0") == "4"
