"""Ray Data streams parts through a stage: CPU steps, generator actors, and one atomic commit a part.

A row of the dataset is one part (a bucket of users), so a part never waits for another, memory is bounded by the parts
in flight, and what is committed is never made again. Requests and completions travel as Arrow IPC bytes of their
record types.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.errors import GenerationError, HydraError
from hydra_ray.generate.completions import CompletionStore
from hydra_ray.placement import core_bundle, generator_bundle, step_bundle
from hydra_ray.progress import Progress
from hydra_ray.records import Asked, Completion, Request, from_table, to_table
from hydra_ray.stages import Stage
from hydra_ray.storage import add_counters, read_counters

logger = logging.getLogger(__name__)

_MAX_GENERATOR_RESTARTS = 3
"""How often a generator that died is started again before the run fails."""

Counters = Mapping[str, float]


class PartWork(Protocol):
    """Makes one part of a stage and commits it."""

    def __call__(self, bucket: int) -> Counters:
        """Read the bucket's inputs, compute, write the part; return its counters."""
        ...


class GenerationWork(Protocol):
    """The CPU steps before and after the generator, for one part."""

    def requests(self, bucket: int) -> list[Asked]:
        """The requests of a bucket, and what their answers are for."""
        ...

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Label the completions, by their keys, and write the part; return its counters, the given ones included."""
        ...


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names (as in a submitted job), or start one in this process."""
    import ray.data

    if not ray.is_initialized():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            # Ray runs its workers at nice 15, which lets any other process starve them.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # Its C++ side warns of settings that Ray Data itself chooses.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=1 << 30,
            )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def run_parts(stage: Stage, table: str, work: PartWork, placement: PlacementConfig) -> dict[str, float]:
    """Make the missing parts of `table` with `work`, spread over the cluster; returns the counters of all parts."""
    return _run(stage, table, lambda buckets: buckets.map(_CommitPart(work), **step_bundle(placement).options()))


def run_actor_parts(
    stage: Stage,
    table: str,
    work: Callable[..., PartWork],
    arguments: Mapping[str, Any],
    placement: PlacementConfig,
) -> dict[str, float]:
    """As `run_parts`, with work that loads a model first: one actor constructs it and makes all parts."""
    return _run(
        stage,
        table,
        lambda buckets: buckets.map_batches(
            _PartActor,
            fn_constructor_kwargs={"work": work, "arguments": dict(arguments)},
            batch_size=1,
            **core_bundle(placement).options(),
            compute=_actors(1),
            runtime_env=_threads(placement.train_threads),
        ),
    )


def run_task(work: Callable[[Any], Counters], argument: Any, placement: PlacementConfig) -> Counters:
    """Do one piece of work on a worker of the cluster; returns its counters."""
    import ray

    start_ray()
    remote = ray.remote(runtime_env=_threads(placement.train_threads), **core_bundle(placement).options())
    return ray.get(remote(work).remote(argument))


def run_generation(
    stage: Stage,
    table: str,
    work: GenerationWork,
    store: CompletionStore,
    task: Task,
    generator: GeneratorConfig,
    placement: PlacementConfig,
) -> dict[str, float]:
    """Make the missing parts of `table`: requests, generator actors, labels; returns the counters of all parts.

    What the store knows is not asked again, and where it knows everything no generator is loaded.
    """
    job = _GenerationJob(work=work, store=store, name=f"{stage.name}-{stage.fingerprint}")
    _commit_known(stage, table, job, placement)
    num_missing = len(stage.missing_buckets(table))
    step = step_bundle(placement).options()
    return _run(
        stage,
        table,
        lambda buckets: (
            buckets.map(_MakeRequests(job), **step)
            .map_batches(
                GeneratorActor,
                fn_constructor_kwargs={"task": task, "generator": generator, "placement": placement},
                batch_size=1,
                **generator_bundle(placement).options(),
                compute=_actors(min(placement.generator_actors, num_missing)),
                runtime_env=_threads(placement.generator_threads),
                ray_remote_args_fn=_bounded_restarts,
            )
            .map(_CommitGenerated(job), **step)
        ),
    )


def _commit_known(stage: Stage, table: str, job: "_GenerationJob", placement: PlacementConfig) -> None:
    """Make the missing parts whose requests have all been answered before."""
    asked_before = [bucket for bucket in stage.missing_buckets(table) if job.store.has_any(bucket)]
    if asked_before:
        known = _buckets(asked_before).map(_CommitKnown(job), **step_bundle(placement).options()).sum("is_known")
        logger.info("%s: %d of %d parts need no generator", stage.name, known, len(asked_before))


def _run(stage: Stage, table: str, steps: Callable[[Any], Any]) -> dict[str, float]:
    """Run a dataset of the missing buckets through `steps`, of which the last commits; the counters of all parts."""
    missing = _announce_missing(stage, table)
    if missing:
        _follow(stage, steps(_buckets(missing)), len(missing))
    return add_counters(read_counters(location) for location in stage.parts(table))


