"""Analysis of a sweep's results: best trial, Pareto front, importance of settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection

from hydra_ray.sweep.distributions import distributions
from hydra_ray.sweep.space import Settings, Values, encoded

AIMS = {"quality": "max", "generated_tokens": "min"}
"""Optimization direction of each objective, by name of a trial's metric."""
_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Objectives of one trial, with its settings."""

    settings: Settings
    quality: float
    generated_tokens: int


def pareto_front(results: Sequence[Figures], space: Mapping[str, Values]) -> list[int]:
    """Return the positions of the Pareto-optimal results in quality and generated tokens."""
    return sorted({trial.number for trial in _study(results, space).best_trials}) if results else []


def best_result(results: Sequence[Figures]) -> int:
    """Return the position of the result with the best quality; of ties the one with fewer tokens, then the first."""
    return min(range(len(results)), key=lambda place: (-results[place].quality, results[place].generated_tokens, place))


def importances(results: Sequence[Figures], space: Mapping[str, Values], seed: int) -> dict[str, float]:
    """Return the share of the variance of quality that each setting explains by itself, the most important first.

    Functional ANOVA of a random forest (Hutter et al., 2014): shares of the variance explained by single settings,
    which add up to 1, or zeros where quality does not vary.
    """
    if len({result.quality for result in results}) < 2:
        return dict.fromkeys(space, 0.0)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(
        _study(results, space), evaluator=evaluator, target=lambda trial: trial.values[0]
    )
    return {key: float(share) for key, share in found.items()}


def _study(results: Sequence[Figures], space: Mapping[str, Values]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[_DIRECTIONS[aim] for aim in AIMS.values()])
    known = distributions(space)
    for result in results:
        study.add_trial(
            optuna.trial.create_trial(
                params={key: encoded(value) for key, value in result.settings.items()},
                distributions=known,
                values=[result.quality, result.generated_tokens],
            )
        )
    return study
