"""Optuna's searcher under Ray Tune, kept to what can be run and to an order that can be repeated."""

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from hydra_ray.seeds import seed_of
from hydra_ray.sweep.distributions import distributions
from hydra_ray.sweep.space import Settings, Values, decoded

_WORST = {"max": 0.0, "min": 1e15}
"""What an impossible point is told to be worth, by what is aimed at: no quality, and more tokens than there are."""
_MAX_SUGGESTIONS = 200
"""How many impossible points in a row mean that there is no possible one."""


def optuna_searcher(
    space: Mapping[str, Values],
    aims: Mapping[str, str],
    seed: int,
    batch_size: int,
    is_possible: Callable[[Settings], bool],
    prefix: str,
) -> Searcher:
    """Return a tree-structured Parzen estimator that asks for `batch_size` trials and waits for all of them.

    So what it asks for depends on nothing but the seed, the batches and the results: a search that starts again asks
    for the same trials.

    Args:
        aims: max or min, by name of what a trial reports.
        prefix: under which a trial's settings are in its configuration.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    inner = OptunaSearch(
        space={f"{prefix}/{key}": each for key, each in distributions(space).items()},
        metric=list(aims),
        mode=list(aims.values()),
        sampler=optuna.samplers.TPESampler(seed=seed_of(seed, "optuna") % 2**32),
    )

    def is_possible_code(codes: Mapping[str, Any]) -> bool:
        return is_possible({key: decoded(space[key], code) for key, code in codes.items()})

    return ConcurrencyLimiter(_PossibleSearch(inner, is_possible_code, prefix), max_concurrent=batch_size, batch=True)


class _PossibleSearch(Searcher):
    """Asks another searcher until what it suggests is possible, and tells it what failed.

    What is impossible is told as the worst there can be: who learned nothing of it would suggest it for ever.
    """

    def __init__(self, inner: Searcher, is_possible: Callable[[Mapping[str, Any]], bool], prefix: str):
        super().__init__(metric=inner.metric, mode=inner.mode)
        self._inner, self._is_possible, self._prefix = inner, is_possible, prefix
        self._worst = {aim: _WORST[mode] for aim, mode in zip(inner.metric, inner.mode, strict=True)}
        self._inner_ids: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for attempt in range(_MAX_SUGGESTIONS):
            inner_id = f"{trial_id}-{attempt}"
            suggestion = self._inner.suggest(inner_id)
            if not isinstance(suggestion, dict) or self._is_possible(suggestion[self._prefix]):
                self._inner_ids[trial_id] = inner_id
                return suggestion
            self._inner.on_trial_complete(inner_id, self._worst)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        has_result = result is not None and self.metric[0] in result
        self._inner.on_trial_complete(
            self._inner_ids[trial_id], result if has_result else None, error or not has_result
        )

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: a search that starts again asks for the same trials."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""
