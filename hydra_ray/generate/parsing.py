"""Strict parsing of generated texts into answers of the task.

Nothing is guessed: an answer that is not a label, or does not contain exactly one, is an error with its text kept. So
an empty answer is never correct, and "comedy" is never accepted for "dark comedy".
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from hydra_ray.config import Task
from hydra_ray.rows import Answer, Generation, Token

EMPTY = "empty answer"
UNFINISHED_THOUGHT = (
    "the thought ended without an answer: raise generator.thinking_tokens, or switch thinking off by "
    "generator.chat_template_kwargs"
)
FILTERED = "stopped by the generator's content filter"
NO_LABEL = "no label in the answer"
SEVERAL_LABELS = "several labels in the answer"

_ENDS = " \t\r\n\"'`´“”„‘’‚«»‹›.,;:!?()[]{}<>*_"  # noqa: RUF001
"""Characters stripped from both ends; neither "-" nor "+" nor "#", which belong to labels such as -1 and c++."""
_OPENING, _CLOSING = "\"'`“„‘«", "\"'`”“’»"  # noqa: RUF001
_NUMBER = re.compile(r"(?<![\w.,+-])[-+]?\d+(?:\.\d+)?(?![.,]?\w)")
_LEAD_IN = re.compile(r"(?:title|headline|answer|output|response|tweet)\s*:\s*", flags=re.IGNORECASE)
_ONE_LINE_TOKENS = 64
"""Length limit up to which a text answer is one line (a title, a headline); what follows it is explanation."""


def parse_answer(task: Task, generation: Generation) -> Answer:
    """Return the answer of `generation` to a query of `task`, or the reason why there is none."""
    text = generation.text
    is_exact = True
    if (error := text_error(generation)) is not None:
        value = None
    elif task.is_closed:
        value, error, is_exact = _find_label(task, text)
    else:
        value = _bare_text(task, text) or None
        error = None if value else EMPTY
    return Answer(
        text=text,
        value=value,
        error=error,
        is_exact=is_exact,
        num_tokens=generation.num_tokens - generation.thought_tokens,
        log_probability=generation.log_probability,
        label_probabilities=label_probabilities(task.labels, generation.first_tokens),
    )


def text_error(generation: Generation) -> str | None:
    """Return why a generation is no answer to any task; None where it may be one."""
    if generation.finish_reason == "content_filter":
        return FILTERED
    if generation.text.strip():
        return None
    return UNFINISHED_THOUGHT if generation.thought_tokens else EMPTY


def label_probabilities(labels: tuple[str, ...], first_tokens: Sequence[Token]) -> tuple[float, ...]:
    """Return the generator's probability of each label, estimated from the likely first tokens that the label begins
    with.

    The probability of a token that several labels begin with is divided among them. The sum may be below 1: some tokens
    begin no label, or are too unlikely to be reported. Empty where no token is known, and where all labels begin with
    the same character, so that the first token does not distinguish them.
    """
    if not first_tokens or len({label[:1].casefold() for label in labels}) == 1:
        return ()
    probabilities = [0.0] * len(labels)
    for token in first_tokens:
        start = token.text.strip().casefold()
        places = [place for place, label in enumerate(labels) if start and label.casefold().startswith(start)]
        for place in places:
            probabilities[place] += math.exp(min(token.log_probability, 0.0)) / len(places)
    return tuple(probabilities)


def failed_answer(error: str) -> Answer:
    """Return the answer of a request that the generator did not complete."""
    return Answer(text="", value=None, error=error, is_exact=False, num_tokens=0)


def _find_label(task: Task, text: str) -> tuple[str | None, str | None, bool]:
    """Return the label, the error, and whether the label was the whole text."""
    if text.strip() in task.labels:
        return text.strip(), None, True
    bare = _bare_label(text)
    labels = [label for label in task.labels if _bare_label(label) == bare]
    is_exact = bool(labels)
    if not labels:
        labels = _rated_labels(task.labels, text) if task.kind == "rating" else _contained_labels(task.labels, bare)
    if len(labels) != 1:
        return None, SEVERAL_LABELS if labels else NO_LABEL, False
    return labels[0], None, is_exact


def _rated_labels(labels: Iterable[str], text: str) -> list[str]:
    """Return the labels whose value is among the numbers in `text`."""
    values = {float(number) for number in _NUMBER.findall(unicodedata.normalize("NFKC", text))}
    return [label for label in labels if float(label) in values]


def _contained_labels(labels: tuple[str, ...], bare: str) -> list[str]:
    """Return the labels that occur in `bare` as whole words, not only inside an occurrence of a longer label."""
    spans = [(match.span(), label) for label, pattern in _patterns(labels) for match in pattern.finditer(bare)]
    found = {
        label
        for (start, end), label in spans
        if not any(a <= start and end <= b and b - a > end - start for (a, b), _ in spans)
    }
    return [label for label in labels if label in found]


@lru_cache(maxsize=16)
def _patterns(labels: tuple[str, ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    # A hyphen or an apostrophe joins words: "non-violence" does not contain "violence".
    before, after = r"(?<!\w)(?<!\w[-'\u2019])", r"(?!\w)(?![-'\u2019]\w)"
    return tuple((label, re.compile(before + re.escape(_bare_label(label)) + after)) for label in labels)


def _bare_label(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_ENDS)


def _bare_text(task: Task, text: str) -> str:
    """Return a text answer without a lead-in such as "Title:", surrounding quotes and further lines."""
    text = text.strip()
    lead_in = _LEAD_IN.match(text)
    if lead_in:
        text = text[lead_in.end() :]
    if task.max_tokens <= _ONE_LINE_TOKENS:
        text = next(iter(text.strip().splitlines()), "").strip()
    if len(text) > 1 and text[0] in _OPENING and text[-1] in _CLOSING and not _is_quoted_inside(text):
        text = text[1:-1].strip()
    return text


def _is_quoted_inside(text: str) -> bool:
    """Return whether the first and last quotes of `text` belong to two different quotations, as in '"a" and "b"'."""
    return any(quote in text[1:-1] for quote in {text[0], text[-1]})
