"""What is said at the end of a run: its headline, what failed, and where the report is."""

from collections.abc import Iterator

from hydra_ray import storage
from hydra_ray.commands.run_state import headline_of
from hydra_ray.generate.failures import failures_text
from hydra_ray.stages import STAGE_NAMES
from hydra_ray.stages.plan import Plan


def ending_lines(plan: Plan, until: str = STAGE_NAMES[-1]) -> Iterator[str]:
    """Yield what is to be said of a run that has come to the stage `until`."""
    if until != STAGE_NAMES[-1]:
        yield f"{plan.config.run}: every stage up to {until} is complete"
    elif shown := headline_of(plan.run_folder):
        yield f"{plan.config.run}: {shown}"
    for stage in plan.stages():
        if stage.is_complete() and (failed := failures_text(stage.manifest()["counters"])):
            yield f"{stage.name}: {failed}"
    report = storage.join(plan.run_folder, "report.html")
    yield f"report: {report}" if storage.exists(report) else f"run: {plan.run_folder}"
