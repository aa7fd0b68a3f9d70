"""Replies of OpenAI-compatible endpoints, validated once: nothing that a server sends is used before that.

`parse_reply` makes plain JSON values of the bytes of a reply, `read_answers` makes answers of these. A part that is
needed and malformed is a `ReplyError`; an optional one (log-probabilities, numbers of tokens) is left out and listed in
`Answered.flaws`, so that it costs no answer. Texts are repaired to valid Unicode. No message holds text of a reply,
which may repeat a user's.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hydra_ray.errors import BrokenOffError, ReplyError
from hydra_ray.generate.error_replies import CODE
from hydra_ray.generate.thoughts import answer_token, split_thought, thought_length
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
_BYTES_PER_TOKEN = 4
"""Approximate bytes per token of English text."""
_ANSWER_PARTS = ("text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_content", "thought")
_OTHER_PARTS = ("redacted_thinking", "reference", "refusal", "tool_use", "tool_call", "image_url", "input_text")
"""Kinds of parts that hold nothing of an answer."""
_TEXT_FIELDS = ("text", "thinking", "reasoning", "summary", "content")
"""Fields of a part that may hold its text."""
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details")
"""Fields of a message that may hold its thought."""
_MAX_CHARACTERS = 1_000_000
"""Length to which an answer is cut, as if its length limit had been reached: none that was asked for is as long."""
_MAX_TOP_PROBABILITY = 1.05
"""Largest sum of the probabilities of alternative tokens that is believed; above 1 by rounding."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_REASONS = {
    **dict.fromkeys(
        ("max_tokens", "max_output_tokens", "max_length", "model_length", "model_context_window_exceeded"), "length"
    ),
    **dict.fromkeys(
        (
            "blocklist",
            "content_filtered",
            "error_toxic",
            "guardrail_intervened",
            "image_safety",
            "language",
            "model_armor",
            "prohibited_content",
            "recitation",
            "refusal",
            "safety",
            "sensitive",
            "spii",
        ),
        "content_filter",
    ),
}
"""Other names of the reasons why an answer ended: Anthropic's, Bedrock's, Cohere's, Gemini's, Mistral's, Zhipu's."""
_INTERRUPTED = frozenset(
    {
        "abort",
        "aborted",
        "cancel",
        "canceled",
        "cancelled",
        "deadline_exceeded",
        "engine_overloaded",
        "error",
        "error_limit",
        "insufficient_system_resource",
        "internal_error",
        "load",
        "network_error",
        "preempted",
        "server_error",
        "time_limit",
        "timeout",
        "unload",
    }
)
"""Reasons by which a server tells that it broke an answer off, as DeepSeek, OpenRouter, Zhipu, Ollama, vLLM and SGLang
have them: a later call may be answered."""


class Flaw(StrEnum):
    """Optional part of a reply that is missing or malformed and was left out, or a text that was repaired."""

    PROMPT_TOKENS = "no usable number of prompt tokens"
    GENERATED_TOKENS = "no usable number of generated tokens"
    LOG_PROBABILITIES = "log-probabilities that are no numbers up to 0, or of more than 1 together"
    SURROGATES = "texts with half a character"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Result of one successful call."""

    prompt_tokens: int
    """Tokens of the prompt; 0 where `flaws` has PROMPT_TOKENS."""
    generations: tuple[Generation, ...]
    flaws: frozenset[Flaw] = frozenset()
    broken: frozenset[int] = frozenset()
    """Places, among the samples asked for, of further choices of the reply that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What a choice says, before thoughts in the text are separated."""

    text: str
    thought: str
    """Thought that was sent apart from the text."""
    finish_reason: str
    tokens: Sequence[Mapping[str, Any]]
    """Generated tokens with their log-probabilities; empty where they are not reported."""


def approximate_tokens(text: str) -> int:
    """Return about how many tokens a text has, at least 1 for any."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


def parse_reply(content: bytes) -> Any:
    """Return the JSON value of a reply.

    Raises:
        ReplyError: it is not JSON, or nested too deeply.
    """
    if len(content) > MAX_REPLY_BYTES:
        raise ReplyError(f"got a reply of {len(content)} bytes, expected at most {MAX_REPLY_BYTES}")
    text = content.decode("utf-8-sig", "replace")
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of thousands of digits
            return json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        raise ReplyError(f"got {_kind_of_text(content)}, expected JSON: check generator.api.base_url") from None


