"""Ray Data pipelines over parts: CPU steps, generator actors, and one atomic commit per part.

A row of the dataset is one part (a bucket of users), so a part never waits for another, memory is bounded by the parts
in flight, and committed parts are never computed again. Requests and completions are serialized as Arrow IPC bytes of
their row types.
"""

import asyncio
import json
import logging
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.engine.progress import Progress
from hydra_ray.engine.ray_connection import cluster_address, connection_errors, without_native_notes
from hydra_ray.engine.telemetry import Telemetry
from hydra_ray.engine.worker_errors import tells_reason
from hydra_ray.errors import EndpointError, GenerationError, HydraError, WorkerError
from hydra_ray.generate.completion_store import CompletionStore, asker_of, batched
from hydra_ray.generate.costs import answer_counters
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.generate.failures import ERRORS, TRANSIENT, require_answers
from hydra_ray.rows import Asked, Completion, Prompt, Request, from_table, to_table
from hydra_ray.runs.lease import lease
from hydra_ray.runs.resources import encoder_bundle, generator_bundle, step_bundle
from hydra_ray.runs.signals import own_handlers, require_not_stopped
from hydra_ray.runs.stage import Stage
from hydra_ray.storage.locations import worker_environment

logger = logging.getLogger(__name__)

_MAX_RESTARTS = 3
"""Maximum number of restarts of an actor that died, before the run fails."""

_LOGGED_TWICE = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")
"""Ray Data modules that log the traceback of errors that they also raise."""

Counters = Mapping[str, float]


class PartWork(Protocol):
    """Computes one part of a stage and commits it."""

    def __call__(self, bucket: int) -> Counters:
        """Read the bucket's inputs, compute and write the part; return its counters."""
        ...


class GenerationWork(Protocol):
    """CPU steps before and after the generator, for one part."""

    def requests(self, bucket: int) -> list[Asked]:
        """Return the requests of a bucket, each with the key of what it is for."""
        ...

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Label the completions, given by key, and write the part; return its counters, the given ones included."""
        ...


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names (as in a submitted job), or start Ray in this process.

    Raises:
        ClusterError: the cluster does not exist, is not one to connect to, or Ray does not start.
    """
    address = cluster_address()
    # Ray's C++ layer logs to the driver only Ray Data's own settings, ended processes, and what is raised as an
    # exception too. It reads this variable when it is loaded.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray.data

    # On Ctrl-C, Tune would end its trials and continue with the results so far.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    if not ray.is_initialized():
        with own_handlers(), connection_errors(address), without_native_notes():
            _init_ray(address)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Otherwise the error of a step would lose its class and message on the way to this process.
    context.raise_original_map_exception = True
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for name in _LOGGED_TWICE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _init_ray(address: str | None) -> None:
    import ray

    if address is not None:
        runtime = {"env_vars": _storage_environment()}
        ray.init(address, runtime_env=runtime, log_to_driver=False, logging_level=logging.ERROR)
        return
    # Ray runs its workers at nice 15, so any other process could starve them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=1 << 30,
    )


