"""Retry policy for an endpoint: back-off between attempts, and a circuit breaker for dead endpoints."""

import email.utils
from collections.abc import Mapping

PASSING_STATUSES = (408, 409, 425, 429, 449, 460, 499)
"""Status codes below 500 after which a retry may succeed."""
_FIRST_PAUSE_SECONDS = 0.5


def pause_seconds(num_failed: int, retry_after: float | None, longest: float, draw: float) -> float:
    """Return the pause before the next attempt: exponential back-off with full jitter, or the requested pause plus
    jitter, so that clients do not retry in step.

    Args:
        num_failed: failed attempts so far, at least 1.
        retry_after: pause that the endpoint asked for, in seconds.
        longest: upper bound of the back-off, in seconds.
        draw: uniform in [0, 1).
    """
    if retry_after is not None:
        return retry_after + draw * _FIRST_PAUSE_SECONDS
    # The exponent is bounded, so that many attempts do not overflow a float.
    return draw * min(longest, _FIRST_PAUSE_SECONDS * 2 ** min(num_failed - 1, 30))


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Return the pause that a response asks for: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date.

    Args:
        headers: names in lower case.
        now: seconds since 1970, used where the response has no `Date`.

    Returns:
        Seconds, not negative; None where the header is missing or malformed.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    until = _timestamp(headers.get("retry-after"))
    if until is None:
        return None
    # Relative to the endpoint's own clock, if it reports it: the local one may differ.
    return max(0.0, until - (_timestamp(headers.get("date")) or now))


def _timestamp(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None


class Pause:
    """Time until which an endpoint asks all its callers to wait. Times are in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._until = float("-inf")

    def ask(self, now: float, seconds: float) -> None:
        """Record that the endpoint asks to wait; the longest wait asked for holds."""
        self._until = max(self._until, now + seconds)

    def left(self, now: float) -> float:
        """Return the seconds left to wait, at least 0."""
        return max(0.0, self._until - now)


class Breaker:
    """Circuit breaker: distinguishes a dead endpoint from failing requests, by the number of distinct requests that
    failed in a row and the time without any answer. Times are in seconds of any monotonic clock."""

    def __init__(self, num_requests: int, seconds: float):
        self._num_requests, self._seconds = num_requests, seconds
        self._failed: set[str] = set()
        self._since = 0.0
        self._last_sign = float("-inf")

    def sign_of_life(self, now: float) -> None:
        """Record a response, even one that asks to wait."""
        self._failed.clear()
        self._last_sign = now

    def failed(self, request_id: str, start: float) -> None:
        """Record that a call that began at `start` got no response."""
        if not self._failed:
            self._since = max(start, self._last_sign)
        self._failed.add(request_id)

    @property
    def is_suspected(self) -> bool:
        """Whether so many requests failed in a row that the endpoint must be the cause."""
        return len(self._failed) >= self._num_requests

    def is_dead(self, now: float) -> bool:
        """Return whether the endpoint has been suspected for long enough."""
        return self.is_suspected and now - self._since >= self._seconds
