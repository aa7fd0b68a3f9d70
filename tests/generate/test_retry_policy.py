import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.generate.retry_policy import Breaker, pause_seconds, retry_after_seconds

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:30 GMT"}, 10),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:30 GMT", "date": "Tue, 14 Nov 2023 22:13:00 GMT"}, 30),
        ({"retry-after": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
    ],
)
def test_what_the_endpoint_asks_for_is_understood_in_seconds_and_as_a_date(
    headers: dict[str, str], seconds: float | None
):
    assert retry_after_seconds(headers, NOW) == seconds


@given(st.integers(1, 2000), st.floats(0, 1, exclude_max=True), st.floats(0.1, 100))
def test_pauses_are_random_below_a_bound_that_doubles_up_to_the_longest(num_failed: int, draw: float, longest: float):
    bound = 0.5
    for _ in range(min(num_failed, 20) - 1):
        bound = min(2 * bound, longest)
    assert pause_seconds(num_failed, None, longest, draw) == pytest.approx(draw * min(bound, longest))


@given(st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_nobody_comes_back_before_the_endpoint_asked_for_it(retry_after: float, draw: float):
    assert retry_after <= pause_seconds(1, retry_after, 1.0, draw) <= retry_after + 0.5


def test_an_endpoint_is_dead_when_enough_requests_failed_over_enough_time():
    breaker = Breaker(num_requests=3, seconds=10)
    breaker.failed("a", start=0)
    breaker.failed("b", start=1)
    assert not breaker.is_dead(100)
    breaker.failed("c", start=2)
    assert not breaker.is_dead(9.9)
    assert breaker.is_dead(10)


def test_one_request_that_fails_again_and_again_is_not_the_endpoints_death():
    breaker = Breaker(num_requests=2, seconds=10)
    for start in range(100):
        breaker.failed("poison", start)
    assert not breaker.is_suspected
    assert not breaker.is_dead(1000)


def test_a_sign_of_life_begins_the_count_and_the_time_anew():
    breaker = Breaker(num_requests=2, seconds=10)
    breaker.failed("a", start=0)
    breaker.failed("b", start=0)
    breaker.sign_of_life(9)
    assert not breaker.is_suspected
    # These calls began before the sign came.
    breaker.failed("a", start=5)
    breaker.failed("b", start=5)
    assert not breaker.is_dead(18.9)
    assert breaker.is_dead(19)


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from(["a", "b", "c", "life"])), max_size=40))
def test_death_is_told_by_what_happened_since_the_last_sign(events: list[tuple[float, str]]):
    breaker, now = Breaker(num_requests=2, seconds=8), 0.0
    history: list[tuple[float, str]] = []
    for gap, what in events:
        now += gap
        history.append((now, what))
        if what == "life":
            breaker.sign_of_life(now)
        else:
            breaker.failed(what, now)
        signs = [place for place, (_, each) in enumerate(history) if each == "life"]
        since = history[signs[-1] + 1 :] if signs else history
        is_dead = len({each for _, each in since}) >= 2 and now - since[0][0] >= 8
        assert breaker.is_dead(now) == is_dead
