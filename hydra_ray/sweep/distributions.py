"""Optuna distributions of a sweep's space."""

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_ray.sweep.config import Range
from hydra_ray.sweep.space import Values, encoded


def distributions(space: Mapping[str, Values]) -> dict[str, BaseDistribution]:
    """Return the distribution of each setting's value."""
    found: dict[str, BaseDistribution] = {}
    for key, values in space.items():
        if not isinstance(values, Range):
            found[key] = CategoricalDistribution([encoded(value) for value in values])
        elif values.is_whole:
            found[key] = IntDistribution(int(values.low), int(values.high), log=values.log)
        else:
            found[key] = FloatDistribution(float(values.low), float(values.high), log=values.log)
    return found