class GeneratorActor:
    """A generator in a Ray Data actor: one part's requests in, their completions out."""

    def __init__(self, task: Task, generator: GeneratorConfig, placement: PlacementConfig):
        from hydra_ray.generate.engine import open_engine

        self._engine = open_engine(generator, placement, task)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the requests of the one part in `batch`."""
        requests = list(_from_bytes(batch["requests"][0], Request))
        start = time.monotonic()
        try:
            completions = self._engine.generate(requests)
        except GenerationError:
            # An engine that failed is not asked again: the actor ends, and Ray starts another one for this part.
            logger.exception("the generator died")
            os._exit(1)
        return {
            "bucket": batch["bucket"],
            "asked": batch["asked"],
            "completions": [_to_bytes(completions, Completion)],
            "seconds": [time.monotonic() - start],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _GenerationJob:
    """What the CPU steps of a generation stage share."""

    work: GenerationWork
    store: CompletionStore
    name: str
    """Of the stage's own files in the store."""

    def commit(self, bucket: int, asked: Sequence[Asked], new: Sequence[Completion], seconds: float) -> Counters:
        """Keep the new completions, and make the part of these and of those that were known."""
        by_id = self.store.read(bucket, {each.request.request_id for each in asked})
        self.store.write(bucket, self.name, new)
        by_id |= {completion.request_id: completion for completion in new}
        counters = {
            "requests": len(by_id),
            "asked_now": len(new),
            "prompt_tokens": sum(completion.prompt_tokens for completion in by_id.values()),
            "generated_tokens": sum(
                generation.num_tokens for completion in by_id.values() for generation in completion.generations
            ),
            "generator_seconds": seconds,
        }
        completions = {each.key: by_id[each.request.request_id] for each in asked}
        return self.work.commit(bucket, completions, counters)


class _CommitKnown:
    def __init__(self, job: _GenerationJob):
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = self._job.work.requests(row["bucket"])
        is_known = not self._job.store.unanswered(row["bucket"], asked)
        if is_known:
            self._job.commit(row["bucket"], asked, [], 0.0)
        return {"bucket": row["bucket"], "is_known": int(is_known)}


class _MakeRequests:
    def __init__(self, job: _GenerationJob):
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = self._job.work.requests(row["bucket"])
        new = self._job.store.unanswered(row["bucket"], asked)
        return {"bucket": row["bucket"], "asked": _to_bytes(asked, Asked), "requests": _to_bytes(new, Request)}


class _CommitGenerated:
    def __init__(self, job: _GenerationJob):
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = list(_from_bytes(row["asked"], Asked))
        new = list(_from_bytes(row["completions"], Completion))
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


def _buckets(missing: Sequence[int]) -> Any:
    """A dataset with one row, and one block, for each bucket."""
    import ray.data

    start_ray()
    # Ray Data has no other way yet to bound how often an actor is restarted.
    warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
    return ray.data.from_items([{"bucket": bucket} for bucket in missing], override_num_blocks=len(missing))


def _actors(size: int) -> Any:
    import ray.data

    return ray.data.ActorPoolStrategy(size=size)


def _threads(num_threads: int) -> dict[str, Any]:
    """Runtime environment of a worker that computes with so many OpenMP threads."""
    return {"env_vars": {"OMP_NUM_THREADS": str(num_threads)}}


def _bounded_restarts() -> dict[str, Any]:
    """Ray Data restarts actors for ever by default, also those that die each time."""
    return {"max_restarts": _MAX_GENERATOR_RESTARTS, "max_task_retries": _MAX_GENERATOR_RESTARTS}


def _announce_missing(stage: Stage, table: str) -> list[int]:
    missing = stage.missing_buckets(table)
    num_parts = len(stage.buckets)
    num_present = num_parts - len(missing)
    if num_present:
        logger.info("%s: %d of %d parts are there already and kept", stage.name, num_present, num_parts)
    return missing


def _follow(stage: Stage, committed: Any, num_parts: int) -> None:
    """Run the dataset `committed`, one row a part, and tell each part when it is there."""
    import ray.exceptions

    progress = Progress(stage.name, num_parts)
    try:
        # Without prefetching: a part that is committed is told at once, not when the next one is.
        for block in committed.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            for row in block.to_pylist():
                progress.advance({key: value for key, value in row.items() if key != "bucket"})
    except ray.exceptions.RayActorError as error:
        raise GenerationError(
            f"stage {stage.name}: the worker died {_MAX_GENERATOR_RESTARTS + 1} times at the same part; its last words "
            f"are in Ray's logs. Committed parts are kept: {error}"
        ) from error
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise cause if isinstance(cause, HydraError) else error from None


def _to_bytes(rows: Sequence[Any], row_type: type) -> bytes:
    table = to_table(rows, row_type)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _from_bytes(content: bytes, row_type: type) -> Iterator[Any]:
    return from_table(pa.ipc.open_stream(content).read_all(), row_type)
