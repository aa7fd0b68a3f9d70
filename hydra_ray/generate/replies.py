"""Replies of OpenAI-compatible endpoints, validated once: nothing that a server sends is used before that.

`parse_reply` makes plain JSON values of the bytes of a reply, `read_answers` makes answers of these. A part that is
needed and malformed is a `ReplyError`; an optional one (log-probabilities, numbers of tokens) is left out and listed in
`Answered.flaws`, so that it costs no answer. Texts are repaired to valid Unicode. No message holds text of a reply,
which may repeat a user's.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hydra_ray.errors import ReplyError
from hydra_ray.rows import Generation, Token

MAX_REPLY_BYTES = 256 * 2**20
"""Largest reply that is read: twice what 128 samples of 512 tokens with 20 alternatives each take."""
_IMPOSSIBLE = -9999.0
"""Log-probability that endpoints report for tokens that could not have been generated."""
_LOWEST = -1e6
"""Lowest log-probability that is believed."""
_ROUNDING = 1e-3
"""Largest log-probability above 0 that is taken for a rounding error."""
_MAX_TOKENS = 10_000_000
"""Largest number of tokens of a call that is believed: the longest context of any model."""
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_REASONS = {
    **dict.fromkeys(("max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("safety", "recitation", "prohibited_content", "blocklist", "refusal"), "content_filter"),
}
"""Other names of the reasons why an answer ended."""


class Flaw(StrEnum):
    """Optional part of a reply that is missing or malformed and was left out, or a text that was repaired."""

    PROMPT_TOKENS = "no usable number of prompt tokens"
    GENERATED_TOKENS = "no usable number of generated tokens"
    LOG_PROBABILITIES = "log-probabilities that are no numbers up to 0"
    SURROGATES = "texts with half a character, which became U+FFFD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Result of one successful call."""

    prompt_tokens: int
    """Tokens of the prompt; 0 where `flaws` has PROMPT_TOKENS."""
    generations: tuple[Generation, ...]
    """One per sample; their token numbers are those of the reported tokens where `flaws` has GENERATED_TOKENS."""
    flaws: frozenset[Flaw] = frozenset()


