"""Neutralizes chat templates' control tokens in users' texts.

The generator's server renders and tokenizes the messages, perhaps with a different tokenizer from the local one. So
both the local tokenizer's control tokens and those of all common chat templates are neutralized.
"""

import re
import unicodedata
from collections.abc import Iterable
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
_FOLDABLE = re.compile(r"[^\t\n\r -~]")
"""Characters that a tokenizer's normalizer may change."""
_INVISIBLE = {"Cc", "Cf", "Me", "Mn"}
"""Unicode categories that some tokenizers drop before they look for their tokens."""
_KEPT = "\t\n\r"
"""Control characters that all tokenizers keep as white space; others are white space only to some."""


@lru_cache(maxsize=4)
def control_pattern(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    """Return a pattern that matches control tokens of the tokenizer and of common chat templates."""
    special = {str(token) for token in tokenizer.all_special_tokens}
    template = str(tokenizer.chat_template or "")
    # A few models do not mark their turn tokens as special.
    special |= {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (not token.content.isalnum() and token.content in template)
    }
    # Surrounding white space need not be broken, and a single character cannot be.
    own = sorted({token.strip() for token in special if len(token.strip()) > 1}, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, own), *_TEMPLATES]), flags=re.IGNORECASE)


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
    return unicodedata.category(character) in _INVISIBLE


_FOLDED = _Folded()


def _with_spaces(text: str, starts: Iterable[int]) -> str:
    pieces: list[str] = []
    last = 0
    for start in sorted(starts):
        pieces.append(text[last : start + 1])
        last = start + 1
    return " ".join([*pieces, text[last:]])
