"""Quality of an answer, from 0 to 1, by kind of task."""

import math

from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.rouge import rouge_l


def quality(task: Task, value: str, target: str) -> float:
    """Return the quality of the answer `value` given the right answer `target`, from 0 to 1, higher is better.

    Text: ROUGE-L F1. Classification: 1 if the labels are equal, else 0. Rating: max(0, 1 - |value - target| / label
    range).

    Raises:
        InputError: an answer or a target of a rating task is not a number.
    """
    if task.kind == "text":
        return rouge_l(target, value)
    if task.kind == "classification":
        return float(normalized_label(value) == normalized_label(target))
    numbers = [float(label) for label in task.labels]
    distance = abs(_number(value) - _number(target))
    return max(0.0, 1.0 - distance / max(max(numbers) - min(numbers), 1.0))


def canonical_label(task: Task, text: str) -> str | None:
    """Return the label of a closed task that `text` names, ignoring case and (for ratings) number format; else None."""
    normalized = normalized_label(text)
    for label in task.labels:
        if normalized_label(label) == normalized:
            return label
    if task.kind == "rating":
        try:
            number = float(text)
        except ValueError:
            return None
        return next((label for label in task.labels if float(label) == number), None)
    return None


def normalized_label(text: str) -> str:
    """Return a label in the form in which labels are compared."""
    return text.strip().casefold()


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"got {text!r} where a rating task needs a number; check that lamp.task fits the users' files")
    return number
