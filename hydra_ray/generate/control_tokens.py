"""Neutralizes chat templates' control tokens in users' texts.

The generator's server renders and tokenizes the messages, perhaps with a different tokenizer from the local one. So
both the local tokenizer's control tokens and those of all common chat templates are neutralized. What remains is asked
of the local tokenizer itself: it encodes each text, and what it takes for a control token is broken up, whatever its
normalizer removes or maps.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEMPLATES = (
    r"<\|[^\s<>|]{1,64}\|?>",  # ChatML and Qwen, Llama 3, Phi, DeepSeek, GLM, Command, Granite, gpt-oss, Gemma 4
    r"<[^\s<>|]{1,64}\|>",  # Gemma 4
    r"</?(?:start|end)_of_(?:turn|image|audio)>",  # Gemma
    r"<</?SYS>>",  # Llama 2
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|THINK)\]",  # Mistral
    r"\[\|[^\s\[\]|]{1,64}\|\]",  # EXAONE
    r"\[gMASK\]|<[se]op>",  # GLM
    r"</?s>|<(?:bos|eos|pad|unk)>",
)
_TEMPLATE_MARKS = re.compile(r"</?[A-Za-z_:]{2,32}>|(?<![\w/])/(?:no_)?think\b")
"""Texts in a template's source by which it may divide a message: `</think>`, before which it may drop everything, and
switches."""
_ORDINARY = ("x", "word word", "Ωж漢ก", "\U0001f9ff", "?!")
"""Texts without control tokens, of which some are unknown to a small vocabulary."""
_MAX_PASSES = 8
"""Maximum number of times that a text is broken up by spaces before characters of it are removed."""
_FOLDABLE = re.compile(r"[^\t\n\r -~]")
"""Characters that a tokenizer's normalizer may change."""
_INVISIBLE = "CM"
"""Unicode categories (controls, format and unassigned characters, marks of all kinds), by their first letters, that
some tokenizers drop before they look for their tokens."""
_FILLERS = "\u115f\u1160\u3164\uffa0"
"""Letters that are shown as nothing."""
_KEPT = "\t\n\r"
"""Control characters that all tokenizers keep as white space; others are white space only to some."""


@lru_cache(maxsize=8)
def control_pattern(tokenizer: "PreTrainedTokenizerBase", marks: tuple[str, ...] = ()) -> re.Pattern[str]:
    """Return a pattern that matches control tokens of the tokenizer and of common chat templates.

    Args:
        marks: patterns of further texts that mark turns.
    """
    special = _control_tokens(tokenizer) | {str(token) for token in tokenizer.all_special_tokens}
    special |= set(_TEMPLATE_MARKS.findall(_template(tokenizer)))
    # Surrounding white space need not be broken, and a single character cannot be.
    own = sorted({token.strip() for token in special if len(token.strip()) > 1}, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, own), *marks, *_TEMPLATES]), flags=re.IGNORECASE)


def harmless(text: str, tokenizer: "PreTrainedTokenizerBase", pattern: re.Pattern[str]) -> str:
    """Return `text` with its control tokens broken up, so that the tokenizer finds none; see `defuse`.

    Args:
        pattern: pattern of `control_pattern`.
    """
    text = defuse(text, pattern)
    for attempt in range(len(text) + _MAX_PASSES):
        spans = _control_spans(text, tokenizer)
        if not spans:
            break
        # A normalizer may remove spaces too.
        text = _with_spaces(text, (start for start, _ in spans)) if attempt < _MAX_PASSES else _without(text, spans)
    return text


