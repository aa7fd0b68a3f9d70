from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import RunConfig
from hydra_ray.forecast.counting import Volume
from hydra_ray.forecast.prices import limited_seconds, price_of
from hydra_ray.forecast.user_sample import Estimate

VOLUME = Volume(
    requests=Estimate(value=600, low=500, high=700),
    prompt_tokens=Estimate(value=2e6, low=1e6, high=3e6),
    generated_tokens=Estimate(value=1e5, low=1e5, high=1e5),
)


def config_of(hour_price: float = 0, **api: Any) -> RunConfig:
    generator = {"engine": "openai", "api": {"base_url": "https://example.org/v1", "model": "m", **api}} if api else {}
    return run_config(generator=generator, budget={"hour_price": hour_price})


def test_tokens_are_paid_by_the_million_and_bounds_go_along():
    found = price_of([VOLUME, VOLUME], None, config_of(prompt_price=0.5, generated_price=5))
    assert found == Estimate(value=2 * (1 + 0.5), low=2 * (0.5 + 0.5), high=2 * (1.5 + 0.5))


def test_hours_are_paid_where_they_have_a_price():
    found = price_of([VOLUME], 3.0, config_of(hour_price=2))
    assert found == Estimate(value=6, low=6, high=6)


@pytest.mark.parametrize(("hours", "config"), [(3.0, config_of()), (None, config_of(hour_price=2))])
def test_without_a_price_or_without_the_hours_there_is_no_cost(hours: float | None, config: RunConfig):
    assert price_of([VOLUME], hours, config) is None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"requests_per_minute": 60}, 600),
        ({"tokens_per_minute": 70_000}, 1800),
        ({"requests_per_minute": 60, "tokens_per_minute": 70_000}, 1800),
        ({"prompt_price": 1}, 0),
    ],
)
def test_the_tightest_limit_of_an_endpoint_tells_the_least_time(limits: dict[str, int], expected: float):
    assert limited_seconds(VOLUME, config_of(**limits).generator) == pytest.approx(expected)
