# ruff: noqa: RUF001
"""Search for the labels of a closed task in an answer, in time linear in the answer, whatever their number.

All labels are sought at once by an automaton (Aho and Corasick, 1975): a trie of the labels in which each node also
points to the longest other node that is a suffix of it.
"""

import re
import unicodedata
from collections import defaultdict, deque
from collections.abc import Iterator
from functools import lru_cache

from hydra_ray.generate.folding import folding_of

UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u2e80-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Ranges of the scripts that are written without spaces: Thai, Lao, Tibetan, Burmese, Khmer, Chinese and Japanese."""
_UNSPACED = re.compile(f"[{UNSPACED}]")
_KATAKANA = re.compile("[\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff]")
_HANGUL = re.compile("[\uac00-\ud7a3]{2}")
_PARTICLE = re.compile("(?:입니다|이다|이에요|예요|이며|이고|이라고|라고|으로|은|는|을|를)(?![\uac00-\ud7a3])")
"""What Korean adds to a word without making it another; of one syllable only what is rarely the end of a word."""
_JOINING = "-'\u2010\u2019"
"""A hyphen or an apostrophe joins words: "non-violence" does not contain "violence"."""

_BEFORE = (
    r"not|no|never|neither|nor|without|cannot|(?:is|was|are|does|do|did|would|can)n[’']t|"
    r"nicht|kein(?:e|en|er|es)?|pas|jamais|aucune?|ni|sin|sem|não|nunca|non|né|senza|niet|geen|не|ни|без|nie|inte|ikke"
)
_BETWEEN = (
    r"an?|the|any|really|exactly|quite|just|strictly|truly|at|all|about|of|is|be|it|ein(?:e|en)?|der|die|das|wirklich|"
    r"ist|une?|des?|la|le|les|es|el|los|las|uno|una|um|uma|è|é|is|een|это|jest|en|ett|et"
)
_NEGATED_BEFORE = re.compile(
    rf"(?:(?<!\w)(?:{_BEFORE})(?:\s+(?:{_BETWEEN})){{0,3}}\s+|(?:不是|并非|並非|不|没有|沒有|ไม่ใช่|ไม่)\s*)[\"'“‘「\[(]*\Z"
)
_NEGATED_AFTER = re.compile(
    r"[\"'”’」\])]*(?:\s*(?:ではな|でな|じゃな|ではありません|じゃありません)|(?:이|가|은|는)?\s*(?:아니|아닙|아님|아닌|않)|\s+değil(?!\w))"
)
_NEGATION_CHARACTERS = 48
"""Longest negation, with what may stand between it and the label."""


def is_negated(text: str, start: int, end: int) -> bool:
    """Return whether what stands in the folded `text` from `start` to `end` is denied, as in "not a comedy"."""
    before = text[max(0, start - _NEGATION_CHARACTERS) : start]
    return _NEGATED_BEFORE.search(before) is not None or _NEGATED_AFTER.match(text, end) is not None


class LabelSearch:
    """Labels of a task, to be found in answers."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        """Build the automaton of `labels`."""
        self.fold = folding_of(labels)
        self._labels: defaultdict[str, list[str]] = defaultdict(list)
        for label in labels:
            self._labels[self.fold(label)].append(label)
        self._next: list[dict[str, int]] = [{}]
        self._word = [""]
        for folded in self._labels:
            self._insert(folded)
        self._suffix = [0] * len(self._next)
        self._shorter = [0] * len(self._next)
        self._link()

    def named(self, text: str) -> list[str]:
        """Return the labels that are the whole of `text`, up to its looks; of several, they look alike."""
        return self._labels.get(self.fold(text), [])

    def contained(self, text: str) -> tuple[list[str], bool]:
        """Return the labels that occur in `text` as whole words, not only inside an occurrence of a longer label, and
        whether one of these occurrences is negated."""
        folded = self.fold(text)
        spans = sorted(self._occurrences(folded), key=lambda span: (span[0], -span[1]))
        found: dict[str, None] = {}
        negated, last = False, -1
        for start, end in spans:
            if end > last:
                last = end
                found.update(dict.fromkeys(self._labels[folded[start:end]]))
                negated = negated or is_negated(folded, start, end)
        return list(found), negated

    def _insert(self, word: str) -> None:
        node = 0
        for character in word:
            if character not in self._next[node]:
                self._next[node][character] = len(self._next)
                self._next.append({})
                self._word.append("")
            node = self._next[node][character]
        self._word[node] = word

    def _link(self) -> None:
        """Link every node to the longest proper suffix of it that is a node, and to the longest that is a label."""
        waiting = deque(self._next[0].values())
        while waiting:
            node = waiting.popleft()
            for character, child in self._next[node].items():
                waiting.append(child)
                suffix = self._step(self._suffix[node], character)
                self._suffix[child] = suffix
                self._shorter[child] = suffix if self._word[suffix] else self._shorter[suffix]

    def _step(self, node: int, character: str) -> int:
        while node and character not in self._next[node]:
            node = self._suffix[node]
        return self._next[node].get(character, 0)

    def _occurrences(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield, for every place in `text` where labels end as whole words, the span of the longest."""
        node = 0
        for place, character in enumerate(text):
            node = self._step(node, character)
            ending = node if self._word[node] else self._shorter[node]
            while ending:
                start = place + 1 - len(self._word[ending])
                if is_whole(text, start, place + 1):
                    yield start, place + 1
                    break
                ending = self._shorter[ending]


@lru_cache(maxsize=16)
def search_of(labels: tuple[str, ...]) -> LabelSearch:
    """Return the search for `labels`."""
    return LabelSearch(labels)


def is_whole(text: str, start: int, end: int) -> bool:
    """Return whether what stands in `text` from `start` to `end` is no part of a longer word or number."""
    first, last = text[start], text[end - 1]
    if end < len(text) and not (_HANGUL.match(text, end - 2, end) and end - 2 >= start and _PARTICLE.match(text, end)):
        follows = text[end]
        if unicodedata.combining(follows) or unicodedata.category(follows) == "Mc" or _joins(follows, last):
            return False
        if end + 1 < len(text) and _connects(follows, last, text[end + 1]):
            return False
    if start == 0:
        return True
    precedes = text[start - 1]
    return not (_joins(precedes, first) or (start > 1 and _connects(precedes, first, text[start - 2])))


def _connects(between: str, edge: str, beyond: str) -> bool:
    """Return whether a character connects the edge of a label to a word or number beyond, as in "sci-fi" and "4.5"."""
    if between in ".,":
        return edge.isdigit() and beyond.isdigit()
    return between in _JOINING and _joins(beyond, edge)


def _joins(neighbour: str, edge: str) -> bool:
    """Return whether a neighbouring character makes the edge of a label a part of a longer word."""
    if not (neighbour.isalnum() or neighbour == "_"):
        return False
    if _UNSPACED.match(neighbour) or _UNSPACED.match(edge):
        return bool(_KATAKANA.match(neighbour) and _KATAKANA.match(edge))
    return True