def _storage_environment() -> dict[str, str]:
    """Return the object store's variables for the cluster's workers, without those that a submitted job sets itself."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    given = job.get("runtime_env", {}).get("env_vars", {})
    return {name: value for name, value in worker_environment().items() if name not in given}


def run_parts(stage: Stage, table: str, work: PartWork, placement: PlacementConfig) -> dict[str, float]:
    """Compute the missing parts of `table` with `work`, spread over the cluster; return the counters of all parts."""
    step = step_bundle(placement).options()
    return run_missing(stage, [table], lambda buckets, _: buckets.map(_CommitPart(work), **step))


def run_actor_parts(
    stage: Stage,
    tables: Sequence[str],
    work: Callable[..., PartWork],
    arguments: Mapping[str, Any],
    placement: PlacementConfig,
) -> dict[str, float]:
    """Compute parts as `run_parts` does, by work that loads an encoder first: each actor constructs it only once."""
    with _own_actors() as new_actor:
        return run_missing(
            stage,
            tables,
            lambda buckets, num_missing: buckets.map_batches(
                _PartActor,
                fn_constructor_kwargs={"work": work, "arguments": dict(arguments)},
                batch_size=1,
                **encoder_bundle(placement).options(),
                compute=_actors(min(placement.encoder_actors, num_missing)),
                runtime_env=_threads(placement.encoder_threads),
                ray_remote_args_fn=new_actor,
            ),
        )


def run_task(work: Callable[[Any], Counters], argument: Any, placement: PlacementConfig) -> Counters:
    """Run one piece of work that loads an encoder on a worker of the cluster and return its counters."""
    import ray

    start_ray()
    remote = ray.remote(runtime_env=_threads(placement.encoder_threads), **encoder_bundle(placement).options())
    return ray.get(remote(work).remote(argument))


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
    with _own_actors() as new_actor:
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
                    compute=_actors(min(placement.generator_actors, num_missing)),
                    runtime_env=_threads(placement.generator_threads),
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


def _accept(counters: Counters, is_over: bool) -> None:
    """Accept any counters."""


def run_missing(
    stage: Stage,
    tables: Sequence[str],
    steps: Callable[[Any, int], Any],
    check: Callable[[Counters, bool], None] = _accept,
) -> dict[str, float]:
    """Run a dataset of the missing buckets through `steps`, the last of which commits; return the counters of all
    parts.

    Args:
        steps: builds the pipeline from the dataset and the number of its buckets.
        check: raises where the counters of committed parts forbid going on; also called once at the end.
    """
    missing = _announce_missing(stage, tables)
    if missing:
        _follow(stage, steps(buckets_of(missing), len(missing)), len(missing), check)
    # A truncated part is detected here, before the manifest states that all parts exist.
    first, *_ = [[storage.read_counters(location) for location in stage.parts(table)] for table in tables]
    counters = storage.add_counters(first)
    check(counters, True)
    return counters


class GeneratorActor:
    """A generator in a Ray Data actor: takes one part's requests, returns their completions and stores them as they
    arrive."""

    def __init__(
        self, task: Task, generator: GeneratorConfig, placement: PlacementConfig, store: CompletionStore, asker: str
    ):
        from hydra_ray.generate.engines.opening import open_engine

        self._engine, self._unopened = None, None
        try:
            self._engine = open_engine(generator, placement, task)
        except HydraError as error:
            self._unopened = error  # raised by the first call: Ray would start an actor that fails to start again
        self._store, self._asker = store, asker

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the requests of the one part in `batch`.

        Raises:
            HydraError: the generator could not be opened, or its endpoint answers nobody.
        """
        bucket, prompts = int(batch["bucket"][0]), list(from_bytes(batch["prompts"][0], Prompt))
        rejected = list(from_bytes(batch["rejected"][0], Completion))
        # Concurrent runs with the same requests wait for each other here, and then find each other's answers.
        with lease(self._store.lease(bucket), f"the answers of {self._asker}, part {bucket}"):
            return {"bucket": batch["bucket"], "asked": batch["asked"], **self._answer(bucket, prompts, rejected)}

    def _answer(self, bucket: int, prompts: Sequence[Prompt], rejected: Sequence[Completion]) -> dict[str, Any]:
        """Return the completions of a part, sending only prompts without a known answer, and the time taken."""
        known = self._store.read(bucket, [prompt.request for prompt in prompts])
        new = [prompt for prompt in prompts if prompt.request.request_id not in known]
        start = time.monotonic()
        if self._engine is None:
            raise self._unopened or GenerationError("the generator is not open")
        try:
            self._store.write(bucket, self._asker, rejected)
            completions = asyncio.run(self._engine.answer(new, partial(self._store.write, bucket, self._asker)))
        except EndpointError:
            raise
        except GenerationError:
            # A failed engine is not reused: the actor exits, and Ray starts another one for this part.
            logger.exception("the generator died")
            os._exit(1)
        self._store.merge(bucket, self._asker)
        return {
            "completions": [to_bytes([*known.values(), *rejected, *completions], Completion)],
            "seconds": [time.monotonic() - start],
        }


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
        requests = [each.request for each in asked]
        by_id = self.answers(bucket, requests, new)
        completions = {each.key: by_id[each.request.request_id] for each in asked}
        counters = {**self.counters(bucket, requests, new), "generator_seconds": seconds}
        return self.work.commit(bucket, completions, counters)

    def answers(self, bucket: int, requests: Sequence[Request], new: Sequence[Completion]) -> dict[str, Completion]:
        """Return the known and the new completions of requests, by request_id."""
        return self.store.read(bucket, requests) | {each.request_id: each for each in new}

    def counters(self, bucket: int, requests: Sequence[Request], new: Sequence[Completion]) -> dict[str, float]:
        """Return the counters of a part's requests: what was asked, and what of it this stage has paid."""
        own = self.store.read(bucket, requests, self.asker)
        own |= {each.request_id: each for each in new if each.failure in TRANSIENT}
        cheaper = self.store.read(bucket, requests, batched(self.asker))
        alone = [each for request_id, each in own.items() if request_id not in cheaper]
        used = self.answers(bucket, requests, new).values()
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


