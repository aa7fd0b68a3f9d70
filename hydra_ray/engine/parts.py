"""Ray Data pipelines over the parts of a stage, with one atomic commit per part.

A row of the dataset is one part (a bucket of users), so a part never waits for another, memory is bounded by the parts
in flight, and committed parts are never computed again.
"""

import logging
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from hydra_ray import storage
from hydra_ray.config import PlacementConfig
from hydra_ray.engine.actors import MAX_RESTARTS, own_actors, pool_of, tasks_of, threads_environment
from hydra_ray.engine.progress import Progress
from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.engine.telemetry import Telemetry
from hydra_ray.engine.worker_errors import worker_errors
from hydra_ray.runs.resources import encoder_bundle, step_bundle
from hydra_ray.runs.signals import require_not_stopped
from hydra_ray.runs.stage import Stage

logger = logging.getLogger(__name__)
_THREADS = 16

Counters = Mapping[str, float]


class PartWork(Protocol):
    """Computes one part of a stage and commits it."""

    def __call__(self, bucket: int) -> Counters:
        """Read the bucket's inputs, compute and write the part; return its counters."""
        ...


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
    """Compute parts as `run_parts` does, by work that loads an encoder first: each process constructs it only once.

    On CPU it is tasks: the next stage's get the same processes from Ray, which have imported torch and loaded encoders
    by then. On GPUs it is actors, whose end gives their memory back.
    """
    options = {
        **encoder_bundle(placement).options(),
        "runtime_env": threads_environment(placement.encoder_threads),
    }
    if not placement.encoder_gpus:
        step = _HeldWork(work, arguments)
        return run_missing(
            stage,
            tables,
            lambda buckets, num_missing: buckets.map(
                step,
                **options,
                compute=tasks_of(min(placement.encoder_actors, num_missing)),
                # By itself Ray Data repeats without limit a task whose process dies.
                ray_remote_args_fn=lambda: {"max_retries": MAX_RESTARTS},
            ),
        )
    with own_actors() as new_actor:
        return run_missing(
            stage,
            tables,
            lambda buckets, num_missing: buckets.map_batches(
                _PartActor,
                fn_constructor_kwargs={"work": work, "arguments": dict(arguments)},
                batch_size=1,
                **options,
                compute=pool_of(min(placement.encoder_actors, num_missing)),
                ray_remote_args_fn=new_actor,
            ),
        )


def run_task(work: Callable[[Any], Counters], argument: Any, placement: PlacementConfig) -> Counters:
    """Run one piece of work that loads an encoder on a worker of the cluster and return its counters."""
    import ray

    start_ray()
    remote = ray.remote(
        runtime_env=threads_environment(placement.encoder_threads), **encoder_bundle(placement).options()
    )
    return ray.get(remote(work).remote(argument))


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
    by_bucket: dict[int, Counters] = {}
    if missing:
        by_bucket = _follow(stage, steps(buckets_of(missing), len(missing)), len(missing), check)
    kept = [bucket for bucket in stage.buckets if bucket not in by_bucket]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(storage.read_counters, [stage.part(tables[0], bucket) for bucket in kept])
        by_bucket |= dict(zip(kept, found, strict=True))
    counters = storage.add_counters(by_bucket[bucket] for bucket in stage.buckets)
    check(counters, True)
    return counters


def _announce_missing(stage: Stage, tables: Sequence[str]) -> list[int]:
    missing = stage.missing_buckets(*tables)
    num_parts = len(stage.buckets)
    num_present = num_parts - len(missing)
    if num_present:
        logger.info("%s: %d of %d parts exist already and are kept", stage.name, num_present, num_parts)
    return missing


def _follow(
    stage: Stage, committed: Any, num_parts: int, check: Callable[[Counters, bool], None]
) -> dict[int, Counters]:
    """Run the dataset `committed`, one row a part, and log each part as it is committed; return the counters by
    bucket."""
    progress, telemetry = Progress(stage.name, num_parts), Telemetry(stage.name, num_parts)
    by_bucket: dict[int, Counters] = {}
    total: Counters = {}
    with worker_errors(stage):
        for row in rows_of(committed):
            counters = {key: value for key, value in row.items() if key != "bucket" and value is not None}
            by_bucket[row["bucket"]] = counters
            progress.advance(counters)
            telemetry.advance(row["bucket"], counters)
            total = storage.add_counters([total, counters])
            check(total, False)
            require_not_stopped()
    return by_bucket


def buckets_of(missing: Sequence[int]) -> Any:
    """Return a dataset with one row, in one block, per bucket."""
    import ray.data

    start_ray()
    # Ray Data has no other way yet to bound the number of restarts of an actor.
    warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
    return ray.data.from_items([{"bucket": bucket} for bucket in missing], override_num_blocks=len(missing))


def rows_of(steps: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows that the last step of a dataset returns, one per part, as they arrive."""
    # Without prefetching, a committed part is logged at once, not when the next one is committed.
    for block in steps.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        yield from block.to_pylist()


class _CommitPart:
    def __init__(self, work: PartWork):
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"bucket": row["bucket"], **self._work(row["bucket"])}


_held: dict[str, PartWork] = {}
"""What this process constructed last, by the call that it is of."""


class _HeldWork:
    def __init__(self, work: Callable[..., PartWork], arguments: Mapping[str, Any]):
        self._work, self._arguments = work, arguments
        self._call = uuid.uuid4().hex

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._call not in _held:
            _held.clear()
            _held[self._call] = self._work(**self._arguments)
        return {"bucket": row["bucket"], **_held[self._call](row["bucket"])}


class _PartActor:
    def __init__(self, work: Callable[..., PartWork], arguments: Mapping[str, Any]):
        self._work = work(**arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        bucket = int(batch["bucket"][0])
        return {key: [value] for key, value in {"bucket": bucket, **self._work(bucket)}.items()}
