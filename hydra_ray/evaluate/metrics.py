"""LaMP's evaluation rules (Salemi et al., 2024, section 3.1, and its evaluation.py), as per-query columns and sums.

Every metric is a function of sums over queries, including those that are no means of rows (macro-F1, RMSE, BLEU). So a
bootstrap resample of users is a weighted sum of the users' sums, and all resamples are one matrix product.

    accuracy = mean of correct          macro-F1 = mean_l 2 hits_l / (answered_l + target_l)
    MAE = mean |error|                  RMSE = sqrt(mean error^2)

Shape suffixes: L labels; in comments ... any leading axes, C columns (`columns_of`), M sums.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import Task
from hydra_ray.evaluate.bleu import COUNTS, bleu_counts, bleu_of_counts
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.rouge import rouge
from hydra_ray.plugins import title_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Metric of a system's quality. Key: name."""

    name: str
    title: str
    is_higher_better: bool


_METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": (
        Metric(name="accuracy", title="accuracy", is_higher_better=True),
        Metric(name="macro_f1", title="macro-F1", is_higher_better=True),
    ),
    "rating": (
        Metric(name="mae", title="MAE", is_higher_better=False),
        Metric(name="rmse", title="RMSE", is_higher_better=False),
    ),
    "preference": (Metric(name="accuracy", title="accuracy", is_higher_better=True),),
    "text": (
        Metric(name="rougeL", title="ROUGE-L", is_higher_better=True),
        Metric(name="rouge1", title="ROUGE-1", is_higher_better=True),
        Metric(name="bleu", title="BLEU", is_higher_better=True),
    ),
}
"""Metrics of each kind of task, the main one first. Accuracy of preferences is that of pairs where queries have two
candidates."""

_COLUMNS: dict[str, tuple[str, ...]] = {
    "classification": ("correct", "answered_label", "target_label"),
    "rating": ("absolute_error", "squared_error"),
    "preference": ("correct",),
    "text": ("rougeL", "rouge1", *COUNTS),
}
"""Columns of an answer to one query, by kind of task. The mean of the first column is the main metric."""

_NO_LABEL = -1.0


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return the metrics of a task, the main one first: that of another package where the task has one, then those of
    its kind."""
    own = task.metric
    first = () if own is None else (Metric(name=own, title=title_of(own), is_higher_better=True),)
    return (*first, *_METRICS[task.kind])


def columns_of(task: Task) -> tuple[str, ...]:
    """Return the columns of an answer to one query. The mean of the first one is the main metric."""
    return (*(() if task.metric is None else (task.metric,)), *_COLUMNS[task.kind])


def score_answer(task: Task, value: str | None, target: str) -> tuple[float, ...]:
    """Return the columns of one answer, in the order of `columns_of`.

    Args:
        value: the answer; None (no answer) counts like an empty one, and by a metric of another package as 0. Only an
            exact label is right; a rating that is no number counts as the end of the scale that is farthest from the
            target.
    """
    own = () if task.metric is None else (0.0 if value is None else quality(task, value, target),)
    return (*own, *_score_by_kind(task, (value or "").strip(), target.strip()))


def _score_by_kind(task: Task, value: str, target: str) -> tuple[float, ...]:
    if task.kind == "classification":
        return _score_label(task, value, target)
    if task.kind == "rating":
        return _score_rating(task, value, target)
    if task.kind == "preference":
        return (float(value == target),)
    return (*rouge(("rougeL", "rouge1"))(target, value), *bleu_counts(target, value))


def query_sums(task: Task, columns: Floats) -> Floats:
    """Return the terms of each answer that `metrics_of_sums` needs summed over queries: (..., C) -> (..., M).

    A term counts the answers, so that the sums of any set of queries are self-contained.
    """
    if task.metric is None:
        return _sums_of_kind(task, columns)
    return np.concatenate([columns[..., :1], _sums_of_kind(task, columns[..., 1:])], axis=-1)


def _sums_of_kind(task: Task, columns: Floats) -> Floats:
    if task.kind != "classification":
        return np.concatenate([np.ones_like(columns[..., :1]), columns], axis=-1)
    labels_L = np.arange(len(task.labels))
    is_correct = columns[..., :1]
    answered_L = (columns[..., 1:2] == labels_L).astype(np.float64)
    target_L = (columns[..., 2:3] == labels_L).astype(np.float64)
    return np.concatenate([np.ones_like(is_correct), is_correct, answered_L * target_L, answered_L, target_L], axis=-1)


def metrics_of_sums(task: Task, sums: Floats) -> dict[str, Floats]:
    """Return each metric by its name, from sums over at least one query: (..., M) -> (...)."""
    if task.metric is None:
        return _metrics_of_kind(task, sums)
    return {task.metric: sums[..., 0] / sums[..., 1], **_metrics_of_kind(task, sums[..., 1:])}


def _metrics_of_kind(task: Task, sums: Floats) -> dict[str, Floats]:
    num_answers = sums[..., 0]
    first = sums[..., 1] / num_answers
    if task.kind == "rating":
        return {"mae": first, "rmse": np.sqrt(sums[..., 2] / num_answers)}
    if task.kind == "preference":
        return {"accuracy": first}
    if task.kind == "text":
        return {"rougeL": first, "rouge1": sums[..., 2] / num_answers, "bleu": bleu_of_counts(sums[..., 3:])}
    hits_L, answered_L, target_L = np.split(sums[..., 2:], 3, axis=-1)
    occurrences_L = answered_L + target_L
    # A label that is neither answered nor a target counts as 0, as in LaMP's evaluation.
    f1_L = np.divide(2 * hits_L, occurrences_L, out=np.zeros_like(hits_L), where=occurrences_L > 0)
    return {"accuracy": first, "macro_f1": f1_L.mean(axis=-1)}


def _score_label(task: Task, value: str, target: str) -> tuple[float, ...]:
    positions = _label_positions(task.labels)
    answered, expected = positions.get(value, _NO_LABEL), positions.get(target, _NO_LABEL)
    return float(answered == expected != _NO_LABEL), answered, expected


def _score_rating(task: Task, value: str, target: str) -> tuple[float, ...]:
    expected = float(target)
    error = abs(_rating_of(task, value, expected) - expected)
    return error, error * error


def _rating_of(task: Task, value: str, expected: float) -> float:
    try:
        rating = float(value)
    except ValueError:
        rating = math.nan
    if math.isfinite(rating):
        return rating
    low, high = _scale(task.labels)
    return low if expected - low > high - expected else high


@cache
def _label_positions(labels: tuple[str, ...]) -> dict[str, float]:
    return {label: float(position) for position, label in enumerate(labels)}


@cache
def _scale(labels: tuple[str, ...]) -> tuple[float, float]:
    ratings = [float(label) for label in labels]
    return min(ratings), max(ratings)
