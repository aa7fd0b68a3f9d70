"""Endpoint faults: seeded replies of the server in `tests/fault_server.py`, from broken ones to odd ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from fault_server import ANSWER, CUT_OFF, HANG, HTML, MALFORMED, NO_COMPLETION, Reply

FAULTY: Mapping[str, Reply] = {
    "429 with Retry-After": Reply(status=429, headers={"retry-after": "0.2"}),
    "500": Reply(status=500),
    "503": Reply(status=503),
    "closed in the middle": CUT_OFF,
    "malformed JSON": MALFORMED,
    "JSON of another kind": NO_COMPLETION,
    "HTML": HTML,
    "no reply": HANG,
}
_NUM_FAULTS = 4
_WITHIN_CALLS = 16
"""Number of first calls among which the faults are."""
_NO_USAGE: Mapping[str, Any] = {
    "null": None,
    "negative": {"prompt_tokens": -5, "completion_tokens": -1, "total_tokens": -6},
    "text": {"prompt_tokens": "many", "completion_tokens": [], "total_tokens": {}},
    "huge": {"prompt_tokens": 10**30, "completion_tokens": 1e300, "total_tokens": 10**30},
}
"""Values of `usage` that say nothing."""


def api_settings(url: str) -> dict[str, Any]:
    """Return settings of the endpoint at `url` with short timeouts, so that a schedule takes seconds."""
    return {
        "base_url": url,
        "model": "fake",
        "attempt_timeout_seconds": 3,
        "request_deadline_seconds": 30,
        "max_backoff_seconds": 0.5,
        "breaker_failures": 20,
        "breaker_seconds": 90,
    }


def replies_of(seed: int) -> tuple[list[str], list[Reply]]:
    """Return the kinds of faults of a seed, and the replies to the first calls."""
    return _among_good(Random(f"endpoint {seed}"), FAULTY)


def odd_replies_of(seed: int) -> tuple[list[str], list[Reply]]:
    """Return the kinds of odd replies of a seed, and the replies to the first calls."""
    return _among_good(Random(f"odd {seed}"), {name: Reply(change=change) for name, change in ODD.items()})


def without_usage(form: str) -> Reply:
    """Return the reply that answers and does not say what that took.

    Args:
        form: a kind of missing or absurd usage.
    """

    def change(body: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in body.items() if name != "usage"}
        return kept if form == "absent" else {**kept, "usage": _NO_USAGE[form]}

    return Reply(change=change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """What an endpoint says to every call from some call on, or to that one."""

    refusal: Reply
    stops: bool = True
    """Whether the run must stop, by the name of what the endpoint said."""
    names: str = ""
    """What the error must name."""
    is_once: bool = False
    """Whether only one call is answered so."""


MOODS: Mapping[str, Mood] = {
    "401": Mood(refusal=Reply(status=401, code="invalid_api_key"), names="401"),
    "402": Mood(refusal=Reply(status=402, code="insufficient_balance"), names="402"),
    "403": Mood(refusal=Reply(status=403, code="permission_denied"), names="403"),
    "404": Mood(refusal=Reply(status=404, code="model_not_found"), names="404"),
    "insufficient_quota": Mood(refusal=Reply(status=429, code="insufficient_quota"), names="insufficient_quota"),
    "403 once": Mood(refusal=Reply(status=403, code="content_policy_violation"), stops=False, is_once=True),
    "429 for an hour": Mood(refusal=Reply(status=429, headers={"retry-after": "3600"}), stops=False),
}
"""Endpoints that change their mind, by variant."""


def _among_good(random: Random, bad: Mapping[str, Reply]) -> tuple[list[str], list[Reply]]:
    kinds = random.sample(list(bad), _NUM_FAULTS)
    replies = [ANSWER] * _WITHIN_CALLS
    for place, kind in zip(random.sample(range(_WITHIN_CALLS), _NUM_FAULTS), kinds, strict=True):
        replies[place] = bad[kind]
    return kinds, replies


def _messages(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a change of every choice's message."""

    def changed(body: dict[str, Any]) -> dict[str, Any]:
        for choice in body["choices"]:
            change(choice["message"])
        return body

    return changed


def _think_first(message: dict[str, Any]) -> None:
    message["content"] = f"<think>\nThe reader may like comedy.\n</think>\n\n{message['content']}"


def _think_only(message: dict[str, Any]) -> None:
    message |= {"content": None, "reasoning_content": "The reader may like comedy, or"}


def _think_cut(message: dict[str, Any]) -> None:
    message["content"] = "<think>\nThe reader may like comedy, or"


def _in_parts(message: dict[str, Any]) -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "It may be comedy."}]}
    message["content"] = [thought, {"type": "text", "text": message["content"]}]


def _half_an_emoji(message: dict[str, Any]) -> None:
    message["content"] = "\ud83d"


def _logprobs(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    token = {"token": "\ud83d", "logprob": value, "bytes": None, "top_logprobs": [{"token": "a", "logprob": value}]}

    def changed(body: dict[str, Any]) -> dict[str, Any]:
        for choice in body["choices"]:
            choice["logprobs"] = {"content": [token]}
        return body

    return changed


def _without_choices(body: dict[str, Any]) -> dict[str, Any]:
    error = {"message": "upstream failed", "type": "upstream_error", "code": 502}
    return {**body, "choices": None, "error": error}


def _too_few(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "choices": body["choices"][:-1]}


ODD: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "thought before the answer": _messages(_think_first),
    "thought and no answer": _messages(_think_only),
    "thought that was cut": _messages(_think_cut),
    "parts": _messages(_in_parts),
    "half an emoji": _messages(_half_an_emoji),
    "logprob of 1000": _logprobs(1000),
    "logprob null": _logprobs(None),
    "logprob text": _logprobs("high"),
    **{f"usage {form}": without_usage(form).change for form in (*_NO_USAGE, "absent")},
    "error with 200": _without_choices,
    "too few choices": _too_few,
}  # pyright: ignore[reportAssignmentType]
"""Changes of the body of an answer, by kind."""
