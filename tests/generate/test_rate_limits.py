import asyncio
import heapq
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray.config import ApiConfig
from hydra_ray.generate.rate_limits import Limiter, Limits

TIMEOUT = 20.0


def api(**limits: int | None) -> ApiConfig:
    settings: dict[str, Any] = {"max_concurrent_requests": 1000, **limits}
    return ApiConfig(base_url="http://localhost/v1", model="m", attempt_timeout_seconds=TIMEOUT, **settings)


EIGHTHS = st.integers(0, 8 * int(TIMEOUT)).map(lambda eighths: eighths / 8)
"""Seconds that floats add up exactly."""
CALLS = st.lists(
    st.tuples(
        EIGHTHS,  # since the call before it was asked for
        st.integers(1, 60),  # tokens that it may take
        st.floats(0, 1),  # share of them that it takes
        EIGHTHS,  # how long it takes
    ),
    min_size=1,
    max_size=60,
)


def begun(config: ApiConfig, calls: list[tuple[float, int, float, float]]) -> list[tuple[float, float, int, int]]:
    """Start, end, reserved and taken tokens of each call, one after another in its turn, on a clock of numbers."""
    limits, now, asked = Limits(config), 0.0, 0.0
    ending: list[tuple[float, int, int]] = []
    found = []
    for gap, tokens, share, duration in calls:
        asked += gap
        now = max(now, asked)
        while True:
            while ending and ending[0][0] <= now:
                _, ticket, taken = heapq.heappop(ending)
                limits.settle(ticket, taken)
            wait = limits.wait_seconds(now, tokens)
            if wait == 0:
                break
            now = min(now + wait, ending[0][0]) if ending and ending[0][0] > now else now + wait
        ticket = limits.begin(now, tokens)
        heapq.heappush(ending, (now + duration, ticket, round(tokens * share)))
        found.append((now, now + duration, tokens, round(tokens * share)))
    return found


@examples(max_examples=60)
@given(CALLS, st.integers(1, 8))
def test_no_minute_has_more_calls_than_allowed_and_none_waits_without_need(
    calls: list[tuple[float, int, float, float]], limit: int
):
    starts = [start for start, *_ in begun(api(requests_per_minute=limit), calls)]
    asked = 0.0
    for place, start in enumerate(starts):
        # A window that begins with a call holds as many as any other.
        assert sum(start <= other < start + 60 for other in starts) <= limit
        asked += calls[place][0]
        earliest = max(asked, starts[place - 1] if place else 0.0)
        if place >= limit:
            earliest = max(earliest, starts[place - limit] + 60)
        assert start == pytest.approx(earliest)


@examples(max_examples=60)
@given(CALLS, st.integers(60, 150))
def test_no_minute_has_more_tokens_than_allowed(calls: list[tuple[float, int, float, float]], limit: int):
    found = begun(api(tokens_per_minute=limit), calls)
    for start, _, tokens, _ in found:
        # At every start: what began in the last minute, by what is known of it then.
        known = sum(
            taken if end <= start else reserved for other, end, reserved, taken in found if start - 60 < other < start
        )
        assert known + tokens <= limit


@examples(max_examples=60)
@given(CALLS, st.integers(1, 5))
def test_no_more_calls_are_under_way_than_allowed(calls: list[tuple[float, int, float, float]], limit: int):
    found = begun(api(max_concurrent_requests=limit), calls)
    for place, (start, *_) in enumerate(found):
        assert sum(end > start for _, end, *_ in found[:place]) < limit


def test_tokens_that_were_not_taken_are_free_for_others_at_once():
    limits = Limits(api(tokens_per_minute=100))
    ticket = limits.begin(0.0, 100)
    assert limits.wait_seconds(1.0, 50) == 59.0
    limits.settle(ticket, 40)
    assert limits.wait_seconds(1.0, 60) == 0
    assert limits.wait_seconds(1.0, 61) == 59.0


def test_a_call_larger_than_the_limit_waits_for_an_empty_window_only():
    limits = Limits(api(tokens_per_minute=100))
    assert limits.wait_seconds(0.0, 5000) == 0
    limits.begin(0.0, 10)
    assert limits.wait_seconds(20.0, 5000) == 40.0


def test_the_place_of_a_caller_who_died_is_free_after_the_time_a_call_may_take():
    limits = Limits(api(max_concurrent_requests=1))
    limits.begin(0.0, 10)
    assert limits.wait_seconds(5.0, 10) == TIMEOUT - 5
    assert limits.wait_seconds(TIMEOUT, 10) == 0


def test_a_ticket_of_another_limiter_frees_nothing():
    limits, other = Limits(api(max_concurrent_requests=1)), Limits(api())
    limits.begin(0.0, 10)
    limits.settle(other.begin(0.0, 10), 0)
    assert limits.wait_seconds(1.0, 10) > 0


def test_callers_get_turns_in_order_of_arrival_as_soon_as_one_is_free():
    async def turns() -> list[int]:
        limiter = Limiter(api(max_concurrent_requests=2), clock=lambda: 0.0)
        order: list[int] = []
        tickets: list[int] = []

        async def call(number: int) -> None:
            tickets.append(await limiter.reserve(1))
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(call(number))
            while len(order) < 6:
                num_begun = len(order)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert len(order) <= num_begun + 2
                await limiter.settle(tickets.pop(0), 1)
        return order

    assert asyncio.run(turns()) == list(range(6))


def test_limits_that_are_raised_hold_for_those_who_wait_already():
    async def wait() -> None:
        limiter = Limiter(api(requests_per_minute=1), clock=lambda: 0.0)
        await limiter.reserve(1)
        waiting = asyncio.create_task(limiter.reserve(1))
        await asyncio.sleep(0)
        await limiter.configure(api(requests_per_minute=2))
        await waiting

    asyncio.run(wait())
