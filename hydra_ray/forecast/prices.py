"""Cost of generation, and time under an endpoint's rate limits."""

from collections.abc import Sequence

from hydra_ray.config import GeneratorConfig, RunConfig
from hydra_ray.forecast.counting import Volume
from hydra_ray.forecast.user_sample import Estimate

MILLION = 1e6


def price_of(volumes: Sequence[Volume], unit_hours: float | None, config: RunConfig) -> Estimate | None:
    """Return the price of `volumes`: by tokens at an endpoint, less in batches, and by the hour of generators.

    Returns:
        None where no price is set, or there is a price per hour and the hours are not known.
    """
    api, hour_price = config.generator.api, config.budget.hour_price
    factor = config.generator.batch.price_factor if config.generator.engine == "openai_batch" else 1.0
    prompt_price, generated_price = (api.prompt_price * factor, api.generated_price * factor) if api else (0.0, 0.0)
    if not (prompt_price or generated_price or hour_price) or (hour_price and unit_hours is None):
        return None
    hours = hour_price * (unit_hours or 0.0)
    total = Estimate(value=hours, low=hours, high=hours)
    for volume in volumes:
        total += volume.prompt_tokens.scaled(prompt_price / MILLION)
        total += volume.generated_tokens.scaled(generated_price / MILLION)
    return total


def limited_seconds(volume: Volume, generator: GeneratorConfig) -> float:
    """Return the minimum time for `volume` under the endpoint's rate limits; 0 without limits."""
    api = generator.api
    if api is None:
        return 0.0
    by_requests = volume.requests.value / api.requests_per_minute if api.requests_per_minute else 0.0
    by_tokens = volume.tokens.value / api.tokens_per_minute if api.tokens_per_minute else 0.0
    return 60 * max(by_requests, by_tokens)
