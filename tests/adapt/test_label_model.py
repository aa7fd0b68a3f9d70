from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import encode, run_config, user

from hydra_ray.adapt import label_model
from hydra_ray.adapt.label_model import LabelModel, fit_label_model, needs_label_model, read_label_model, sampled_users
from hydra_ray.adapt.user_label_model import Evidence, UserLabelModel
from hydra_ray.config import Task
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Record, User
from hydra_ray.scorer.linear.shared import user_fold

TASK = TASKS["planted"]
TEXT_LABEL, FAVOURITE = TASK.labels[0], TASK.labels[-1]
RNG = np.random.default_rng(0)
WORDS = {label: 3 * chr(ord("a") + 2 * place) for place, label in enumerate(TASK.labels)}


def person(number: int, num_records: int = 8, favourite: str | None = None) -> User:
    """Return a user whose records mostly have the label that their words tell, or always a favourite one."""
    labels = [str(each) for each in RNG.choice(TASK.labels, num_records)]
    return User(
        user_id=f"user {number}",
        is_new=False,
        history=tuple(
            Record(record_id=str(n), input=f"{WORDS[label]} {n} of {number}", output=favourite or label)
            for n, label in enumerate(labels)
        ),
        queries=(),
    )


PEOPLE = [person(number, favourite=FAVOURITE if number % 3 == 0 else None) for number in range(60)]
FEW = PEOPLE[:20]
"""Some of every fold."""


@pytest.fixture(scope="module")
def fitted() -> LabelModel:
    return fit_label_model(TASK, PEOPLE, encode)


@pytest.fixture(scope="module")
def fitted_to_few() -> LabelModel:
    return fit_label_model(TASK, FEW, encode)


