"""What the task of a person's records is: classification, rating, text or preference, with its labels and lengths."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from unicodedata import normalize

from hydra_ray.commands.init.columns_guess import Columns
from hydra_ray.commands.init.sample import FileSample, Row, nested, texts_of
from hydra_ray.errors import ConfigError

Kind = Literal["classification", "rating", "text", "preference"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_MAX_LABELS = 200
_MAX_LABEL_CHARACTERS = 80
_RECORDS_PER_LABEL = 3
_MAX_STEPS = 20
"""Largest number of steps of a rating."""
_RATINGS = ("rating", "score", "star", "overall", "grade", "point", "rank")
"""Words in names of columns that are ratings."""
_CHARACTERS_PER_TOKEN = 3
"""Of labels and answers: fewer than usual, so that none is cut off."""
_CHARACTERS_PER_INPUT_TOKEN = 4
_RARE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGuess:
    """A task, and what it was taken from."""

    kind: Kind
    labels: tuple[str, ...]
    reason: str
    """Why the kind was taken."""
    max_tokens: int
    """Length of an answer, in tokens."""
    max_text_tokens: int
    """Length to which a text in a prompt is cut, in tokens."""
    num_rare: int
    """Number of labels that came fewer than three times."""
    needs_drafts: bool = False
    """Whether a preference is asked for without candidates, so that a generator must draft them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Records and queries of a sample."""

    records: Sequence[Row]
    queries: Sequence[Row]
    num_new: int
    """Number of rows that say that their user is new."""
    num_not_new: int


def records_in(sample: FileSample, columns: Columns) -> Records:
    """Return the records and queries in the rows of a sample, whether these are users or events."""
    told = [str(row["is_new"]).casefold() in ("true", "1") for row in sample.rows if row.get("is_new") is not None]
    if columns.is_events and columns.is_preference:
        listed = columns.of("candidates") or "candidates"
        settings = ("chosen", "rejected", "ratings", "answers")
        said = [name for setting in settings for name in columns.given.get(setting, ())]
        asked = [
            row
            for row in sample.rows
            if (row.get(listed) or _is_asked(row, columns)) and not any(row.get(name) for name in said)
        ]
        records, queries = sample.rows, asked
    elif columns.is_events:
        target = columns.of("target")
        asked = [row for row in sample.rows if target is not None and row.get(target) not in (None, "")]
        records, queries = sample.rows, asked
    else:
        history, listed = columns.of("history"), columns.of("queries")
        records = [each for row in sample.rows for each in nested(row.get(history or ""))]
        queries = [each for row in sample.rows for each in nested(row.get(listed or ""))]
    return Records(records=records, queries=queries, num_new=sum(told), num_not_new=len(told) - sum(told))


def _is_asked(row: Row, columns: Columns) -> bool:
    return any(row.get(name) for name in columns.given.get("input", ())) and not row.get("op")


def guess_task(found: Records, columns: Columns, kind: Kind | None, labels: Sequence[str]) -> TaskGuess:
    """Return the task of some records.

    Args:
        kind: the kind that the person gives, if any.
        labels: labels that the person gives; none to take those that come.

    Raises:
        ConfigError: no record has an output, a closed task has no usable labels, or records of a preference do not say
            what was preferred.
    """
    if columns.is_preference:
        return _preference(found, columns)
    if kind == "preference":
        raise ConfigError(
            "no record says what was preferred: give --column chosen=NAME and --column rejected=NAME, or "
            "candidates=NAME and ratings=NAME"
        )
    name = columns.of("output") or "output"
    outputs = [*texts_of(name, found.records), *texts_of(columns.of("target"), found.queries)]
    if not outputs:
        raise ConfigError(f"no record has a text in {name}, which is taken for its output: give --column output=NAME")
    counts = _label_counts(outputs)
    guessed, reason = _kind(name, counts, len(outputs))
    kind = kind or ("rating" if labels and all(map(_is_number, labels)) else "classification" if labels else guessed)
    if kind != guessed:
        reason = "as given"
    closed = () if kind == "text" else tuple(labels) or (_steps(counts) if kind == "rating" else _by_count(counts))
    if kind != "text" and len(closed) < 2:
        raise ConfigError(f"{name} has {len(counts)} different values: {kind} needs at least two labels; give --labels")
    inputs = [each for column in columns.given["input"] for each in texts_of(column, found.records)]
    return TaskGuess(
        kind=kind,
        labels=closed,
        reason=reason,
        max_tokens=_tokens_of(max(map(len, closed))) if closed else _answer_tokens(outputs),
        max_text_tokens=_text_tokens(inputs, len(columns.given["input"])),
        num_rare=sum(number < _RARE for number in counts.values()) if closed and len(outputs) > 20 * len(counts) else 0,
    )


def instruction_of(task: TaskGuess, output: str) -> str:
    """Return a first instruction to the generator, to be edited."""
    kind, labels = task.kind, task.labels
    what = " ".join(output.replace("_", " ").split())
    if kind == "classification":
        return f"Which {what} would this user choose for the text? Answer with one of these only: {', '.join(labels)}."
    if kind == "rating":
        return f"How would this user rate it, from {labels[0]} to {labels[-1]}? Answer with the number only."
    if task.needs_drafts:
        return "Answer in the way that this user likes best. Write the answer only."
    if kind == "preference":
        return "Which of these does this user prefer?"
    return f"Write the {what} that this user would write for the following text. Answer with the {what} only."


def _preference(found: Records, columns: Columns) -> TaskGuess:
    """Return the task of records that say what was preferred."""
    said = [name for setting in ("chosen", "rejected", "ratings", "answers") for name in columns.given.get(setting, ())]
    texts = [text for name in columns.given.get("chosen", ()) for text in texts_of(name, found.records)]
    listed = columns.of("candidates") or "candidates"
    needs_drafts = any(not row.get(listed) for row in found.queries)
    return TaskGuess(
        kind="preference",
        labels=(),
        reason=f"records have {' and '.join(said)}",
        max_tokens=_answer_tokens(texts) if needs_drafts else 8,  # else nothing is generated
        max_text_tokens=_text_tokens(texts, 1),
        num_rare=0,
        needs_drafts=needs_drafts,
    )


def _answer_tokens(texts: Sequence[str]) -> int:
    """Return the length, in tokens, of nearly the longest of some answers."""
    lengths = sorted(map(len, texts)) or [400]
    return _tokens_of(lengths[int(0.98 * (len(lengths) - 1))])


def _tokens_of(num_characters: int) -> int:
    """Return the length limit, in tokens, of answers of so many characters."""
    return min(max(8, _up(math.ceil(num_characters / _CHARACTERS_PER_TOKEN) + 2, 8)), 512)


def _text_tokens(texts: Sequence[str], number: int) -> int:
    """Return the length, in tokens, to which so many of some texts together are cut."""
    lengths = sorted(map(len, texts))
    typical = lengths[int(0.9 * (len(lengths) - 1))] * number if lengths else 400
    return min(max(64, _up(math.ceil(typical / _CHARACTERS_PER_INPUT_TOKEN), 32)), 512)


def _label_counts(outputs: Iterable[str]) -> dict[str, int]:
    """Return how often each label comes, under its most common spelling."""
    spellings: dict[str, Counter[str]] = {}
    for each in outputs:
        # As `canonical_label` compares labels.
        spellings.setdefault(normalize("NFKC", each).casefold().strip(), Counter())[normalize("NFC", each)] += 1
    return {found.most_common(1)[0][0]: found.total() for found in spellings.values()}


def _kind(name: str, counts: dict[str, int], num_outputs: int) -> tuple[Kind, str]:
    shown = f"{len(counts):,} different values in {num_outputs:,}"
    if all(map(_is_number, counts)):
        steps = _step_count(counts)
        is_named = any(word in name.casefold() for word in _RATINGS)
        if steps <= _MAX_STEPS and len(counts) > 1 and (is_named or 3 <= len(counts) <= 11):
            return "rating", f"numbers, {shown}"
    is_short = all(len(each) <= _MAX_LABEL_CHARACTERS and "\n" not in each for each in counts)
    if is_short and 1 < len(counts) <= _MAX_LABELS and num_outputs >= _RECORDS_PER_LABEL * len(counts):
        return "classification", f"{shown}, none longer than {max(map(len, counts))} characters"
    return "text", shown


def _by_count(counts: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted(counts, key=lambda each: (-counts[each], each)))


def _steps(counts: dict[str, int]) -> tuple[str, ...]:
    """Return the numbers from the smallest to the largest, with those between that did not come."""
    numbers = sorted({float(each) for each in counts if _is_number(each)})
    if not numbers or _step_count(counts) > _MAX_STEPS:
        return tuple(f"{each:g}" for each in numbers)
    step = _step(numbers)
    return tuple(f"{numbers[0] + step * place:g}" for place in range(round((numbers[-1] - numbers[0]) / step) + 1))


def _step(numbers: Sequence[float]) -> float:
    return next((step for step in (1.0, 0.5, 0.25) if all(_is_multiple(each, step) for each in numbers)), 0.1)


def _step_count(counts: dict[str, int]) -> float:
    numbers = sorted({float(each) for each in counts if _is_number(each)})
    step = _step(numbers)
    return (numbers[-1] - numbers[0]) / step if all(_is_multiple(each, step) for each in numbers) else math.inf


def _is_multiple(number: float, step: float) -> bool:
    return abs(number / step - round(number / step)) < 1e-6


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _up(number: int, step: int) -> int:
    return math.ceil(number / step) * step
