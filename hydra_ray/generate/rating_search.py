"""Search for ratings in an answer: numbers, shares such as 4/5, ranges such as 4-5, and stars."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra_ray.generate.folding import without_marks
from hydra_ray.generate.label_search import UNSPACED, is_negated

_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_MAX_DIGITS = 40
"""Length of the longest number that may be a rating."""
_LETTER = rf"[^\W\uac00-\ud7a3{UNSPACED}]"
"""A letter or digit that makes digits beside it no number; counters of Korean and of unspaced scripts do not."""
_FREE_BEFORE = re.compile(rf"(?<!{_LETTER})(?<![.,+\u2044-])(?<!\d:)")
_FREE_AFTER = re.compile(rf"(?![.,]?{_LETTER}|:\d|\u2044|\s?%)")
_UNIT = r"(?:stars?|points?|étoiles?|sterne|estrellas|stelle|つ星|점|星|分|点)"
_OF = r"of|von|sur|de|su|van|av|из"
_SHARE = re.compile(rf"\s*{_UNIT}?\s*[(,]?\s*(?:/|out\s+of|{_OF}|满分|滿分|満点)\s*")
_SHARE_FROM = re.compile(
    rf"\s*{_UNIT}?\s*(?:満点(?:中|で)|中|满分(?:中|[,;])?|滿分(?:中|[,;])?|만점(?:에|\s*중)|중)\s*"
)
"""What stands between the highest label and a share of it, where the language says the highest first."""
_WHOLE = re.compile(rf"(?:/|满分|滿分|満点|만점|\bout\s+of|\d\s*{_UNIT}?\s*\(?\s*\b(?:{_OF}))\s*\Z")
"""What stands before the whole of a share whose part is no number that can be a rating, such as "four" or "3,5"."""
_RANGE = re.compile(r"\s*(?:[-\u2010-\u2015~\u301c]|to|bis|à|a|до|至|到|から)\s*")
_MAX_GAP = 24
_STARS = re.compile("[\u2605\u2606\u2b50\u2729\u2730\U0001f31f]+")
_EMPTY_STARS = "\u2606\u2729\u2730"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Number:
    """Number in a text, from `start`, its sign included, to `end`. Key: start."""

    start: int
    digits: int
    """Start of its digits."""
    end: int
    value: float
    is_free: bool
    """Whether nothing before it makes it a part of something longer."""


def rated_labels(labels: Sequence[str], text: str) -> tuple[list[str], bool]:
    """Return the labels whose values `text` gives, and whether one of them is negated.

    A share such as 4/5 gives its first number where the second is the highest label. On another scale it leaves the
    rating open, as a range such as 4-5 does: all labels are returned. The range of the whole scale says nothing beside
    another number.
    """
    plain = without_marks(text)
    values = {float(label): label for label in labels}
    numbers = list(_numbers(plain))
    found: list[_Number] = []
    scale: list[_Number] = []
    is_open = False
    place = 0
    while place < len(numbers):
        number = numbers[place]
        second = numbers[place + 1] if place + 1 < len(numbers) else None
        gap = plain[number.end : second.digits] if second and second.digits - number.end <= _MAX_GAP else ""
        place += 1
        share = _share(number, second, gap, max(values)) if second and number.is_free else None
        if share:
            place += 1
            part, whole = share
            if whole.value == max(values):
                found.append(part)
            else:
                is_open = is_open or not {part.value, whole.value}.isdisjoint(values)
        elif _WHOLE.search(plain, max(0, number.digits - _MAX_GAP), number.digits):
            is_open = is_open or (number.value != max(values) and number.value in values)
        elif second and number.is_free and _RANGE.fullmatch(gap):
            place += 1
            ends = {number.value, float(plain[second.digits : second.end])}
            if ends == {min(values), max(values)}:
                scale += [number, second]
            else:
                is_open = is_open or not ends.isdisjoint(values)
        elif number.is_free and number.value in values:
            found.append(number)
    if is_open:
        return list(labels), False
    if not numbers:
        return _starred(values, plain), False
    negated = any(is_negated(plain, number.start, number.end) for number in found)
    named = {number.value for number in found or scale}
    return [label for label in labels if float(label) in named], negated


def _share(first: _Number, second: _Number, gap: str, highest: float) -> tuple[_Number, _Number] | None:
    """Return the part and the whole, where two numbers with a gap between them are a share."""
    if _SHARE.fullmatch(gap):
        return first, second
    return (second, first) if first.value == highest and _SHARE_FROM.fullmatch(gap) else None


def _numbers(text: str) -> Iterator[_Number]:
    """Yield the numbers in `text` that nothing after them makes a part of something longer."""
    for match in _DIGITS.finditer(text):
        start, end = match.span()
        if end - start > _MAX_DIGITS or not _FREE_AFTER.match(text, end):
            continue
        is_signed = start > 0 and text[start - 1] in "+-" and _FREE_BEFORE.match(text, start - 1) is not None
        first = start - 1 if is_signed else start
        yield _Number(
            start=first,
            digits=start,
            end=end,
            value=float(text[first:end]),
            is_free=_FREE_BEFORE.match(text, first) is not None,
        )


def _starred(values: dict[float, str], text: str) -> list[str]:
    """Return the label that is drawn as a row of stars, of which the rest of the scale may be empty."""
    rows = _STARS.findall(text)
    if len(rows) != 1:
        return []
    num_empty = sum(rows[0].count(star) for star in _EMPTY_STARS)
    num_full = len(rows[0]) - num_empty
    is_whole = num_empty == 0 or len(rows[0]) == max(values)
    return [values[num_full]] if is_whole and num_full in values else []
