"""How long the stages take beside the generator: starting up, encoding texts, training bases, fitting heads.

A stage is taken to need a fixed time and a time for each user. The table was measured on two cores; where past runs
under the same root show how long a stage took, their typical departure from it corrects it.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from hydra_ray.config import RunConfig
from hydra_ray.forecast.past_runs import Stages
from hydra_ray.forecast.predicted_requests import ASKING
from hydra_ray.stages.plan import Plan

_SECONDS: Mapping[str, tuple[float, float]] = {
    "users": (0.1, 0.0005),
    "profiles": (25, 0.01),
    "probes": (25, 0.05),
    "reranker.examples": (3, 0.01),
    "reranker.base": (5, 0.0),
    "reranker.features": (5, 0.25),
    "reranker.heads": (8, 0.02),
    "drafts": (25, 0.05),
    "adapter.labeller": (20, 0.15),
    "adapter.examples": (6, 0.15),
    "adapter.base": (5, 0.0),
    "adapter.features": (5, 0.05),
    "adapter.heads": (8, 0.05),
    "gate": (3, 0.01),
    "answers": (0.5, 0.005),
    "report": (1, 0.005),
}
"""Fixed and per user; of asking stages without the generator's own time."""
_MOST_USERS = {"adapter.labeller": 1000}
"""Of a stage that reads a sample of users: more do not make it longer."""
_EPOCH_SECONDS = (3.0, 0.1)
"""The same for an epoch of training one base."""


def other_seconds(plan: Plan, num_users: int, runs: Sequence[tuple[Mapping[str, Any], Stages]]) -> dict[str, float]:
    """Expected time of every stage of a plan beside the generator, complete or not.

    Args:
        runs: configuration and stages of past runs.
    """
    return {
        stage.name: _expected(stage.name, plan.config, num_users) * _correction(stage.name, runs)
        for stage in plan.stages()
    }


def beside_generator(name: str, stage: Mapping[str, Any], generator_actors: int) -> float:
    """Time of a finished stage without that in which generators answered."""
    asked = stage["counters"].get("generator_seconds", 0.0) if name in ASKING else 0.0
    return max(stage["seconds"] - asked / generator_actors, 0.0)


def _correction(name: str, runs: Sequence[tuple[Mapping[str, Any], Stages]]) -> float:
    """What past runs took of what the table lets expect."""
    ratios: list[float] = []
    for settings, stages in runs:
        counters = stages["users"]["counters"] if "users" in stages else {}
        if name in stages and counters.get("users"):
            expected = _expected(name, settings, counters["users"])
            ratios.append(beside_generator(name, stages[name], settings["placement"]["generator_actors"]) / expected)
    return median(ratios) if ratios else 1.0


def _expected(name: str, settings: RunConfig | Mapping[str, Any], num_users: float) -> float:
    """By the table."""
    plain = settings.model_dump(mode="json") if isinstance(settings, RunConfig) else settings
    fixed, per_user = _SECONDS[name]
    scorer, _, step = name.partition(".")
    num_epochs = plain[scorer]["base"]["num_epochs"] if step == "base" else 0
    num_bases = plain["users"]["num_folds"] if num_epochs else 1
    trained = num_epochs * (_EPOCH_SECONDS[0] + _EPOCH_SECONDS[1] * num_users)
    return num_bases * (fixed + trained) + per_user * min(num_users, _MOST_USERS.get(name, num_users))
