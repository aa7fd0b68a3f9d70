"""Expected time of stages besides generation: startup, encoding, training bases, fitting heads.

A stage declares a fixed time and a time per user, as measured on two cores; where past runs under the same root show
how long a stage took, their median ratio to it corrects it.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from hydra_ray.config import RunConfig
from hydra_ray.forecast.past_runs import Stages
from hydra_ray.stages.definition import StageDefinition
from hydra_ray.stages.plan import Plan


def other_seconds(plan: Plan, num_users: int, runs: Sequence[tuple[Mapping[str, Any], Stages]]) -> dict[str, float]:
    """Return the expected time of every stage of a plan besides generation, complete or not.

    Args:
        runs: configurations and stages of past runs.
    """
    return {
        stage.name: _expected(definition, plan.config, num_users) * _correction(definition, plan.config, runs)
        for definition, stage in plan.made()
    }


def _beside_generator(definition: StageDefinition, stage: Mapping[str, Any], generator_actors: int) -> float:
    """Return the time of a finished stage without the time that generators spent answering."""
    asked = stage["counters"].get("generator_seconds", 0.0) if definition.asks is not None else 0.0
    return max(stage["seconds"] - asked / generator_actors, 0.0)


def _correction(
    definition: StageDefinition, config: RunConfig, runs: Sequence[tuple[Mapping[str, Any], Stages]]
) -> float:
    """Return the median ratio of past runs' times to the declared ones."""
    name, ratios = definition.name, list[float]()
    for settings, stages in runs:
        counters = stages["users"]["counters"] if "users" in stages else {}
        if name in stages and counters.get("users") and _encodes_alike(definition, settings, config):
            expected = _expected(definition, settings, counters["users"])
            num_actors = settings["placement"]["generator_actors"]
            ratios.append(_beside_generator(definition, stages[name], num_actors) / expected)
    return median(ratios) if ratios else 1.0


def _encodes_alike(definition: StageDefinition, settings: Mapping[str, Any], config: RunConfig) -> bool:
    """Return whether a past run tells how long a stage takes: not where one encodes on a GPU, the other on CPU."""
    was_on_gpu = bool(settings["placement"].get("encoder_gpus"))
    return definition.workers not in ("encoder", "encoders") or was_on_gpu == bool(config.placement.encoder_gpus)


def _expected(definition: StageDefinition, settings: RunConfig | Mapping[str, Any], num_users: float) -> float:
    """Return the time by the stage's declared duration."""
    plain = settings.model_dump(mode="json") if isinstance(settings, RunConfig) else settings
    duration, most_users = definition.duration, definition.duration.most_users
    seconds = duration.per_user * (num_users if most_users is None else min(num_users, most_users))
    if duration.epoch is None:
        return duration.fixed + seconds
    base = plain[definition.module]["base"]
    num_epochs, most_groups = base["num_epochs"], base.get("max_epoch_groups")
    num_bases = plain["users"]["num_folds"] if num_epochs else 1
    fixed, per_user = duration.epoch
    # As many groups are of as many users at most.
    taken = num_users if most_groups is None else min(num_users, most_groups)
    return num_bases * (duration.fixed + num_epochs * (fixed + per_user * taken)) + seconds
