"""Optuna's searcher under Ray Tune, restricted to valid points and reproducible."""

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from hydra_ray.seeds import seed_of
from hydra_ray.sweep.distributions import distributions
from hydra_ray.sweep.space import Settings, Values, decoded

_WORST = {"max": 0.0, "min": 1e15}
"""Metrics reported for an invalid point, by direction: no quality, and more tokens than there are."""
_MAX_SUGGESTIONS = 200
"""Number of consecutive invalid points after which the search ends."""


def optuna_searcher(
    space: Mapping[str, Values],
    aims: Mapping[str, str],
    seed: int,
    batch_size: int,
    is_possible: Callable[[Settings], bool],
    prefix: str,
) -> Searcher:
    """Return a tree-structured Parzen estimator that suggests `batch_size` trials and waits for all of them.

    Its suggestions depend only on the seed, the batches and the results, so a restarted search repeats them.

    Args:
        aims: max or min, by name of a reported metric.
        prefix: key of a trial's settings in its Tune configuration.
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
    """Repeats another searcher's suggestion until it is valid.

    Invalid points are reported to it with the worst metrics; without feedback it would suggest them again and again.
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
        """Save nothing: a restarted search repeats the same suggestions."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: nothing was saved."""
