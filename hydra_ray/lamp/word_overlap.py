"""Word overlap of texts, for handcrafted features; metrics use ROUGE proper."""

import re
from collections import Counter
from functools import lru_cache

_WORD = re.compile(r"\w+")


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, in lower case."""
    return tuple(_WORD.findall(text.lower()))


def overlap(first: str, second: str) -> float:
    """Return the F1 of the words of two texts as bags, 0 to 1."""
    common = (Counter(words(first)) & Counter(words(second))).total()
    return 2 * common / max(len(words(first)) + len(words(second)), 1)


def coverage(text: str, phrase: str) -> float:
    """Return the fraction of the distinct words of `phrase` that occur in `text`, 0 to 1."""
    wanted = set(words(phrase))
    return len(wanted & set(words(text))) / max(len(wanted), 1)


def mentions(text: str, phrase: str) -> bool:
    """Return whether the words of `phrase` occur in `text` consecutively."""
    return bool(words(phrase)) and f" {' '.join(words(phrase))} " in f" {' '.join(words(text))} "
