"""Generation by batches of an endpoint: requests on workers, batches from this process, then a commit per part.

Only this process speaks with the endpoint, so the key is needed nowhere else. No generator is loaded.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from hydra_ray import storage
from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.engine.generation import AskingStage, GenerationJob, job_of
from hydra_ray.engine.parts import Counters, Parts, commit_row, dataset_of, rows_of, run_missing
from hydra_ray.engine.telemetry import batches_polled
from hydra_ray.engine.worker_errors import worker_errors
from hydra_ray.generate.batches.lines import MISSING
from hydra_ray.generate.batches.records import BatchFolder, batches_of
from hydra_ray.generate.batches.results import failed_completion
from hydra_ray.generate.batches.session import open_session
from hydra_ray.generate.call_faults import Fault
from hydra_ray.generate.completion_store import CompletionStore, Found, FoundFile
from hydra_ray.generate.failures import ERRORS, FailureKind, require_answers
from hydra_ray.runs.resources import step_bundle


def run_batched_generation(
    asking: AskingStage,
    store: CompletionStore,
    generator: GeneratorConfig,
    placement: PlacementConfig,
    go_on: Callable[[Counters], None],
    may_spend: Callable[[Counters], None],
) -> dict[str, float]:
    """Compute the missing parts: requests, batches, labels. Return the counters of all parts.

    Args:
        go_on: as for `run_generation`.
        may_spend: raises where the stage may not spend as much on its parts that are not committed; called before
            batches are submitted, with the counters `asked_tokens` and `cost`.

    Raises:
        BudgetError: the batches may cost more than the budget has left; none was submitted.
        EndpointError: the endpoint takes no batches, or they were cancelled or took too long.
        GenerationError: too many answers failed.
    """

    stage, tables = asking.stage, asking.tables

    def check(counters: Counters, is_over: bool) -> None:
        errors = storage.join(stage.folder, ERRORS)
        require_answers(stage.name, errors, counters, generator.max_failed_fraction, is_over)

    job, folder = job_of(asking, store, generator), batches_of(store)
    step = step_bundle(placement).options()
    faults: Mapping[str, Fault] = {}
    missing = stage.missing_buckets(*tables)
    if missing or any(each.asker == job.asker for each in folder.records()):

        def fill_queue() -> Counters:
            if not missing:
                return {}
            with worker_errors(stage.name):
                parts = dataset_of([(stage.name, bucket) for bucket in missing])
                rows = list(rows_of(parts.map(_Queue(job, folder), **step)))
            if any(row["num_new"] for row in rows):
                go_on({})
            return storage.add_counters([{name: row[name] for name in ("asked_tokens", "cost")} for row in rows])

        with open_session(stage.name, job.asker, store, generator, may_spend, batches_polled(stage.name)) as session:
            session.answer(fill_queue)
            faults = session.faults
    parts = [Parts(stage=stage, tables=tables, check=check)]
    return run_missing(parts, lambda rows, _: rows.map(_CommitBatched(job, faults), **step))


class _Queue:
    """Writes the requests of a bucket that have no answer to the queue of batches."""

    def __init__(self, job: GenerationJob, folder: BatchFolder):
        self._job, self._folder = job, folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return how many requests have no answer yet, and what was paid already for the bucket."""
        bucket, job = row["bucket"], self._job
        asked = job.work.requests(bucket)
        found = job.find(bucket, asked)
        if new := found.unanswered(asked):
            self._folder.queue(job.asker, bucket, new)
        paid = job.counters(found)
        return {"num_new": len(new), "asked_tokens": paid["asked_tokens"], "cost": paid.get("cost", 0.0)}


class _CommitBatched:
    """Commits a part from the answers in the store; requests without one are failures."""

    def __init__(self, job: GenerationJob, faults: Mapping[str, Fault]):
        self._job = job
        # Plain text, as the object is sent to every worker.
        self._faults = json.dumps({name: (str(fault.kind), fault.message) for name, fault in faults.items()})

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        bucket, job = row["bucket"], self._job
        asked = job.work.requests(bucket)
        faults = {
            name: Fault(kind=FailureKind(kind), message=message, is_final=False, is_answered=False)
            for name, (kind, message) in json.loads(self._faults).items()
        }
        found = job.find(bucket, asked)
        failed = [
            failed_completion(request, faults.get(request.request_id, MISSING), 1)
            for request in found.unanswered(asked)
        ]
        whole = Found.in_files([*found.files(), FoundFile(name=job.asker, completions=tuple(failed))])
        return commit_row(row, job.folder, lambda bucket: job.commit(bucket, asked, whole, 0.0))
