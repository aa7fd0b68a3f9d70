"""Stages shared by a sweep's trials: the stages to compute, known beforehand from fingerprints."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra_ray.config import RunConfig
from hydra_ray.runs.stage import Stage, fingerprint
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.sweep.config import Sweep
from hydra_ray.sweep.space import Settings, num_values, probe_points

_NUM_STARTS = 8
"""Number of base points around which settings are varied to find which stages depend on them."""
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One point of the space as a run. Key: run."""

    run: str
    settings: Settings
    config: RunConfig
    stages: tuple[Stage, ...]
    """Stages up to the one that the trial ends with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageUse:
    """Number of results of one stage that trials need. Key: name."""

    name: str
    wanted: int
    """Number of trials that need the stage."""
    distinct: int
    """Number of distinct results among them."""
    complete: int
    """Number of the distinct results that exist already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds on the number of stage results that trials need which are not known yet."""

    per_trial: int
    """Number of stages of a trial."""
    lowest: int
    """Number of results if all trials are alike."""
    highest: int
    """Number of results if trials differ as much as possible."""


def last_stage(sweep: Sweep) -> str:
    """Return the name of the stage that trials end with."""
    return "gate" if sweep.config.judged_on == "history" else "report"


def make_trial(sweep: Sweep, settings: Settings) -> Trial:
    """Return the run of a point; its name is a hash of what it computes, independent of the sweep's other points.

    Raises:
        HydraError: the settings are invalid together, or an input or a model is missing.
    """
    config = sweep.run_config(settings)
    answered = {"report": config.report, "settings": dict(settings)}
    plan = plan_run(config)
    digest = fingerprint("trial", _VERSION, answered, [plan.answers.fingerprint])
    # Pin the models found now, whenever the trial runs.
    config = plan.config.model_copy(update={"run": f"{sweep.config.sweep}-{digest[:8]}"})
    return Trial(
        run=config.run, settings=settings, config=config, stages=stages_until(plan_run(config), last_stage(sweep))
    )


def stages_until(plan: Plan, until: str) -> tuple[Stage, ...]:
    """Return a plan's stages up to `until`, one of `hydra_ray.stages.STAGE_NAMES`."""
    return tuple(plan.stages(until))


def stage_uses(trials: Iterable[Sequence[Stage]]) -> list[StageUse]:
    """Return how many trials need each stage and how many results must be computed, in the order of a run.

    Args:
        trials: stages of each trial.
    """
    wanted: dict[str, list[Stage]] = {}
    for stages in trials:
        for stage in stages:
            wanted.setdefault(stage.name, []).append(stage)
    return [
        StageUse(
            name=name,
            wanted=len(stages),
            distinct=len(distinct := {stage.fingerprint: stage for stage in stages}),
            complete=sum(stage.is_complete() for stage in distinct.values()),
        )
        for name, stages in wanted.items()
    ]


def stage_bounds(sweep: Sweep, num_trials: int) -> Bounds:
    """Return bounds on the number of results that trials need which a searcher has still to suggest.

    A stage has at most as many results as there are combinations of the settings that it depends on.
    """
    affecting = _affecting_settings(sweep)
    sizes = {key: num_values(values) for key, values in sweep.config.space.items()}
    counts = [min(num_trials, math.prod(sizes[key] for key in keys)) for keys in affecting.values()]
    return Bounds(per_trial=len(counts), lowest=len(counts), highest=round(sum(counts)))


def _affecting_settings(sweep: Sweep) -> Mapping[str, set[str]]:
    """Return the settings of the space that each stage's result depends on, by stage."""
    until, found = last_stage(sweep), dict[str, set[str]]()
    for key, points in probe_points(sweep.config.space, _NUM_STARTS, sweep.config.seed):
        plans = [plan_run(sweep.run_config(point)) for point in points if sweep.is_possible(point)]
        by_point = [{stage.name: stage.fingerprint for stage in stages_until(plan, until)} for plan in plans]
        for name in (name for fingerprints in by_point for name in fingerprints):
            keys = found.setdefault(name, set())
            if len({fingerprints.get(name) for fingerprints in by_point}) > 1:
                keys.add(key)
    return found


def use_lines(uses: Sequence[StageUse]) -> list[str]:
    """Return the uses as lines of a text table."""
    rows: list[tuple[Any, ...]] = [("stage", "wanted", "distinct", "complete", "to compute")]
    rows += [(use.name, use.wanted, use.distinct, use.complete, use.distinct - use.complete) for use in uses]
    sums = [sum(row[place] for row in rows[1:]) for place in range(1, 5)]
    return [f"  {name:<22}" + "".join(f"{each:>12}" for each in rest) for name, *rest in [*rows, ("all", *sums)]]
