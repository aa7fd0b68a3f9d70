"""Bodies of chat completions as endpoints send them, and seeded mutations of them."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

_TOP = [{"token": "com", "logprob": -0.1, "bytes": [99]}, {"token": "love", "logprob": -3.0, "bytes": [108]}]


def body_of(*messages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A completion with a choice for each message; `changes` replace its fields."""
    choices = [
        {"index": place, "message": {"role": "assistant", **message}, "finish_reason": "stop", "logprobs": None}
        for place, message in enumerate(messages)
    ]
    usage = {"prompt_tokens": 20, "completion_tokens": 8 * len(messages), "total_tokens": 20 + 8 * len(messages)}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage} | changes


def with_tokens(body: dict[str, Any], *texts: str, top: Any = _TOP) -> dict[str, Any]:
    """The same with the log-probabilities of its first choice's tokens."""
    tokens = [{"token": text, "logprob": -0.25, "bytes": None, "top_logprobs": top} for text in texts]
    body["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
    return body


def shapes() -> list[dict[str, Any]]:
    """Replies as OpenAI, vLLM, DeepSeek, OpenRouter, Mistral and gateways send them, for two samples or one."""
    thought = "<think>\nThe person likes short ones.\n</think>\n\nwar"
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "war"}]
    details = {"completion_tokens_details": {"reasoning_tokens": 6}, "prompt_tokens": 9, "completion_tokens": 8}
    filtered = body_of({"content": [{"type": "text", "text": {"value": "war"}}]}, {"content": None})
    filtered["choices"][1] = {"index": 1, "finish_reason": "SAFETY", "content_filter_results": {}}
    return [
        body_of({"content": "war"}, {"content": "love \U0001f600"}),
        with_tokens(body_of({"content": "war"}, {"content": "love"}), "war"),
        with_tokens(
            body_of({"content": thought}, {"content": "x</think>love"}), "<think>", "a", "</think>", "\n", "war"
        ),
        body_of({"content": "war", "reasoning_content": "hm"}, {"content": None, "reasoning_content": "hm"}),
        body_of(
            {"content": "war", "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text"}]}, {"content": ""}
        ),
        body_of({"content": parts}, {"content": [{"type": "text", "text": "love"}]}, usage=details),
        body_of({"content": None, "refusal": "no"}, {"content": None, "tool_calls": [{"id": "1", "function": {}}]}),
        body_of({"content": "war"}, {"content": "love"}, usage=None, error=None),
        filtered,
        body_of({"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, {"content": "war"}),
        {"error": {"message": "no", "code": 429, "type": "x"}, "choices": None},
    ]


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, 10**400, 1e308, 0.5, -9999.0, 1000, "", "\ud83d", "x\udfff", "\0", "<think>",
    "</think>",
    "text", [], {}, [None], [[]], {"": None}, "war", ["war"], {"type": "text", "text": 7}, float("nan"), float("inf"),
)  # fmt: skip


def mutated(seed: int) -> bytes:
    """A reply of which some values, keys, members or bytes were changed; the same for the same seed."""
    rng = random.Random(seed)
    body: Any = json.loads(json.dumps(rng.choice(shapes())))
    for _ in range(rng.randrange(1, 5)):
        body = _change(body, rng)
    text = json.dumps(body, ensure_ascii=rng.random() < 0.7)
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        place = rng.randrange(len(content) + 1)
        inserted = rng.choice(
            (b"", b"\xff", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"\\ud800", b"<html>", b"NaN", b"data: ")
        )
        content = content[:place] + inserted + content[place + rng.randrange(20) :]
    return content


def _change(body: Any, rng: random.Random) -> Any:
    places = list(_places(body))
    if not places:
        return copy.deepcopy(rng.choice(_VALUES))
    holder, key = rng.choice(places)
    act = rng.randrange(5)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    elif act == 2 and isinstance(holder[key], str):
        text = holder[key]
        place = rng.randrange(len(text) + 1)
        holder[key] = text[:place] + rng.choice([each for each in _VALUES if isinstance(each, str)]) + text[place:]
    elif act == 3:
        deep: Any = holder[key]
        for _ in range(rng.choice((1, 5, 60))):
            deep = rng.choice(([deep], {"text": deep, "type": "text"}))
        holder[key] = deep
    else:
        holder[key] = copy.deepcopy(rng.choice(_VALUES))
    return body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All members of a JSON value, as their holder and key."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
