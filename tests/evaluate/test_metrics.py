import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error

from hydra_ray.config import Task
from hydra_ray.evaluate.metrics import columns_of, metrics_of, metrics_of_sums, query_sums, score_answer

LABELS = ("comedy", "dark comedy", "crime", "war")
CLASSIFICATION = Task(name="c", kind="classification", instruction="?", labels=LABELS)
RATING = Task(name="r", kind="rating", instruction="?", labels=("1", "2", "3", "4", "5"))
TEXT = Task(name="t", kind="text", instruction="?")

texts = st.text(alphabet="abc ABC.,é", max_size=30)
phrases = st.lists(st.sampled_from(["snow", "fell", "on", "the", "coast", "coast.", "The", ",", " "]), max_size=12)


def lamp_classes(labels: Sequence[str], preds: Sequence[str], golds: Sequence[str]) -> tuple[list[int], list[int]]:
    """LaMP's create_metric_f1_accuracy up to the metrics: stripped, then the label's place, or -1."""

    def place(text: str) -> int:
        return labels.index(text) if text in labels else -1

    return [place(pred.strip()) for pred in preds], [place(gold.strip()) for gold in golds]


def lamp_ratings(preds: Sequence[str], golds: Sequence[str]) -> tuple[list[float], list[float]]:
    """LaMP's create_metric_mae_rmse up to the metrics: what is no number is the end that is farther from the target."""

    def number(text: str, gold: str) -> float:
        try:
            return float(text)
        except ValueError:
            return 1.0 if abs(1 - float(gold)) > abs(5 - float(gold)) else 5.0

    return [number(pred.strip(), gold) for pred, gold in zip(preds, golds, strict=True)], [
        float(each) for each in golds
    ]


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
def test_rating_metrics_are_those_of_sklearn_with_the_farthest_end_for_nan(
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
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*LABELS, "Comedy", " war\n", "the war", "comedy.", "nonsense", ""]),
            st.sampled_from(LABELS),
        ),
        min_size=1,
    )
)
def test_classification_agrees_with_lamps_evaluation(answers: list[tuple[str, str]]) -> None:
    preds, golds = lamp_classes(LABELS, *zip(*answers, strict=True))
    got = metrics(CLASSIFICATION, answers)
    assert got["accuracy"] == pytest.approx(accuracy_score(golds, preds))
    places = list(range(len(LABELS)))
    assert got["macro_f1"] == pytest.approx(f1_score(golds, preds, labels=places, average="macro", zero_division=0))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*RATING.labels, " 4 ", "4.0", "0", "9", "-2", "1e1", "five", "4 stars", ""]),
            st.sampled_from(RATING.labels),
        ),
        min_size=1,
    )
)
def test_ratings_agree_with_lamps_evaluation(answers: list[tuple[str, str]]) -> None:
    preds, golds = lamp_ratings(*zip(*answers, strict=True))
    got = metrics(RATING, answers)
    assert got["mae"] == pytest.approx(mean_absolute_error(golds, preds))
    assert got["rmse"] == pytest.approx(math.sqrt(mean_squared_error(golds, preds)))


@pytest.mark.parametrize("task", [CLASSIFICATION, RATING, TEXT])
def test_no_answer_counts_like_an_empty_one(task: Task) -> None:
    target = task.labels[0] if task.is_closed else "Snow fell on the coast"
    assert score_answer(task, None, target) == score_answer(task, "", target) == score_answer(task, " ", target)


@settings(max_examples=100)
@given(st.lists(st.tuples(phrases.map(" ".join), phrases.map(" ".join)), min_size=1, max_size=6))
def test_bleu_is_that_of_sacrebleu_on_the_whole_corpus(answers: list[tuple[str, str]]) -> None:
    preds, golds = ([text.strip() for text in texts] for texts in zip(*answers, strict=True))
    assert metrics(TEXT, answers)["bleu"] == pytest.approx(corpus_bleu(preds, [golds]).score)


def test_bleu_is_high_where_texts_are_right_and_counts_missing_words() -> None:
    target = "Snow fell on the northern coast."
    assert metrics(TEXT, [(target, target)])["bleu"] == pytest.approx(100)
    one_missing = metrics(TEXT, [(target, target), (None, target)])["bleu"]
    assert one_missing == pytest.approx(corpus_bleu([target, ""], [[target, target]]).score)
    assert 0 < one_missing < 50


@settings(max_examples=60)
@given(st.lists(st.tuples(st.one_of(st.none(), texts), texts), min_size=1, max_size=8))
def test_rouge_is_the_mean_f1_of_rouge_score_without_stemming(answers: list[tuple[str | None, str]]) -> None:
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
    main = metrics_of(task)[0]
    for value in (target, task.labels[0] if task.is_closed else "title", None):
        columns = score_answer(task, value, target)
        assert len(columns) == len(columns_of(task))
        assert metrics(task, [(value, target)])[main.name] == columns[0]
