"""Outline of a run: its stages and tables, stored in its folder at its start, so that any machine can show progress.

To plan a run again needs its models and its users' files, which a laptop that looks at it does not have.
"""

from dataclasses import dataclass

from hydra_ray import storage
from hydra_ray.runs.run_folder import read_config, root_of_run
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.definition import StageDefinition
from hydra_ray.stages.plan import Plan, plan_run

_OUTLINE = "outline.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutline:
    """One stage of a run. Key: stage.name."""

    stage: Stage
    tables: tuple[str, ...]
    """Tables whose committed parts measure the progress; none where it has no parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A run and its stages, in order. Key: run."""

    run: str
    task: str
    num_parts: int
    """Number of parts of a table, which is that of the buckets that hold users."""
    stages: tuple[StageOutline, ...]


def outline_of(plan: Plan) -> Outline:
    """Return the outline of a planned run."""
    return Outline(
        run=plan.config.run,
        task=plan.task.name,
        num_parts=len(plan.answers.buckets),
        stages=tuple(StageOutline(stage=stage, tables=_tables(plan, definition)) for definition, stage in plan.made()),
    )


def write_outline(plan: Plan) -> None:
    """Write the outline of a run to its folder."""
    outline = outline_of(plan)
    stages = [
        {
            "name": each.stage.name,
            "fingerprint": each.stage.fingerprint,
            "only_buckets": each.stage.only_buckets,
            "tables": each.tables,
        }
        for each in outline.stages
    ]
    kept = {"task": outline.task, "num_parts": outline.num_parts, "stages": stages}
    storage.write_json(storage.join(plan.run_folder, _OUTLINE), kept)


def read_outline(run_folder: str) -> Outline:
    """Return the outline of the run in `run_folder`.

    A run that was started before outlines were kept is planned again, which needs its models and users' files.

    Raises:
        InputError: no run was started there.
    """
    config, location = read_config(run_folder), storage.join(run_folder, _OUTLINE)
    if not storage.exists(location):
        return outline_of(plan_run(config))
    found = storage.read_json(location, {"task": str, "num_parts": int, "stages": list})
    return Outline(
        run=config.run,
        task=found["task"],
        num_parts=found["num_parts"],
        stages=tuple(
            StageOutline(
                stage=Stage(
                    name=each["name"],
                    fingerprint=each["fingerprint"],
                    root=root_of_run(run_folder),
                    num_buckets=config.num_buckets,
                    only_buckets=None if each["only_buckets"] is None else tuple(each["only_buckets"]),
                ),
                tables=tuple(each["tables"]),
            )
            for each in found["stages"]
        ),
    )


def _tables(plan: Plan, definition: StageDefinition) -> tuple[str, ...]:
    """Return the tables whose parts measure a stage's progress; for one that asks, the last it writes of a bucket."""
    tables = definition.tables(plan)
    return tables[:1] if definition.asks is not None else tables
