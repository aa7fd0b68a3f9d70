import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error

from hydra_ray.config import Task
from hydra_ray.evaluate.metrics import COLUMNS, METRICS, metrics_of_sums, query_sums, score_answer

LABELS = ("comedy", "dark comedy", "crime", "war")
CLASSIFICATION = Task(name="c", kind="classification", instruction="?", labels=LABELS)
RATING = Task(name="r", kind="rating", instruction="?", labels=("1", "2", "3", "4", "5"))
TEXT = Task(name="t", kind="text", instruction="?")

texts = st.text(alphabet="abc ABC.,é", max_size=30)


def metrics(task: Task, answers: Sequence[tuple[str | None, str]]) -> dict[str, float]:
    columns = np.array([score_answer(task, value, target) for value, target in answers])
    values = metrics_of_sums(task, query_sums(task, columns).sum(axis=0))
    return {name: float(value) for name, value in values.items()}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([*LABELS, "nonsense", "", None]), st.sampled_from(LABELS)), min_size=1))
def test_classification_metrics_are_those_of_sklearn(answers: list[tuple[str | None, str]]) -> None:
    targets = [LABELS.index(target) for _, target in answers]
    values = [LABELS.index(value) if value in LABELS else -1 for value, _ in answers]
    got = metrics(CLASSIFICATION, answers)
    assert got["accuracy"] == pytest.approx(accuracy_score(targets, values))
    expected = f1_score(targets, values, labels=list(range(len(LABELS))), average="macro", zero_division=0)
    assert got["macro_f1"] == pytest.approx(expected)


def test_a_label_inside_an_answer_is_not_that_label() -> None:
    assert metrics(CLASSIFICATION, [("comedy", "dark comedy"), ("", "comedy")])["accuracy"] == 0


def test_a_target_that_is_no_label_cannot_be_hit_by_an_unparsable_answer() -> None:
    assert metrics(CLASSIFICATION, [("horror", "horror"), (None, "horror")]) == {"accuracy": 0, "macro_f1": 0}


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([*RATING.labels, "2.5", "nan", "bad", None]), st.sampled_from(RATING.labels)),
        min_size=1,
    )
)
def test_rating_metrics_are_those_of_sklearn_with_the_farthest_end_for_what_is_no_number(
    answers: list[tuple[str | None, str]],
) -> None:
    def lamp_rating(value: str | None, target: str) -> float:
        if value not in (None, "nan", "bad"):
            return float(value)
        return 1.0 if abs(1 - float(target)) > abs(5 - float(target)) else 5.0

    targets = [float(target) for _, target in answers]
    values = [lamp_rating(value, target) for value, target in answers]
    got = metrics(RATING, answers)
    assert got["mae"] == pytest.approx(mean_absolute_error(targets, values))
    assert got["rmse"] == pytest.approx(math.sqrt(mean_squared_error(targets, values)))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.one_of(st.none(), texts), texts), min_size=1, max_size=8))
def test_text_metrics_are_the_mean_f1_of_rouge_score_without_stemming(answers: list[tuple[str | None, str]]) -> None:
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    got = metrics(TEXT, answers)
    for name in ("rouge1", "rougeL"):
        scores = [scorer.score(target, value)[name].fmeasure if value is not None else 0 for value, target in answers]
        assert got[name] == pytest.approx(sum(scores) / len(scores))


def test_sums_of_any_leading_shape_give_the_same_figures_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    answers = [[(str(v), str(t)) for v, t in rng.integers(1, 6, (7, 2))] for _ in range(3)]
    columns = np.array([[score_answer(RATING, *pair) for pair in system] for system in answers])
    together = metrics_of_sums(RATING, query_sums(RATING, columns).sum(axis=1))
    for position, system in enumerate(answers):
        assert {name: value[position] for name, value in together.items()} == metrics(RATING, system)


def test_the_first_column_is_the_main_metrics_share(task: Task) -> None:
    target = task.labels[-1] if task.is_closed else "a title"
    main = METRICS[task.kind][0]
    for value in (target, task.labels[0] if task.is_closed else "title", None):
        columns = score_answer(task, value, target)
        assert len(columns) == len(COLUMNS[task.kind])
        assert metrics(task, [(value, target)])[main.name] == columns[0]
