"""Quality of an answer, from 0 to 1, by kind of task."""

import math
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from numbers import Real
from typing import cast

import numpy as np

from hydra_ray.config import Task
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.lamp.rouge import rouge_l
from hydra_ray.plugins import call_plugin

METRIC = "lamp.metric"
"""Name of the setting."""
_MAX_JUDGED = 1 << 16


def quality(task: Task, value: str, target: str) -> float:
    """Return the quality of the answer `value` given the right answer `target`, from 0 to 1, higher is better.

    Text: ROUGE-L F1. Classification: 1 if the labels are equal, else 0; preference: 1 if the candidates are. Rating:
    max(0, 1 - |value - target| / label range). A task with a metric of another package is judged by that.

    Raises:
        InputError: an answer or a target of a rating task is not a number.
        ConfigError: the metric of another package fails, or returns no number from 0 to 1.
    """
    if task.metric is not None:
        return _judged(task.metric, value, target)
    if task.kind == "text":
        return rouge_l(target, value)
    if task.kind == "preference":
        return float(value.strip() == target.strip())
    if task.kind == "classification":
        return float(normalized_label(value) == normalized_label(target))
    numbers = [float(label) for label in task.labels]
    distance = abs(_number(value) - _number(target))
    return max(0.0, 1.0 - distance / max(max(numbers) - min(numbers), 1.0))


def is_graded(task: Task) -> bool:
    """Return whether a wrong label of a closed task may have some quality."""
    return task.is_closed and (task.kind == "rating" or task.metric is not None)


@lru_cache(maxsize=_MAX_JUDGED)
def _judged(metric: str, value: str, target: str) -> float:
    """Return what a metric of another package says of an answer: once for each pair, since it may take its time."""
    found: object = call_plugin(metric, METRIC, value, target)
    kind = type(found).__name__
    number = float(cast(Real, found)) if isinstance(found, Real | np.bool_) else None
    if number is None or not 0 <= number <= 1:
        shown = kind if number is None else f"{number:g}"
        raise ConfigError(f"{METRIC} is {metric}, which returned {shown}; expected a number from 0 to 1, 1 is best")
    return number


def canonical_label(task: Task, text: str) -> str | None:
    """Return the label of a closed task that `text` names, ignoring case, Unicode form and (for ratings) number format;
    else None."""
    by_case, by_form, by_number = _label_forms(task.kind, task.labels)
    label = by_case.get(normalized_label(text)) or by_form.get(_compatible(text))
    if label is None and task.kind == "rating":
        try:
            return by_number.get(float(_compatible(text)))
        except ValueError:
            return None
    return label


@lru_cache(maxsize=8)
def _label_forms(
    kind: str, labels: tuple[str, ...]
) -> tuple[Mapping[str, str], Mapping[str, str], Mapping[float, str]]:
    """Return the labels by case-folded text, by compatible Unicode form where that names one label alone, and by
    number; the first of equals."""
    by_case: dict[str, str] = {}
    forms: dict[str, set[str]] = {}
    for label in labels:
        by_case.setdefault(normalized_label(label), label)
        forms.setdefault(_compatible(label), set()).add(label)
    by_form = {form: next(iter(found)) for form, found in forms.items() if len(found) == 1}
    by_number = {float(label): label for label in reversed(labels)} if kind == "rating" else {}
    return by_case, by_form, by_number


def normalized_label(text: str) -> str:
    """Return a label in the form in which labels are compared."""
    return text.strip().casefold()


def _compatible(text: str) -> str:
    """Return a text in NFKC without differences of case, so that decomposed and full-width letters are plain ones."""
    folded = unicodedata.normalize("NFKC", text.strip()).casefold()
    return unicodedata.normalize("NFKC", folded).strip()


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"got {text!r} where a rating task needs a number; check that lamp.task fits the users' files")
    return number
