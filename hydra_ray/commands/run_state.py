"""State of a run as its folder tells it: what is done of each stage, who works on it, and what it shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hydra_ray import storage
from hydra_ray.commands.stop import batch_line, batches_of_run
from hydra_ray.errors import HydraError
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.evaluate.phrases import headline
from hydra_ray.runs.lease import owner_at, run_lease
from hydra_ray.runs.run_folder import root_of_run
from hydra_ray.stages.outline import StageOutline, read_outline
from hydra_ray.storage.parallel import THREADS, mapped

COUNTED = ("requests", "prompt_tokens", "generated_tokens", "failed", "cost")
"""Counters that are summed over stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """Progress of one stage. Key: name."""

    name: str
    is_complete: bool
    num_done: int
    """Number of committed parts of its tables."""
    num_parts: int
    """Number of all parts; 0 where it has none."""
    seconds: float | None
    """Wall time that it took; None while it is not complete."""
    counters: Mapping[str, float]
    """Sums over its parts; empty while it is not complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Progress of one run. Key: folder."""

    folder: str
    run: str
    task: str
    state: Literal["finished", "at work", "stopped"]
    worker: str
    """Process that works on it; empty where none does."""
    num_parts: int
    """Number of parts of a table."""
    stages: tuple[StageState, ...]
    batches: tuple[str, ...]
    """A line for each batch under way at an endpoint."""
    report: str
    """Location of the report; empty while there is none."""
    headline: str
    """What the report shows, in a sentence; empty without one."""

    @property
    def num_complete(self) -> int:
        """Number of complete stages."""
        return sum(stage.is_complete for stage in self.stages)

    @property
    def current(self) -> StageState | None:
        """First stage that is not complete; None in a finished run."""
        return next((stage for stage in self.stages if not stage.is_complete), None)

    def totals(self) -> dict[str, float]:
        """Return the sums of some counters, and of the seconds, over complete stages."""
        sums = {name: sum(stage.counters.get(name, 0) for stage in self.stages) for name in COUNTED}
        return {**sums, "seconds": sum(stage.seconds or 0 for stage in self.stages)}


def state_of(run_folder: str) -> RunState:
    """Return the state of the run in a folder.

    Raises:
        InputError: there is no run in the folder.
    """
    outline = read_outline(run_folder)
    owner = owner_at(run_lease(root_of_run(run_folder), outline.run))
    stages = tuple(mapped(_state_of, outline.stages, THREADS))
    report = storage.join(run_folder, "report.html")
    is_finished = all(stage.is_complete for stage in stages)
    return RunState(
        folder=run_folder,
        run=outline.run,
        task=outline.task,
        state="at work" if owner is not None else "finished" if is_finished else "stopped",
        worker="" if owner is None else str(owner),
        num_parts=outline.num_parts,
        stages=stages,
        batches=tuple(batch_line(record) for _, record in batches_of_run(run_folder).values()),
        report=report if storage.exists(report) else "",
        headline=headline_of(run_folder) if is_finished else "",
    )


def headline_of(run_folder: str) -> str:
    """Return what the report of a run shows, in a sentence; empty where it has no report that can be read."""
    try:
        return headline(read_report(run_folder))
    except HydraError:
        return ""


def _state_of(outline: StageOutline) -> StageState:
    stage, tables = outline.stage, outline.tables
    num_parts = len(tables) * len(stage.buckets)
    if stage.is_complete():
        manifest = stage.manifest()
        return StageState(
            name=stage.name,
            is_complete=True,
            num_done=num_parts,
            num_parts=num_parts,
            seconds=manifest["seconds"],
            counters=manifest["counters"],
        )
    num_missing = sum(len(stage.missing_buckets(table)) for table in tables)
    return StageState(
        name=stage.name,
        is_complete=False,
        num_done=num_parts - num_missing,
        num_parts=num_parts,
        seconds=None,
        counters={},
    )
