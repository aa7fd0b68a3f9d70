"""How far a run is: each stage's parts, time and tokens, read from the run's folder."""

from collections.abc import Iterator

from hydra_ray import storage
from hydra_ray.config import check_config
from hydra_ray.errors import InputError
from hydra_ray.plan import plan_run
from hydra_ray.stages import Stage

MAIN_TABLES = {"examples": "examples", "features": "features", "heads": "scores"}
"""The table that tells how far a stage is, where it is not the one of the stage's own name."""


def status_lines(run_folder: str) -> Iterator[str]:
    """One line a stage of the run in `run_folder`.

    Raises:
        InputError: no run was started there.
    """
    location = storage.join(run_folder, "config.json")
    if not storage.exists(location):
        raise InputError(f"no run at {run_folder}: there is no config.json. Give <storage.root>/runs/<run>.")
    plan = plan_run(check_config(storage.read_json(location), source=location))
    yield f"run {plan.config.run}, task {plan.task.name}, {plan.config.users.num_buckets} parts a table"
    for stage in plan.stages():
        yield f"  {stage.name:<20} {_state(stage)}"
    report = storage.join(run_folder, "report.html")
    yield f"report: {report}" if storage.exists(report) else "report: not yet; run the same configuration to resume"


def _state(stage: Stage) -> str:
    if stage.is_complete():
        manifest = stage.manifest()
        counters = manifest["counters"]
        pieces = [f"complete  {manifest['seconds']:8.1f} s"]
        shown = ("rows", "requests", "generated_tokens", "failed")
        pieces += [f"{counters[name]:.0f} {name.replace('_', ' ')}" for name in shown if name in counters]
        return ", ".join(pieces)
    if stage.name.endswith((".base", "report")):
        return "waiting or running"
    last = stage.name.rsplit(".", 1)[-1]
    num_missing = len(stage.missing_buckets(MAIN_TABLES.get(last, last)))
    return f"{stage.num_buckets - num_missing} of {stage.num_buckets} parts"