def parse_reply(content: bytes) -> Any:
    """Return the JSON value of a reply.

    Raises:
        ReplyError: it is not JSON, or nested too deeply.
    """
    if len(content) > MAX_REPLY_BYTES:
        raise ReplyError(f"got a reply of {len(content)} bytes, expected at most {MAX_REPLY_BYTES}")
    try:
        return json.loads(content.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        raise ReplyError(f"got {_kind_of_text(content)}, expected a chat completion as JSON") from None


def read_answers(body: Any, num_samples: int, num_top_tokens: int) -> Answered:
    """Return the generations in a reply.

    Args:
        body: JSON value of the reply.
        num_samples: number of samples asked for.
        num_top_tokens: number of first tokens asked for; 0 where none were.

    Raises:
        ReplyError: it is not a chat completion with `num_samples` choices.
    """
    if not isinstance(body, dict):
        raise ReplyError(f"got {_name(body)}, expected a chat completion")
    flaws: set[Flaw] = set()
    choices = _choices(body, num_samples)
    texts = [_text(choice) for choice in choices]
    reported = [_reported(choice, flaws) for choice in choices]
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt_tokens = _count(usage.get("prompt_tokens"))
    generated_tokens = _count(usage.get("completion_tokens"))
    if not prompt_tokens:
        flaws.add(Flaw.PROMPT_TOKENS)
    if generated_tokens is None or (generated_tokens == 0 and any(texts)):
        flaws.add(Flaw.GENERATED_TOKENS)
    lengths = _lengths([len(tokens) for tokens in reported], generated_tokens or 0)
    return Answered(
        prompt_tokens=prompt_tokens or 0,
        generations=tuple(
            Generation(
                text=repaired(text, flaws),
                num_tokens=length,
                finish_reason=_finish_reason(choice, text),
                log_probability=sum(token["logprob"] for token in tokens) if tokens else None,
                first_tokens=_first_tokens(tokens[0], flaws) if tokens and num_top_tokens else (),
            )
            for choice, text, tokens, length in zip(choices, texts, reported, lengths, strict=True)
        ),
        flaws=frozenset(flaws),
    )


def repaired(text: str, flaws: set[Flaw]) -> str:
    """Return a text whose lone surrogates are replaced, which UTF-8 cannot hold."""
    if not _SURROGATE.search(text):
        return text
    flaws.add(Flaw.SURROGATES)
    return _SURROGATE.sub(_REPLACEMENT, text)


def _choices(body: Mapping[str, Any], num_samples: int) -> list[Mapping[str, Any]]:
    """Return the choices in the order of their samples."""
    choices = body.get("choices")
    if not choices and body.get("error"):
        raise ReplyError(f"got an error{_code_of(body['error'])} in the place of an answer")
    if not isinstance(choices, list):
        raise ReplyError(f"got {_name(choices)} as choices, expected a list")
    if len(choices) < num_samples:
        raise ReplyError(f"got {len(choices)} choices, expected {num_samples}")
    for choice in choices:
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise ReplyError("got a choice without a message")
    places = [_count(choice.get("index")) for choice in choices]
    if sorted(place for place in places if place is not None) == list(range(len(choices))):
        choices = [choices[places.index(place)] for place in range(len(choices))]
    return choices[:num_samples]


def _text(choice: Mapping[str, Any]) -> str:
    content = choice["message"].get("content")
    if content is None:
        return ""
    parts = content if isinstance(content, list) else [content]
    texts = list(_text_parts(parts))
    if isinstance(content, list) or texts:
        return "".join(texts)
    raise ReplyError(f"got {_name(content)} as content, expected a text")


def _text_parts(parts: Sequence[Any]) -> Iterator[str]:
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") in ("text", "output_text") else part
        if isinstance(text, str):
            yield text


def _finish_reason(choice: Mapping[str, Any], text: str) -> str:
    # A refusal has a field of its own and is no answer.
    if not text and choice["message"].get("refusal"):
        return "content_filter"
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or not _CODE.fullmatch(reason):
        return ""
    return _REASONS.get(reason.lower(), reason)


def _reported(choice: Mapping[str, Any], flaws: set[Flaw]) -> list[Mapping[str, Any]]:
    """Return the tokens of a choice with their log-probabilities; none where any is malformed."""
    reported = choice.get("logprobs")
    tokens = reported.get("content") if isinstance(reported, dict) else reported
    if not tokens:
        return []
    if not isinstance(tokens, list) or not all(_is_token(token) for token in tokens):
        flaws.add(Flaw.LOG_PROBABILITIES)
        return []
    return tokens


def _first_tokens(token: Mapping[str, Any], flaws: set[Flaw]) -> tuple[Token, ...]:
    top = token.get("top_logprobs") or ()
    if not isinstance(top, list | tuple) or not all(_is_token(each) for each in top):
        flaws.add(Flaw.LOG_PROBABILITIES)
        return ()
    return tuple(
        Token(text=repaired(each["token"], flaws), log_probability=min(each["logprob"], 0.0))
        for each in top
        if each["logprob"] > _IMPOSSIBLE
    )


def _is_token(token: Any) -> bool:
    if not isinstance(token, dict) or not isinstance(token.get("token"), str):
        return False
    value = token.get("logprob")
    return isinstance(value, int | float) and not isinstance(value, bool) and _LOWEST <= value <= _ROUNDING


def _count(value: Any) -> int | None:
    """Return a number of tokens; None where it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_TOKENS:
        return None
    return math.floor(value)


def _lengths(reported: Sequence[int], generated_tokens: int) -> list[int]:
    """Return the generated tokens of each choice: as reported, plus an even share of the unattributed tokens."""
    share, rest = divmod(max(generated_tokens - sum(reported), 0), len(reported))
    return [length + share + (place < rest) for place, length in enumerate(reported)]


def _code_of(error: Any) -> str:
    codes = (error.get(name) for name in ("code", "type")) if isinstance(error, dict) else ()
    code = next((str(code) for code in codes if isinstance(code, str | int) and _CODE.fullmatch(str(code))), "")
    return f" ({code})" if code else ""


def _kind_of_text(content: bytes) -> str:
    start = content[:100].lstrip().lower()
    if not start:
        return "nothing"
    return "a web page" if start.startswith((b"<!doctype", b"<html")) else "text that is not JSON"


def _name(value: Any) -> str:
    """Return what a JSON value is."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "nothing"}
    return names.get(type(value), "a number")
