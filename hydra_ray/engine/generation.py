"""Generation by parts: CPU steps that make requests, generator actors, and CPU steps that commit.

Requests and completions travel as bytes of their row types. What the completion store knows is not asked again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hydra_ray import storage
from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.engine.actors import own_actors, pool_of, threads_environment
from hydra_ray.engine.generator_actor import GeneratorActor
from hydra_ray.engine.parts import Counters, buckets_of, rows_of, run_missing
from hydra_ray.engine.row_bytes import from_bytes, to_bytes
from hydra_ray.engine.worker_errors import worker_errors
from hydra_ray.generate.completion_store import CompletionStore, Found, asker_of, batched
from hydra_ray.generate.costs import answer_counters
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.generate.failures import ERRORS, TRANSIENT, require_answers
from hydra_ray.rows import Asked, Completion, Prompt
from hydra_ray.runs.resources import generator_bundle, step_bundle
from hydra_ray.runs.stage import Stage

logger = logging.getLogger(__name__)


class GenerationWork(Protocol):
    """CPU steps before and after the generator, for one part."""

    def requests(self, bucket: int) -> list[Asked]:
        """Return the requests of a bucket, each with the key of what it is for."""
        ...

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Label the completions, given by key, and write the part; return its counters, the given ones included."""
        ...


def run_generation(
    stage: Stage,
    tables: Sequence[str],
    work: GenerationWork,
    store: CompletionStore,
    task: Task,
    generator: GeneratorConfig,
    placement: PlacementConfig,
    go_on: Callable[[Counters], None],
) -> dict[str, float]:
    """Compute the missing parts: requests, generator actors, labels. Return the counters of all parts.

    Requests that the store has answers for are not sent again; if it has all of them, no generator is loaded.

    Args:
        tables: tables that the work writes, all of which a bucket must have; the first one's parts carry the counters.
        go_on: raises where no more requests may be sent, given the counters of the parts committed by this call;
            called before the first request and after each part.

    Raises:
        GenerationError: the generator died repeatedly at one part, or too many answers failed.
    """

    def check(counters: Counters, is_over: bool) -> None:
        errors = storage.join(stage.folder, ERRORS)
        require_answers(stage.name, errors, counters, generator.max_failed_fraction, is_over)
        if not is_over:
            go_on(counters)

    job = job_of(stage, work, store, generator)
    engine = {"task": task, "generator": generator, "placement": placement}
    commit_known(stage, tables, job, placement)
    if stage.missing_buckets(*tables):
        go_on({})
    step = step_bundle(placement).options()
    with own_actors() as new_actor:
        return run_missing(
            stage,
            tables,
            lambda buckets, num_missing: (
                buckets.map(_MakeRequests(job), **step)
                .map_batches(
                    GeneratorActor,
                    fn_constructor_kwargs={**engine, "store": store, "asker": job.asker},
                    batch_size=1,
                    **generator_bundle(placement).options(),
                    compute=pool_of(min(placement.generator_actors, num_missing)),
                    runtime_env=threads_environment(placement.generator_threads),
                    ray_remote_args_fn=new_actor,
                )
                .map(_CommitGenerated(job), **step)
            ),
            check,
        )


def job_of(stage: Stage, work: GenerationWork, store: CompletionStore, generator: GeneratorConfig) -> "GenerationJob":
    """Return what the CPU steps of a generating stage share."""
    return GenerationJob(
        work=work,
        store=store,
        asker=asker_of(stage.name, stage.fingerprint),
        generator=generator,
    )


def commit_known(stage: Stage, tables: Sequence[str], job: "GenerationJob", placement: PlacementConfig) -> None:
    """Commit the missing parts whose requests are all answered by the store."""
    asked_before = [bucket for bucket in stage.missing_buckets(*tables) if job.store.has_any(bucket)]
    if asked_before:
        steps = buckets_of(asked_before).map(_CommitKnown(job), **step_bundle(placement).options())
        with worker_errors(stage):
            # Ray Data's own sum would start actors.
            known = sum(row["is_known"] for row in rows_of(steps))
        logger.info("%s: %d of %d parts need no generator", stage.name, known, len(asked_before))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """State that the CPU steps of a generating stage share."""

    work: GenerationWork
    store: CompletionStore
    asker: str
    """Prefix of the stage's own files in the store."""
    generator: GeneratorConfig

    def commit(self, bucket: int, asked: Sequence[Asked], new: Sequence[Completion], seconds: float) -> Counters:
        """Commit the part from the new completions, failed ones included, and from those known before."""
        found = self.store.find(bucket, [each.request for each in asked])
        by_id = found.of() | {each.request_id: each for each in new}
        completions = {each.key: by_id[each.request.request_id] for each in asked}
        counters = {**self.counters(found, new), "generator_seconds": seconds}
        return self.work.commit(bucket, completions, counters)

    def counters(self, found: Found, new: Sequence[Completion]) -> dict[str, float]:
        """Return the counters of a part's requests: what was asked, and what of it this stage has paid."""
        own = found.of(self.asker) | {each.request_id: each for each in new if each.failure in TRANSIENT}
        cheaper = found.of(batched(self.asker))
        alone = [each for request_id, each in own.items() if request_id not in cheaper]
        used = (found.of() | {each.request_id: each for each in new}).values()
        api, batch = self.generator.api, self.generator.batch
        return answer_counters(used, alone, api, cheaper.values(), batch.price_factor)


class _CommitKnown:
    def __init__(self, job: GenerationJob):
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = self._job.work.requests(row["bucket"])
        is_known = not self._job.store.unanswered(row["bucket"], asked)
        if is_known:
            self._job.commit(row["bucket"], asked, [], 0.0)
        return {"bucket": row["bucket"], "is_known": int(is_known)}


class _MakeRequests:
    def __init__(self, job: GenerationJob):
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = self._job.work.requests(row["bucket"])
        prompts, rejected = prepare_prompts(self._job.store.unanswered(row["bucket"], asked), self._job.generator)
        return {
            "bucket": row["bucket"],
            "asked": to_bytes(asked, Asked),
            "prompts": to_bytes(prompts, Prompt),
            "rejected": to_bytes(rejected, Completion),
        }


class _CommitGenerated:
    def __init__(self, job: GenerationJob):
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = list(from_bytes(row["asked"], Asked))
        new = list(from_bytes(row["completions"], Completion))
        return {"bucket": row["bucket"], **self._job.commit(row["bucket"], asked, new, row["seconds"])}