class _CommitPart:
    def __init__(self, work: PartWork):
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"bucket": row["bucket"], **self._work(row["bucket"])}


class _PartActor:
    def __init__(self, work: Callable[..., PartWork], arguments: Mapping[str, Any]):
        self._work = work(**arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        bucket = int(batch["bucket"][0])
        return {key: [value] for key, value in {"bucket": bucket, **self._work(bucket)}.items()}


def buckets_of(missing: Sequence[int]) -> Any:
    """Return a dataset with one row, in one block, per bucket."""
    import ray.data

    start_ray()
    # Ray Data has no other way yet to bound the number of restarts of an actor.
    warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
    return ray.data.from_items([{"bucket": bucket} for bucket in missing], override_num_blocks=len(missing))


def _actors(size: int) -> Any:
    import ray.data

    return ray.data.ActorPoolStrategy(size=size)


def _threads(num_threads: int) -> dict[str, Any]:
    """Return the runtime environment of a worker that computes with `num_threads` OpenMP threads."""
    return {"env_vars": {"OMP_NUM_THREADS": str(num_threads)}}


@contextmanager
def _own_actors() -> Iterator[Callable[[], dict[str, Any]]]:
    """Yield a function that returns the options of each new actor; all of these actors end with the block.

    Ray Data itself restarts actors without limit. It ends them by dropping its references, so one that was restarted in
    the meantime would keep the CPUs that the next stage waits for.
    """
    import ray

    names: list[str] = []

    def new_actor() -> dict[str, Any]:
        names.append(f"hydra_ray-{uuid.uuid4().hex}")
        return {"name": names[-1], "max_restarts": _MAX_RESTARTS, "max_task_retries": _MAX_RESTARTS}

    try:
        yield new_actor
    finally:
        for name in names:
            with suppress(ValueError):  # it has already ended
                ray.kill(ray.get_actor(name))


def _announce_missing(stage: Stage, tables: Sequence[str]) -> list[int]:
    missing = stage.missing_buckets(*tables)
    num_parts = len(stage.buckets)
    num_present = num_parts - len(missing)
    if num_present:
        logger.info("%s: %d of %d parts exist already and are kept", stage.name, num_present, num_parts)
    return missing


def _follow(stage: Stage, committed: Any, num_parts: int, check: Callable[[Counters, bool], None]) -> None:
    """Run the dataset `committed`, one row a part, and log each part as it is committed."""
    progress, telemetry = Progress(stage.name, num_parts), Telemetry(stage.name, num_parts)
    total: Counters = {}
    with worker_errors(stage):
        for row in rows_of(committed):
            counters = {key: value for key, value in row.items() if key != "bucket" and value is not None}
            progress.advance(counters)
            telemetry.advance(row["bucket"], counters)
            total = storage.add_counters([total, counters])
            check(total, False)
            require_not_stopped()


def rows_of(steps: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows that the last step of a dataset returns, one per part, as they arrive."""
    # Without prefetching, a committed part is logged at once, not when the next one is committed.
    for block in steps.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        yield from block.to_pylist()


@contextmanager
def worker_errors(stage: Stage) -> Iterator[None]:
    """Re-raise what a worker raised, or what its death means, as one of this package's errors."""
    import ray.exceptions

    try:
        with tells_reason():
            yield
    except ray.exceptions.RayActorError as error:
        raise GenerationError(
            f"stage {stage.name}: the worker died {_MAX_RESTARTS + 1} times at the same part; see its output in Ray's "
            f"logs. Committed parts are kept: {error}"
        ) from error
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"stage {stage.name}: Ray could not do the work: {error}. Committed parts are kept: run again when the "
            "cluster is healthy."
        ) from error


def to_bytes(rows: Sequence[Any], row_type: type) -> bytes:
    """Return rows serialized as an Arrow IPC stream."""
    table = to_table(rows, row_type)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(content: bytes, row_type: type) -> Iterator[Any]:
    """Yield the rows of an Arrow IPC stream."""
    return from_table(pa.ipc.open_stream(content).read_all(), row_type)
