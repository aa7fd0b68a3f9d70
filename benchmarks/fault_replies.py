"""Endpoint faults: a seeded series of replies of the server in `tests/fault_server.py`."""

from collections.abc import Mapping
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


def api_settings(url: str) -> dict[str, Any]:
    """Return settings of the endpoint at `url` with short timeouts, so that a schedule takes seconds."""
    return {
        "base_url": url,
        "model": "fake",
        "attempt_timeout_seconds": 3,
        "request_deadline_seconds": 90,
        "max_backoff_seconds": 0.5,
        "breaker_failures": 20,
        "breaker_seconds": 90,
    }


def replies_of(seed: int) -> tuple[list[str], list[Reply]]:
    """Return the kinds of faults of a seed, and the replies to the first calls."""
    random = Random(f"endpoint {seed}")
    kinds = random.sample(list(FAULTY), _NUM_FAULTS)
    replies = [ANSWER] * _WITHIN_CALLS
    for place, kind in zip(random.sample(range(_WITHIN_CALLS), _NUM_FAULTS), kinds, strict=True):
        replies[place] = FAULTY[kind]
    return kinds, replies