def told(fitted: LabelModel, someone: User, text: str, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (L) of a text's labels by what it says, and given records."""
    texts = [*(record.input for record in someone.history), text]
    labelled = fitted.labelled(TASK, someone, [text], dict(zip(texts, encode(texts), strict=True)))
    found = labelled.labelled(text, records)
    return np.exp(found.by_text_L), np.exp(found.by_user_L)


def test_a_text_is_labelled_by_what_it_says_and_by_what_its_user_does(fitted: LabelModel):
    favourite, told_by_text = TASK.labels.index(FAVOURITE), TASK.labels.index(TEXT_LABEL)
    faithful, eager = person(100), person(100, favourite=FAVOURITE)
    query = f"{WORDS[TEXT_LABEL]} 100"
    by_text, by_faithful = told(fitted, faithful, query, faithful.history)
    again, by_eager = told(fitted, eager, query, eager.history)
    assert by_text == pytest.approx(again)
    assert by_text.argmax() == by_faithful.argmax() == told_by_text
    assert by_eager.argmax() == favourite
    for probabilities in (by_text, by_faithful, by_eager):
        assert probabilities.sum() == pytest.approx(1)


def test_only_the_given_records_are_looked_at(fitted: LabelModel):
    eager = person(101, favourite=FAVOURITE)
    favourite = TASK.labels.index(FAVOURITE)
    some = [told(fitted, eager, f"{WORDS[TEXT_LABEL]} 1", eager.history[:n])[1][favourite] for n in (0, 2, 8)]
    assert some == sorted(some)
    changed = replace(eager, history=(*eager.history[:2], *person(102, favourite=TEXT_LABEL).history[2:]))
    assert told(fitted, changed, f"{WORDS[TEXT_LABEL]} 1", changed.history[:2])[1][favourite] == pytest.approx(some[1])


def test_a_users_texts_are_labelled_without_the_records_of_the_users_fold(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("hydra_ray.adapt.text_classifier.STRENGTHS", (1.0,))
    before = fit_label_model(TASK, FEW, encode)
    for own in range(5):
        people = [
            replace(each, history=tuple(replace(record, output=TEXT_LABEL) for record in each.history))
            if user_fold(each.user_id) == own
            else each
            for each in FEW
        ]
        after = fit_label_model(TASK, people, encode)
        is_same = [np.allclose(before.text.weights_FLI[k], after.text.weights_FLI[k], atol=1e-9) for k in range(5)]
        assert is_same == [fold == own for fold in range(5)]


@pytest.mark.parametrize(("text", "output"), [("", FAVOURITE), ("some text", "no label")])
def test_records_without_a_text_or_with_another_answer_show_no_label(fitted_to_few: LabelModel, text: str, output: str):
    someone = person(103)
    bare = replace(someone, history=(*someone.history, Record(record_id="x", input=text, output=output)))
    query = f"{WORDS[TEXT_LABEL]} 1"
    with_all, without = (told(fitted_to_few, bare, query, shown)[1] for shown in (bare.history, bare.history[:-1]))
    assert with_all == pytest.approx(without)
    again = fit_label_model(TASK, [*FEW, replace(bare, history=bare.history[-1:])], encode)
    assert again.own.weights_FI == pytest.approx(fitted_to_few.own.weights_FI)


def test_the_evidence_on_a_taught_record_is_that_of_asking_for_it_alone(
    fitted: LabelModel, monkeypatch: pytest.MonkeyPatch
):
    given: list[Evidence] = []

    def keep(task: Task, evidences: Iterable[Evidence], *_: np.ndarray) -> UserLabelModel:
        given.extend(evidences)
        return fitted.own

    monkeypatch.setattr(label_model, "fit_user_label_model", keep)
    monkeypatch.setattr(label_model, "fit_text_classifier", lambda *_: fitted.text)
    twice = replace(PEOPLE[3], history=(*PEOPLE[3].history, replace(PEOPLE[3].history[0], record_id="again")))
    people = [PEOPLE[0], person(104, num_records=1), twice, person(105, num_records=0)]
    fit_label_model(TASK, people, encode)
    expected: list[Evidence] = []
    for each in people:
        texts = [record.input for record in each.history]
        vectors = dict(zip(texts, encode(texts), strict=True)) if texts else {}
        logs = fitted.text.by_text(user_fold(each.user_id), texts, vectors)
        for place, record in enumerate(each.history):
            others = each.history[:place] + each.history[place + 1 :]
            expected.append(label_model.evidence(TASK, record.input, others, logs, vectors))
    assert len(given) == len(expected) == 8 + 1 + 9
    for found, alone in zip(given, expected, strict=True):
        for name in ("text_logs_L", "record_logs_NL", "record_labels_N", "near_N"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))


def test_without_records_all_labels_are_alike():
    nothing = fit_label_model(TASK, [replace(user(0))], encode)
    for probabilities in told(nothing, PEOPLE[0], "some text", PEOPLE[0].history):
        assert probabilities == pytest.approx(np.full(len(TASK.labels), 1 / len(TASK.labels)))


def test_a_label_model_is_the_same_when_it_is_read_again(fitted_to_few: LabelModel, tmp_path: Path):
    fitted_to_few.write(str(tmp_path))
    again = read_label_model(str(tmp_path))
    query = f"{WORDS[TEXT_LABEL]} 1"
    first, second = (told(each, PEOPLE[0], query, PEOPLE[0].history) for each in (fitted_to_few, again))
    for before, after in zip(first, second, strict=True):
        assert np.array_equal(before, after)


def test_few_users_are_all_taken_and_of_many_a_sample_that_no_order_decides(monkeypatch: pytest.MonkeyPatch):
    people = [replace(user(5), user_id=str(n)) for n in range(20)]
    assert {each.user_id for each in sampled_users(TASK, people)} == {each.user_id for each in people}
    monkeypatch.setattr(label_model, "MAX_RECORDS", 28)
    sample = sampled_users(TASK, people)
    assert len(sample) == len({each.user_id for each in sample}) == 6  # whole users, the first with 28 or more
    assert sample == sampled_users(TASK, people[::-1])


def test_of_a_user_only_records_that_teach_are_taken_and_of_many_a_sample(monkeypatch: pytest.MonkeyPatch):
    someone, nobody = user(9), replace(user(3), history=())
    other = replace(someone.history[0], record_id="other", output="no label")
    (sampled,) = sampled_users(TASK, [replace(someone, history=(other, *someone.history)), nobody])
    assert sampled.history == someone.history
    monkeypatch.setattr(label_model, "MAX_USER_RECORDS", 4)
    (few,) = sampled_users(TASK, [someone])
    assert len(few.history) == 4
    assert [record for record in someone.history if record in few.history] == list(few.history)


@pytest.mark.parametrize(
    ("task", "has_plain_features", "is_needed"),
    [("LaMP_2N", True, True), ("LaMP_2N", False, False), ("LaMP_1", True, False), ("LaMP_4", True, False)],
)
def test_a_label_model_is_needed_for_labelled_records_and_plain_features(
    task: str, has_plain_features: bool, is_needed: bool
):
    config = run_config(adapter={"has_plain_features": has_plain_features})
    assert needs_label_model(TASKS[task], config) == is_needed
