"""Generation by parts: CPU steps that make requests, the pool of generators, and CPU steps that commit.

Requests and completions travel as bytes of their row types. What the completion store knows is not asked again.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Protocol

from hydra_ray import storage
from hydra_ray.config import GeneratorConfig
from hydra_ray.engine.actors import callers_of, own_actors
from hydra_ray.engine.dispatch import Part
from hydra_ray.engine.generator_actor import AskedPart, Loadable
from hydra_ray.engine.generator_pool import asked_of, open_pool
from hydra_ray.engine.parts import Counters, Parts, commit_row, run_missing
from hydra_ray.engine.row_bytes import from_bytes, to_bytes
from hydra_ray.engine.worker_errors import tells_reason
from hydra_ray.errors import BudgetError, HydraError, WorkerError
from hydra_ray.generate.completion_store import CompletionStore, Found, FoundFile, asker_of, batched
from hydra_ray.generate.costs import answer_counters
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.generate.failures import ERRORS, require_answers
from hydra_ray.rows import Asked, Completion, Prompt
from hydra_ray.runs.resources import step_bundle
from hydra_ray.runs.stage import Stage
from hydra_ray.storage import ReadFile, reading_once

_PARTS_A_COPY = 17
"""Parts in flight for each copy of the generator: as many as any engine answers at once, and one that waits."""
_PARTS_A_CALLER = 128
"""Largest number of parts that one worker waits for."""


class GenerationWork(Protocol):
    """CPU steps before and after the generator, for one part."""

    def requests(self, bucket: int) -> list[Asked]:
        """Return the requests of a bucket, each with the key of what it is for."""
        ...

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Label the completions, given by key, and write the part; return its counters, the given ones included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingStage:
    """A stage that asks the generator."""

    stage: Stage
    tables: Sequence[str]
    """Tables that the work writes, all of which a bucket must have; the first one's parts carry the counters."""
    work: GenerationWork


def run_generation(
    stages: Sequence[AskingStage],
    store: CompletionStore,
    loadable: Loadable,
    go_on: Callable[[Counters], None],
    finish: Callable[[Stage, Counters], None],
) -> None:
    """Compute the missing parts of stages that do not depend on each other: requests, generator, labels.

    Requests that the store has answers for are not sent again; until one is to be sent, no generator is loaded.

    Args:
        go_on: raises where no more requests may be sent, given the counters of the parts committed by this call;
            called before the first request and after each part.
        finish: called with each stage whose parts are all committed, and their counters.

    Raises:
        GenerationError: the generator died repeatedly at one part, or too many answers failed.
    """
    generator, placement = loadable.generator, loadable.placement
    jobs = {each.stage.name: job_of(each, store, generator) for each in stages}
    committed: dict[str, Counters] = {}
    refusal = None
    try:
        go_on({})
    except BudgetError as error:
        refusal = error  # what is known already may be committed

    def parts_of(each: AskingStage) -> Parts:
        name, errors = each.stage.name, storage.join(each.stage.folder, ERRORS)

        def check(counters: Counters, is_over: bool) -> None:
            require_answers(name, errors, counters, generator.max_failed_fraction, is_over)
            if not is_over and refusal is None:
                committed[name] = counters
                go_on(storage.add_counters(committed.values()))

        return Parts(stage=each.stage, tables=each.tables, check=check, finish=partial(finish, each.stage))

    step = step_bundle(placement).options()
    with ExitStack() as used:

        def steps(parts: Any, num_missing: int) -> Any:
            pool, new_actor = open_pool(), used.enter_context(own_actors(max_restarts=-1))
            owner = used.enter_context(asked_of(pool))
            in_flight = min(num_missing, placement.generator_actors * _PARTS_A_COPY)
            num_callers = ceil(in_flight / _PARTS_A_CALLER)
            return (
                parts.map(_MakeRequests(jobs, store.listed()), **step)
                .map_batches(
                    AnswerParts,
                    fn_constructor_kwargs={"pool": pool, "loadable": loadable, "owner": owner, "jobs": jobs}
                    | {"refusal": refusal},
                    batch_size=1,
                    num_cpus=0,
                    compute=callers_of(num_callers, ceil(in_flight / num_callers)),
                    ray_remote_args_fn=new_actor,
                )
                .map(_CommitGenerated(jobs), **step)
            )

        run_missing([parts_of(each) for each in stages], steps)


