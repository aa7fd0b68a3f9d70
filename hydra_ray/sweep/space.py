"""Points of a sweep's space: the settings of its trials."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from hydra_ray.errors import ConfigError
from hydra_ray.seeds import rng_of
from hydra_ray.sweep.config import Range, Sweep

Settings = Mapping[str, Any]
"""A point of the space: values by dotted name."""
Values = Sequence[Any] | Range
_DRAWS_PER_TRIAL = 100
"""Average number of draws per point after which the space counts as exhausted."""


def trial_settings(sweep: Sweep) -> list[Settings]:
    """Return the valid points of a grid or of a random search, in the order in which they are tried.

    Raises:
        ConfigError: no combination is a valid configuration.
    """
    config = sweep.config
    if config.search == "grid":
        found = [point for point in grid_points(config.space) if sweep.is_possible(point)]
    else:
        assert config.num_trials is not None
        found = random_points(config.space, config.num_trials, config.seed, sweep.is_possible)
    if not found:
        raise ConfigError(f"no point of the space of {config.sweep} is a valid configuration; {_why_impossible(sweep)}")
    return found


def grid_points(space: Mapping[str, Values]) -> list[Settings]:
    """Return every combination of lists of values, the last setting varying fastest."""
    lists = [values for values in space.values() if not isinstance(values, Range)]
    return [dict(zip(space, point, strict=True)) for point in product(*lists)]


def random_points(
    space: Mapping[str, Values], num_points: int, seed: int, is_possible: Callable[[Settings], bool]
) -> list[Settings]:
    """Return distinct valid points, drawn uniformly; fewer where the space has no more."""
    rng = rng_of(seed, "sweep")
    found: dict[str, Settings] = {}
    for _ in range(num_points * _DRAWS_PER_TRIAL):
        point = {key: drawn(values, rng) for key, values in space.items()}
        if name_of(point) not in found and is_possible(point):
            found[name_of(point)] = point
        if len(found) == num_points:
            break
    return list(found.values())


def drawn(values: Values, rng: np.random.Generator) -> Any:
    """Return a random value of a list, or a random number of a range."""
    if not isinstance(values, Range):
        return values[int(rng.integers(len(values)))]
    if not values.log:
        return (
            int(rng.integers(int(values.low), int(values.high) + 1))
            if values.is_whole
            else rng.uniform(values.low, values.high)
        )
    # Half a unit beyond the ends, so that the first and the last integer get their full share.
    margin = 0.5 if values.is_whole else 0.0
    number = math.exp(rng.uniform(math.log(values.low - margin), math.log(values.high + margin)))
    number = min(max(number, values.low), values.high)
    return round(number) if values.is_whole else number


def name_of(point: Settings) -> str:
    """Return a canonical text of a point."""
    return json.dumps(dict(point), sort_keys=True)


def probe_points(space: Mapping[str, Values], num_starts: int, seed: int) -> Iterator[tuple[str, list[Settings]]]:
    """Yield, for each setting and several base points, points that differ in that setting alone.

    Yields:
        The setting's name, and the points: all values of a list, both ends of a range.
    """
    rng = rng_of(seed, "starts")
    for _ in range(num_starts):
        start = {key: drawn(values, rng) for key, values in space.items()}
        for key, values in space.items():
            ends = [values.low, values.high] if isinstance(values, Range) else values
            yield key, [{**start, key: value} for value in ends]


def num_values(values: Values) -> float:
    """Return the number of values; infinite for a range of floats."""
    if not isinstance(values, Range):
        return len(values)
    return values.high - values.low + 1 if values.is_whole else math.inf


def _why_impossible(sweep: Sweep) -> str:
    """Return the error of one of the invalid points."""
    rng = rng_of(sweep.config.seed, "sweep")
    try:
        sweep.run_config({key: drawn(values, rng) for key, values in sweep.config.space.items()})
    except ConfigError as error:
        return str(error)
    return "try more trials"


def encoded(value: Any) -> Any:
    """Return a value as search algorithms and TensorBoard accept it: JSON for whatever is not a scalar."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def decoded(values: Values, code: Any) -> Any:
    """Return the value that `encoded` turned into `code`."""
    if isinstance(values, Range):
        return code
    return next(value for value in values if name_of({"": encoded(value)}) == name_of({"": code}))