def read_answers(
    body: Any,
    num_samples: int,
    num_top_tokens: int,
    *,
    is_thinking: bool = False,
    count_tokens: Callable[[str], int] = approximate_tokens,
) -> Answered:
    """Return the generations in a reply.

    Args:
        body: JSON value of the reply.
        num_samples: number of samples asked for.
        num_top_tokens: number of first tokens asked for; 0 where none were.
        is_thinking: whether the model is known to think: then a text that was cut before any mark is a thought.
        count_tokens: returns the length of a generated text whose length the reply does not tell.

    Raises:
        ReplyError: it is not a chat completion with `num_samples` choices.
    """
    if not isinstance(body, dict):
        raise ReplyError(f"got {_name(body)}, expected an object")
    flaws: set[Flaw] = set()
    contents = [_content(choice, flaws) for choice in _choices(body, num_samples)]
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt_tokens = _count(usage.get("prompt_tokens"))
    if not prompt_tokens:
        flaws.add(Flaw.PROMPT_TOKENS)
    generated_tokens = _count(usage.get("completion_tokens"))
    if generated_tokens is None or (generated_tokens == 0 and any(each.text or each.thought for each in contents)):
        flaws.add(Flaw.GENERATED_TOKENS)
        lengths = [len(each.tokens) or count_tokens(each.thought + each.text) for each in contents]
    else:
        lengths = _lengths([len(each.tokens) for each in contents], generated_tokens)
    details = usage.get("completion_tokens_details")
    thought_tokens = _count(details.get("reasoning_tokens") if isinstance(details, dict) else None) or 0
    return Answered(
        prompt_tokens=prompt_tokens or 0,
        generations=tuple(
            _generation(content, length, thought_tokens // num_samples, num_top_tokens, is_thinking, flaws)
            for content, length in zip(contents, lengths, strict=True)
        ),
        flaws=frozenset(flaws),
    )


def is_log_probability(value: Any) -> bool:
    """Return whether a value can be a log-probability."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _LOWEST <= value <= _ROUNDING


def is_token_count(value: Any) -> bool:
    """Return whether a value can be a number of tokens of one call; whole floats can."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= _MAX_TOKENS and value == int(value)


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
    if not choices:
        raise ReplyError("got no choice in the list of choices")
    if len(choices) < num_samples:
        raise ReplyError(
            f"got {len(choices)} choices, expected {num_samples}: set generator.api.max_samples_per_call to as many as "
            "the endpoint gives at once"
        )
    choices = [_whole(choice) for choice in choices]
    places = [_count(choice.get("index")) for choice in choices]
    if sorted(place for place in places if place is not None) == list(range(len(choices))):
        choices = [choices[places.index(place)] for place in range(len(choices))]
    return choices[:num_samples]


def _whole(choice: Any) -> Mapping[str, Any]:
    """Return a choice with its message; a filter may leave out that of an answer that it stopped.

    Raises:
        ReplyError: it has none.
        BrokenOffError: the server broke it off.
    """
    if not isinstance(choice, dict):
        raise ReplyError("got a choice without a message")
    reason = _reason(choice)
    if choice.get("error") or reason in _INTERRUPTED:
        code = _code_of(choice.get("error")) or (f" ({reason})" if reason not in ("", "error") else "")
        raise BrokenOffError(f"got a choice with an error{code}")
    if choice.get("message") is None and reason == "content_filter":
        return {**choice, "message": {}}
    if not isinstance(choice.get("message"), dict):
        raise ReplyError("got a choice without a message")
    return choice


def has_cut(body: Any) -> bool:
    """Return whether an answer in a reply reached its length limit."""
    choices = body.get("choices") if isinstance(body, dict) else None
    return isinstance(choices, list) and any(isinstance(each, dict) and _reason(each) == "length" for each in choices)


def without_broken_choices(body: Any) -> tuple[Any, frozenset[int]]:
    """Return a reply without those choices that cannot be used, where others can, which are paid; and the places of
    the former."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or len(choices) < 2:
        return body, frozenset()
    usable = [choice for choice in choices if _is_usable(choice)]
    if not usable:
        return body, frozenset()
    broken = [(place, choice) for place, choice in enumerate(choices) if not _is_usable(choice)]
    told = ((place, _count(choice.get("index")) if isinstance(choice, dict) else None) for place, choice in broken)
    return {**body, "choices": usable}, frozenset(place if index is None else index for place, index in told)


def _is_usable(choice: Any) -> bool:
    try:
        _content(_whole(choice), set())
    except ReplyError:
        return False
    return True


def _content(choice: Mapping[str, Any], flaws: set[Flaw]) -> _Content:
    message = choice["message"]
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    if content is not None and not isinstance(content, str | list | dict):
        raise ReplyError(f"got {_name(content)} as content, expected a text")
    if content and not any(map(_is_known, parts)):
        raise ReplyError("got a content of parts of unknown kinds, expected a text")
    text = repaired("".join(_texts(parts, _ANSWER_PARTS)), flaws)
    fields = (_thought_of(message.get(name)) for name in _THOUGHT_FIELDS)
    thought = "".join(_texts(parts, _THOUGHT_PARTS)) or next(filter(None, fields), "")
    return _Content(
        text=text,
        thought=repaired(thought, flaws),
        finish_reason="content_filter" if not text and _has_refusal(message, parts) else _reason(choice),
        tokens=_reported(choice, flaws),
    )


def _is_known(part: Any) -> bool:
    """Return whether a part of a message is one that may hold text, or that holds none by its kind."""
    if not isinstance(part, dict):
        return isinstance(part, str)
    if part.get("type") is None:
        return any(name in part for name in _TEXT_FIELDS)
    return part["type"] in (*_ANSWER_PARTS, *_THOUGHT_PARTS, *_OTHER_PARTS)


def _thought_of(field: Any) -> str:
    """Return the thought that a field of a message holds, of any kind of parts."""
    parts = field if isinstance(field, list) else [field]
    return "".join(
        _inner_texts(each) if isinstance(each, dict) else each
        for each in parts
        if each and isinstance(each, str | dict)
    )


def _has_refusal(message: Mapping[str, Any], parts: Sequence[Any]) -> bool:
    # A refusal has a field or a part of its own and is no answer.
    return bool(message.get("refusal")) or any(isinstance(each, dict) and each.get("refusal") for each in parts)


def _texts(parts: Sequence[Any], kinds: Collection[str]) -> Iterator[str]:
    """Yield the texts of those parts of a message that are of some kinds; a bare text is of the kind "text"."""
    for part in parts:
        if isinstance(part, str) and "text" in kinds:
            yield part
        elif isinstance(part, dict) and (part.get("type") or "text") in kinds:
            yield _inner_texts(part)


def _inner_texts(part: Mapping[str, Any]) -> str:
    """Return the text of a part: `text`, or what names it otherwise, as a text, an object with one, or a list."""
    found = next((part[name] for name in _TEXT_FIELDS if part.get(name)), "")
    inner = found if isinstance(found, list) else [found]
    texts = (each.get("text", each.get("value")) if isinstance(each, dict) else each for each in inner)
    return "".join(text for text in texts if isinstance(text, str))


def _generation(
    content: _Content, num_tokens: int, told_tokens: int, num_top_tokens: int, is_thinking: bool, flaws: set[Flaw]
) -> Generation:
    """Return the generation that a choice holds.

    Args:
        num_tokens: generated tokens of the choice.
        told_tokens: number of its thought's tokens as reported; 0 where it is not.
    """
    split = split_thought(content.text)
    answer, thought = split.answer, content.thought + split.thought
    has_thought = split.has_thought or bool(content.thought) or (told_tokens > 0 and not answer.strip())
    # What was cut before any text is a thought that is not shown; where all tokens are a thought's, the text is that.
    is_all_thought = is_thinking or not content.text or told_tokens >= num_tokens
    if content.finish_reason == "length" and not has_thought and is_all_thought:
        answer, thought, has_thought = "", content.text, True
    first: int | None = 0
    if has_thought:
        first = answer_token([token["token"] for token in content.tokens], answer)
    tokens = content.tokens[first:] if first is not None else ()
    known_tokens = first or told_tokens or (0 if answer else num_tokens)
    thought_tokens = thought_length(num_tokens, known_tokens, thought, answer) if has_thought else 0
    return Generation(
        text=answer[:_MAX_CHARACTERS],
        num_tokens=max(num_tokens, thought_tokens),
        finish_reason="length" if len(answer) > _MAX_CHARACTERS else content.finish_reason,
        log_probability=sum(min(token["logprob"], 0.0) for token in tokens) if tokens else None,
        first_tokens=_first_tokens(tokens[0], flaws) if tokens and num_top_tokens else (),
        thought_tokens=thought_tokens,
    )


def _reason(choice: Mapping[str, Any]) -> str:
    """Return why a choice ended, by OpenAI's name for it where there is one; empty where it is not told."""
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or not CODE.fullmatch(reason):
        return ""
    reason = reason.lower().replace("-", "_")
    return _REASONS.get(reason, reason)


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
    if (
        not isinstance(top, list | tuple)
        or not all(_is_token(each) for each in top)
        or sum(math.exp(min(each["logprob"], 0.0)) for each in top) > _MAX_TOP_PROBABILITY
    ):
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
    return is_log_probability(token.get("logprob"))


def _count(value: Any) -> int | None:
    """Return a number of tokens; None where it cannot be one."""
    return int(value) if is_token_count(value) else None


def _lengths(reported: Sequence[int], generated_tokens: int) -> list[int]:
    """Return the generated tokens of each choice: as reported, plus an even share of the unattributed tokens."""
    share, rest = divmod(max(generated_tokens - sum(reported), 0), len(reported))
    return [length + share + (place < rest) for place, length in enumerate(reported)]


def _code_of(error: Any) -> str:
    codes = (error.get(name) for name in ("code", "type")) if isinstance(error, dict) else ()
    code = next((str(code) for code in codes if isinstance(code, str | int) and CODE.fullmatch(str(code))), "")
    return f" ({code})" if code else ""


def _kind_of_text(content: bytes) -> str:
    start = content[:100].lstrip().lower()
    if not start:
        return "nothing"
    if start.startswith((b"data:", b"event:", b"id:", b": ", b":\n")):
        return "a stream of events, which was not asked for"
    return "a web page" if start.startswith((b"<!doctype", b"<html")) else "text that is not JSON"


def _name(value: Any) -> str:
    """Return what a JSON value is."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "nothing"}
    return names.get(type(value), "a number")