def job_of(asking: AskingStage, store: CompletionStore, generator: GeneratorConfig) -> "GenerationJob":
    """Return what the CPU steps of a generating stage share."""
    return GenerationJob(
        work=asking.work,
        store=store,
        asker=asker_of(asking.stage.name, asking.stage.fingerprint),
        folder=asking.stage.folder,
        generator=generator,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """State that the CPU steps of a generating stage share."""

    work: GenerationWork
    store: CompletionStore
    asker: str
    """Prefix of the stage's own files in the store."""
    folder: str
    """The stage's folder."""
    generator: GeneratorConfig

    def find(self, bucket: int, asked: Sequence[Asked], names: Collection[str] | None = None) -> Found:
        """Return what is stored of a part's requests, given the names of the bucket's files where they are known."""
        return self.store.find(bucket, [each.request for each in asked], names=names)

    def commit(self, bucket: int, asked: Sequence[Asked], found: Found, seconds: float) -> Counters:
        """Commit the part from the completions of all that was asked, failed ones included."""
        by_id = found.of()
        completions = {each.key: by_id[each.request.request_id] for each in asked}
        counters = {**self.counters(found), "generator_seconds": seconds}
        return self.work.commit(bucket, completions, counters)

    def counters(self, found: Found) -> dict[str, float]:
        """Return the counters of a part's requests: what was asked, and what of it this stage has paid."""
        own, cheaper = found.of(self.asker), found.of(batched(self.asker))
        alone = [each for request_id, each in own.items() if request_id not in cheaper]
        used = found.of().values()
        api, batch = self.generator.api, self.generator.batch
        return answer_counters(used, alone, api, cheaper.values(), batch.price_factor)


Jobs = Mapping[str, GenerationJob]
"""Jobs by the name of their stage."""


class _MakeRequests:
    """Makes the requests of a part, and finds those that have an answer in files that were there when the work began:
    who sends the others looks for newer files."""

    def __init__(self, jobs: Jobs, listed: Mapping[int, Sequence[str]]):
        self._jobs, self._listed = jobs, listed

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        job, bucket = self._jobs[row["stage"]], row["bucket"]
        with reading_once() as was_read:
            asked = job.work.requests(bucket)
            read = was_read()
        found = job.find(bucket, asked, self._listed.get(bucket, ()))
        new = found.unanswered(asked)
        prompts, rejected = prepare_prompts(new, job.generator) if new else ([], [])
        return {
            **row,
            "asked": to_bytes(asked, Asked),
            "read": to_bytes(read, ReadFile),
            "known": to_bytes(found.files(), FoundFile),
            "known_files": json.dumps(list(found.by_file)),
            "num_new": len(new),
            "prompts": to_bytes(prompts, Prompt),
            "rejected": to_bytes(rejected, Completion),
        }


class AnswerParts:
    """Has parts answered by the job's pool of generators, and waits; parts with nothing to ask pass."""

    def __init__(self, pool: Any, loadable: Loadable, owner: str, jobs: Jobs, refusal: HydraError | None):
        self._pool, self._loadable, self._owner, self._jobs = pool, loadable, owner, jobs
        self._key, self._refusal = loadable.key, refusal
        self._offered: asyncio.Future[None] | None = None

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch, which is one part, with the completions of its new requests.

        Raises:
            HydraError: nothing may be asked, or the generator cannot be opened, answers nobody, or died repeatedly at
                this part.
        """
        row = {name: values[0] for name, values in batch.items()}
        sent = {name: row.pop(name) for name in ("prompts", "rejected", "known_files")}
        answered, seconds = to_bytes([], FoundFile), 0.0
        if row["num_new"]:
            if self._refusal is not None:
                raise self._refusal
            with tells_reason():
                answered, seconds = await self._answer(row["stage"], int(row["bucket"]), **sent)
        return {name: [value] for name, value in {**row, "answered": answered, "seconds": seconds}.items()}

    async def _answer(
        self, stage: str, bucket: int, prompts: bytes, rejected: bytes, known_files: str
    ) -> tuple[bytes, float]:
        import ray
        import ray.exceptions

        job = self._jobs[stage]
        asked = AskedPart(
            store=job.store,
            asker=job.asker,
            bucket=bucket,
            rejected=rejected,
            known_files=tuple(json.loads(known_files)),
        )
        part = Part(
            stage=stage,
            bucket=bucket,
            owner=self._owner,
            place=job.store.bucket_folder(bucket),
            # The prompts go to the copy, not through the pool.
            content={"part": asked, "prompts": ray.put(prompts)},
        )
        try:
            if self._offered is None:
                self._offered = asyncio.ensure_future(self._offer())
            await self._offered
            return await self._pool.answer.remote(self._key, part)
        except ray.exceptions.RayActorError as error:
            raise WorkerError(
                f"the worker that holds the generators' places ended: {error}. Committed parts and the answers so far "
                "are kept: run again."
            ) from None

    async def _offer(self) -> None:
        await self._pool.offer.remote(self._key, self._loadable)


class _CommitGenerated:
    def __init__(self, jobs: Jobs):
        self._jobs = jobs

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = list(from_bytes(row["asked"], Asked))
        found = Found.in_files(each for name in ("known", "answered") for each in from_bytes(row[name], FoundFile))
        job = self._jobs[row["stage"]]
        with reading_once(from_bytes(row["read"], ReadFile)):
            return commit_row(row, job.folder, lambda bucket: job.commit(bucket, asked, found, row["seconds"]))
