"""Client-side rate limits of an endpoint: calls and tokens per minute, concurrent calls.

`Limits` is the pure rule, with time as an argument: sliding windows, so that no 60 seconds, wherever they begin, exceed
a limit. `Limiter` makes callers wait for their turn, first come, first served.
"""

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hydra_ray.config import ApiConfig

_WINDOW_SECONDS = 60.0


class Turns(Protocol):
    """Queue in which callers wait for their turn."""

    async def reserve(self, tokens: int) -> int:
        """Wait until a call of up to `tokens` tokens may begin; return its ticket."""
        ...

    async def settle(self, ticket: int, tokens: int) -> None:
        """Record that the call of a ticket has ended and has taken `tokens` tokens."""
        ...


@dataclass(slots=True)
class _Call:
    start: float
    tokens: int


class Limits:
    """Calls of the last minute, and whether one more may begin. `now` is in seconds of any monotonic clock."""

    def __init__(self, config: ApiConfig):
        self.config = config
        self._calls: OrderedDict[int, _Call] = OrderedDict()
        """Calls of the last minute, by ticket, oldest first."""
        self._under_way: dict[int, float] = {}
        """Start times of the calls that have not ended, by ticket. One whose caller died ends at its time-out."""
        self._tokens = 0

    def wait_seconds(self, now: float, tokens: int) -> float:
        """Return how many seconds a call of `tokens` tokens must wait if no other call ends before; 0 if it may begin
        now.

        A call larger than the limit per minute waits until no other call is in the window.
        """
        self._drop_past(now)
        return max(self._slot_wait(now), self._request_wait(now), self._token_wait(now, tokens), 0.0)

    def begin(self, now: float, tokens: int) -> int:
        """Record a call that begins now; return its ticket."""
        # A ticket of a limiter that died must not settle a call of the new one.
        ticket = secrets.randbits(63)
        self._calls[ticket] = _Call(now, tokens)
        self._under_way[ticket] = now
        self._tokens += tokens
        return ticket

    def settle(self, ticket: int, tokens: int) -> None:
        """Record that a call has ended, replacing its estimated tokens by the actual ones."""
        self._under_way.pop(ticket, None)
        if ticket in self._calls:
            call = self._calls[ticket]
            self._tokens += tokens - call.tokens
            call.tokens = tokens

    def _drop_past(self, now: float) -> None:
        while self._calls and next(iter(self._calls.values())).start <= now - _WINDOW_SECONDS:
            self._tokens -= self._calls.popitem(last=False)[1].tokens
        timeout = self.config.attempt_timeout_seconds
        self._under_way = {ticket: start for ticket, start in self._under_way.items() if start > now - timeout}

    def _slot_wait(self, now: float) -> float:
        if len(self._under_way) < self.config.max_concurrent_requests:
            return 0.0
        starts = sorted(self._under_way.values())
        first_too_many = starts[len(starts) - self.config.max_concurrent_requests]
        return first_too_many + self.config.attempt_timeout_seconds - now

    def _request_wait(self, now: float) -> float:
        limit = self.config.requests_per_minute
        if limit is None or len(self._calls) < limit:
            return 0.0
        starts = deque((call.start for call in self._calls.values()), maxlen=limit)
        return starts[0] + _WINDOW_SECONDS - now

    def _token_wait(self, now: float, tokens: int) -> float:
        limit = self.config.tokens_per_minute
        if limit is None:
            return 0.0
        wait, left = 0.0, self._tokens
        for call in self._calls.values():
            if left + min(tokens, limit) <= limit:
                break
            left -= call.tokens
            wait = call.start + _WINDOW_SECONDS - now
        return wait


class Limiter:
    """Rate limiter for the callers of one process."""

    def __init__(self, config: ApiConfig, clock: Callable[[], float] = time.monotonic):
        self._limits, self._clock = Limits(config), clock
        self._turn, self._ended = asyncio.Lock(), asyncio.Event()

    async def reserve(self, tokens: int) -> int:
        """Wait until a call of up to `tokens` tokens may begin; return its ticket."""
        async with self._turn:
            while (seconds := self._limits.wait_seconds(self._clock(), tokens)) > 0:
                self._ended.clear()
                try:
                    await asyncio.wait_for(self._ended.wait(), seconds)
                except TimeoutError:
                    continue
            return self._limits.begin(self._clock(), tokens)

    async def settle(self, ticket: int, tokens: int) -> None:
        """Record that the call of a ticket has ended and has taken `tokens` tokens."""
        self._limits.settle(ticket, tokens)
        self._ended.set()

    async def configure(self, config: ApiConfig) -> None:
        """Replace the limits."""
        self._limits.config = config
        self._ended.set()
