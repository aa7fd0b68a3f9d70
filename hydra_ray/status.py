"""How far a run is: each stage's parts, time and tokens, read from the run's folder."""

from collections.abc import Iterator, Sequence

from hydra_ray import storage
from hydra_ray.findings import counted
from hydra_ray.plan import Plan, plan_run
from hydra_ray.scorer.features import features_table
from hydra_ray.scorer.shape import base_name_of
from hydra_ray.scorer.store import scores_table
from hydra_ray.stages import Stage
from hydra_ray.teacher import read_config


def status_lines(run_folder: str) -> Iterator[str]:
    """One line a stage of the run in `run_folder`.

    Raises:
        InputError: no run was started there.
    """
    plan = plan_run(read_config(run_folder))
    yield f"run {plan.config.run}, task {plan.task.name}, {counted(len(plan.answers.buckets), 'part')} a table"
    tables = _tables(plan)
    for stage in plan.stages():
        yield f"  {stage.name:<20} {_state(stage, tables.get(stage.name, []))}"
    report = storage.join(run_folder, "report.html")
    yield f"report: {report}" if storage.exists(report) else "report: not yet; run the same configuration to resume"


def _tables(plan: Plan) -> dict[str, list[str]]:
    """The tables that tell how far a stage is, by the stage's name; none where it has no parts."""
    found = {stage.name: [stage.name] for stage in plan.stages() if "." not in stage.name and stage != plan.report}
    for scorer in (plan.reranker, plan.adapter):
        bases = map(base_name_of, dict.fromkeys(scorer.base_folds))
        found[scorer.examples.name] = ["examples"]
        found[scorer.features.name] = [features_table(name) for name in bases]
        found[scorer.heads.name] = [scores_table(fold) for fold in range(scorer.num_folds)]
    return found


def _state(stage: Stage, tables: Sequence[str]) -> str:
    if stage.is_complete():
        manifest = stage.manifest()
        counters = manifest["counters"]
        pieces = [f"complete  {manifest['seconds']:8.1f} s"]
        shown = ("rows", "requests", "generated_tokens", "failed")
        pieces += [f"{counters[name]:.0f} {name.replace('_', ' ')}" for name in shown if name in counters]
        return ", ".join(pieces)
    if not tables:
        return "waiting or running"
    num_parts = len(tables) * len(stage.buckets)
    num_missing = sum(len(stage.missing_buckets(table)) for table in tables)
    return f"{num_parts - num_missing} of {num_parts} parts"
