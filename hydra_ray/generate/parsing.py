"""Strict parsing of generated texts into answers of the task (docs/parsing.md).

Nothing is guessed: an answer that is not a label, or does not contain exactly one, is an error with its text kept. So
an empty answer is never correct, and "comedy" is never accepted for "dark comedy", nor for "not a comedy".
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache

from hydra_ray.config import Task
from hydra_ray.generate.folding import is_readable
from hydra_ray.generate.label_search import search_of
from hydra_ray.generate.presented import presented_texts
from hydra_ray.generate.rating_search import rated_labels
from hydra_ray.generate.thoughts import speaks_of_task
from hydra_ray.generate.wrappers import after_lead_in, bare_text, json_values, unfenced
from hydra_ray.rows import Answer, Generation, Token

EMPTY = "empty answer"
UNFINISHED_THOUGHT = (
    "the thought ended without an answer: raise generator.thinking_tokens, or switch thinking off by "
    "generator.chat_template_kwargs"
)
FILTERED = "stopped by the generator's content filter"
NO_LABEL = "no label in the answer"
SEVERAL_LABELS = "several labels in the answer"
NEGATED_LABEL = "the label in the answer is negated"

_FRACTION = re.compile(r"[.,]\d")
_SHORT = 24
"""Longest text, in characters, that is a rating with its unit and nothing more."""
_ONE_LINE_TOKENS = 64
"""Length limit up to which a text answer is one line (a title, a headline); what follows it is explanation."""


def parse_answer(task: Task, generation: Generation) -> Answer:
    """Return the answer of `generation` to a query of `task`, or the reason why there is none."""
    text = generation.text
    is_exact = True
    if (error := text_error(generation, is_closed=task.is_closed)) is not None:
        value = None
    elif task.is_closed:
        value, error, is_exact = _find_label(task, text)
    else:
        bare = bare_text(text, is_line=task.max_tokens <= _ONE_LINE_TOKENS)
        value, error = (bare, None) if is_readable(bare) else (None, EMPTY)
    return Answer(
        text=text,
        value=value,
        error=error,
        is_exact=is_exact,
        num_tokens=generation.num_tokens - generation.thought_tokens,
        log_probability=generation.log_probability,
        label_probabilities=(
            () if error == UNFINISHED_THOUGHT else label_probabilities(task.labels, generation.first_tokens)
        ),
    )


def text_error(generation: Generation, *, is_closed: bool = False) -> str | None:
    """Return why a generation is no answer to any task; None where it may be one.

    Args:
        is_closed: whether a label is asked for.
    """
    if generation.finish_reason == "content_filter":
        return FILTERED
    if not is_readable(generation.text):
        return UNFINISHED_THOUGHT if generation.thought_tokens else EMPTY
    # A thought whose opening mark stands in the prompt has no mark where it was cut.
    is_whole = generation.finish_reason != "length" or generation.thought_tokens
    return None if is_whole or not speaks_of_task(generation.text, is_closed=is_closed) else UNFINISHED_THOUGHT


def label_probabilities(labels: tuple[str, ...], first_tokens: Sequence[Token]) -> tuple[float, ...]:
    """Return the generator's probability of each label, estimated from the likely first tokens that the label begins
    with.

    The probability of a token that several labels begin with is divided among them. The sum may be below 1: some tokens
    begin no label, or are too unlikely to be reported. Empty where no token is known, and where all labels begin with
    the same character, so that the first token does not distinguish them.
    """
    folded = _folded(labels)
    if not first_tokens or len({label[:1] for label in folded}) == 1:
        return ()
    probabilities = [0.0] * len(labels)
    for token in first_tokens:
        start = token.text.strip().casefold()
        places = [place for place, label in enumerate(folded) if start and label.startswith(start)]
        for place in places:
            probabilities[place] += math.exp(min(token.log_probability, 0.0)) / len(places)
    return tuple(probabilities)


@lru_cache(maxsize=16)
def _folded(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(label.casefold() for label in labels)


def failed_answer(error: str) -> Answer:
    """Return the answer of a request that the generator did not complete."""
    return Answer(text="", value=None, error=error, is_exact=False, num_tokens=0)


def _find_label(task: Task, text: str) -> tuple[str | None, str | None, bool]:
    """Return the label, the error, and whether the label was the whole text."""
    if text.strip() in task.labels:
        return text.strip(), None, True
    text = unfenced(text)
    labels = _named_labels(task, text)
    negated, is_exact = False, bool(labels)
    if not labels:
        labels = _presented_labels(task, text)
    if not labels and task.kind == "rating":
        labels, negated = rated_labels(task.labels, text)
    elif not labels:
        labels, negated = search_of(task.labels).contained(text)
    if len(labels) != 1:
        return None, SEVERAL_LABELS if labels else NO_LABEL, False
    return (None, NEGATED_LABEL, False) if negated else (labels[0], None, is_exact)


def _named_labels(task: Task, text: str) -> list[str]:
    """Return the labels that are the whole of `text`; of several, they look alike."""
    if task.kind == "rating" and _FRACTION.search(text):  # of ".4" the dot is no punctuation
        return []
    return search_of(task.labels).named(text)


def _presented_labels(task: Task, text: str) -> list[str]:
    """Return the labels that stand by themselves where an answer is presented: after a line that leads to it, as a
    value of a JSON object, or where the text says that this is the answer."""
    lead_in, rest = after_lead_in(text)
    if lead_in and not _named_labels(task, lead_in):
        text = unfenced(rest)
        if labels := _named_labels(task, text):
            return labels
    values = (_only_labels(task, value) for value in (*json_values(text).values(), *presented_texts(text)))
    return list(dict.fromkeys(label for labels in values for label in labels))


def _only_labels(task: Task, text: str) -> list[str]:
    """Return the labels that are the whole of a short text; a rating may be a share of the highest."""
    labels = _named_labels(task, text)
    if labels or task.kind != "rating" or len(text) > _SHORT:
        return labels
    labels, negated = rated_labels(task.labels, text)
    return [] if negated else labels
