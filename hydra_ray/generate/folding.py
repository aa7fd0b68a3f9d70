"""Folding of texts to the form in which answers and labels are compared: without case, markup and invisible marks.

What looks the same is the same: NFD and NFC, full-width letters and ligatures, hyphens and apostrophes of all kinds,
the four Turkish i, text with soft hyphens, zero-width characters or direction marks in it.
"""

import re
import unicodedata
from collections.abc import Callable

Fold = Callable[[str], str]

ENDS = " \t\r\n\"'`´“”„‘’‚«»‹›.,;:!?()[]{}<>*_。、，．：；！？…「」『』【】《》〈〉〔〕・｡､،؛؟।¿¡"  # noqa: RUF001
"""Characters stripped from both ends; neither "-" nor "+" nor "#", which belong to labels such as -1 and c++."""
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
"""Characters that Unicode calls default ignorable: nothing is seen of them."""
_EMPHASIS = re.compile(r"(?<![^\W_])[*_`]{1,3}(?=[^\W_])|(?<=[^\W_])[*_`]{1,3}(?![^\W_])")
_ALIKE = str.maketrans({"‐": "-", "‑": "-", "−": "-", "’": "'", "‘": "'", "ʼ": "'", "ı": "i"})  # noqa: RUF001
_MARKS = re.compile(r"[^\w\s\x00-\x7f]{31,}")
_MAX_MARKS = 30
"""Longest run of combining marks, as in Unicode's stream-safe text (UAX #15); sorting takes its square."""
_DOT_ABOVE = "\u0307"
_ENTITIES = {"&amp;": "&", "&quot;": '"', "&#39;": "'", "&apos;": "'", "&lt;": "<", "&gt;": ">"}
_ENTITY = re.compile("|".join(_ENTITIES))


def strip_invisible(text: str) -> str:
    """Return `text` without white space and invisible characters at its ends."""
    start, end = 0, len(text)
    while start < end and _is_nothing(text[start]):
        start += 1
    while end > start and _is_nothing(text[end - 1]):
        end -= 1
    return text[start:end]


def is_readable(text: str) -> bool:
    """Return whether anything can be read in `text`: more than white space, invisible and replacement characters."""
    return any(character != "\N{REPLACEMENT CHARACTER}" and not _is_nothing(character) for character in text)


def _is_nothing(character: str) -> bool:
    return character.isspace() or _IGNORABLE.match(character) is not None


def fold_case(text: str) -> str:
    """Return `text` without case, compatibility forms, repeated white space and punctuation at its ends."""
    folded = " ".join(_compatible(_compatible(text).casefold()).split())
    return folded.strip(ENDS) or folded


def fold_looks(text: str) -> str:
    """Return `text` as `fold_case`, and without what cannot be seen or is markup only."""
    return fold_case(without_marks(text))


def without_marks(text: str) -> str:
    """Return `text` in one form of everything that looks alike, with the punctuation at its ends."""
    visible = _IGNORABLE.sub("", _ENTITY.sub(lambda match: _ENTITIES[match[0]], text))
    plain = _EMPHASIS.sub("", _compatible(visible))
    # A dotted capital I is casefolded to an i and a dot.
    return plain.casefold().replace("i" + _DOT_ABOVE, "i").translate(_ALIKE)


def folding_of(labels: tuple[str, ...]) -> Fold:
    """Return the widest folding that keeps apart all labels that differ by more than case."""
    narrow, wide = ({fold(label) for label in labels} for fold in (fold_case, fold_looks))
    return fold_looks if len(wide) == len(narrow) else fold_case


def _compatible(text: str) -> str:
    """Return `text` in the form NFKC, in time linear in its length."""
    return unicodedata.normalize("NFKC", _MARKS.sub(_stream_safe, text))


def _stream_safe(match: re.Match[str]) -> str:
    kept: list[str] = []
    num_marks = 0
    for character in match[0]:
        num_marks = num_marks + 1 if unicodedata.combining(character) else 0
        if num_marks <= _MAX_MARKS:
            kept.append(character)
    return "".join(kept)