def _control_spans(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[tuple[int, int]]:
    """Return the start and end of each part of a text that the tokenizer encodes as a control token."""
    control = _control_ids(tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        return _first_control_span(text, tokenizer, control)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    # A token that the tokenizer adds itself has no characters.
    return [(start, end) for token, (start, end) in spans if token in control and end > start]


def _first_control_span(
    text: str, tokenizer: "PreTrainedTokenizerBase", control: frozenset[int]
) -> list[tuple[int, int]]:
    """Return the first such part, for a tokenizer that does not tell positions."""

    def number_of(part: str) -> int:
        return sum(token in control for token in tokenizer(part, add_special_tokens=False)["input_ids"])

    added = number_of("")
    if number_of(text) <= added:
        return []
    end = _first(lambda length: number_of(text[:length]) > added, len(text))
    start = end - _first(lambda length: number_of(text[end - length : end]) > added, end)
    return [(start, end)]


def _first(holds: Callable[[int], bool], highest: int) -> int:
    """Return the lowest number, up to `highest`, for which a condition holds that then holds for all higher ones."""
    return bisect_left(range(highest), True, key=holds)


@lru_cache(maxsize=8)
def _control_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Return the ids of the control tokens that a text can be kept free of: not that of unknown text, and none that is
    written as letters, digits or white space."""
    ordinary = [each for text in _ORDINARY for each in tokenizer(text, add_special_tokens=False)["input_ids"]]
    tokens = {*_control_tokens(tokenizer), *map(str, tokenizer.all_special_tokens)}
    ids = [tokenizer.convert_tokens_to_ids(token) for token in tokens if not (token.isalnum() or token.isspace())]
    return frozenset(
        each for each in ids if isinstance(each, int) and each != tokenizer.unk_token_id and each not in ordinary
    )


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: "PreTrainedTokenizerBase") -> frozenset[str]:
    template = _template(tokenizer)
    # A few models do not mark their turn tokens as special.
    return frozenset(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (not token.content.isalnum() and token.content in template)
    )


def _template(tokenizer: "PreTrainedTokenizerBase") -> str:
    found = tokenizer.chat_template or ""
    return "\n".join(map(str, found.values())) if isinstance(found, dict) else str(found)


def defuse(text: str, pattern: re.Pattern[str]) -> str:
    """Return `text` with a space after the first character of every control token, which makes it ordinary text.

    A sequence that a tokenizer's normalizer may turn into a control token (full-width or other compatible characters,
    with invisible ones in between) counts as one. A text without any is returned unchanged.

    Args:
        pattern: pattern of `control_pattern`.
    """
    starts = _starts(text, pattern)
    while starts:
        text = _with_spaces(text, starts)
        starts = _starts(text, pattern)  # breaking one token may leave another that overlapped with it
    return text


def _starts(text: str, pattern: re.Pattern[str]) -> set[int]:
    """Return the start positions of control tokens, in the text and in its normalized form."""
    starts = {match.start() for match in pattern.finditer(text)}
    if not _FOLDABLE.search(text):
        return starts
    found = [match.span() for match in pattern.finditer(text.translate(_FOLDED))]
    if found:
        origins = [position for position, character in enumerate(text) for _ in _FOLDED[ord(character)]]
        # A token that a single character expands to cannot be broken.
        starts |= {origins[start] for start, end in found if origins[start] < origins[end - 1]}
    return starts


class _Folded(dict[int, str]):
    """Maps each code point to its compatibility decomposition; to nothing where a normalizer may drop it."""

    def __missing__(self, code_point: int) -> str:
        character = chr(code_point)
        parts = unicodedata.normalize("NFKD", character)
        self[code_point] = "".join(part for part in parts if part in _KEPT or not _is_invisible(part))
        return self[code_point]


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character)[0] in _INVISIBLE or character in _FILLERS


_FOLDED = _Folded()


def _with_spaces(text: str, starts: Iterable[int]) -> str:
    pieces: list[str] = []
    last = 0
    for start in sorted(starts):
        pieces.append(text[last : start + 1])
        last = start + 1
    return " ".join([*pieces, text[last:]])


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a text without the first character of each span."""
    starts = {start for start, _ in spans}
    return "".join(character for place, character in enumerate(text) if place not in starts)
