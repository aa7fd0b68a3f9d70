"""Ray Data pipelines over the parts of a stage, with one atomic commit per part.

A row of the dataset is one part (a bucket of users), so a part never waits for another, memory is bounded by the parts
in flight, and committed parts are never computed again.
"""

import logging
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from hydra_ray import storage
from hydra_ray.config import PlacementConfig
from hydra_ray.engine.actors import MAX_RESTARTS, own_actors, pool_of, tasks_of, threads_environment
from hydra_ray.engine.progress import Progress
from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.engine.telemetry import Telemetry
from hydra_ray.engine.worker_errors import worker_errors
from hydra_ray.runs.logs import at_work
from hydra_ray.runs.resources import encoder_bundle, step_bundle
from hydra_ray.runs.signals import require_not_stopped
from hydra_ray.runs.stage import Stage
from hydra_ray.storage.recording import record_text, recording, to_text

logger = logging.getLogger(__name__)
_THREADS = 16
_PLACE = ("stage", "bucket")
"""Names of what every row begins with."""
_WRITTEN = "written"
"""Name of what a committed row tells of the files that were written for it."""

Counters = Mapping[str, float]


class PartWork(Protocol):
    """Computes one part of a stage and commits it."""

    def __call__(self, bucket: int) -> Counters:
        """Read the bucket's inputs, compute and write the part; return its counters."""
        ...


def _accept(counters: Counters, is_over: bool) -> None:
    """Accept any counters."""


def _tell_nobody(counters: Counters) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Parts of one stage that are to be made."""

    stage: Stage
    tables: Sequence[str]
    """Tables of which each bucket must have a part; parts of the first one carry the counters."""
    check: Callable[[Counters, bool], None] = _accept
    """Raises where the counters of committed parts forbid going on; takes whether all are committed."""
    finish: Callable[[Counters], None] = _tell_nobody
    """Told the counters of all parts once the last one is committed."""


def run_parts(stage: Stage, table: str, work: PartWork, placement: PlacementConfig) -> dict[str, float]:
    """Compute the missing parts of `table` with `work`, spread over the cluster; return the counters of all parts."""
    step = step_bundle(placement).options()
    commit = _CommitPart(work, stage.folder)
    return run_missing([Parts(stage=stage, tables=[table])], lambda parts, _: parts.map(commit, **step))


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
    made = [Parts(stage=stage, tables=tables)]
    options = {
        **encoder_bundle(placement).options(),
        "runtime_env": threads_environment(placement.encoder_threads),
    }
    if not placement.encoder_gpus:
        return run_missing(
            made,
            lambda parts, num_missing: parts.map(
                _HeldWork(work, arguments, stage.folder),
                **options,
                compute=tasks_of(min(placement.encoder_actors, num_missing)),
                # By itself Ray Data repeats without limit a task whose process dies.
                ray_remote_args_fn=lambda: {"max_retries": MAX_RESTARTS},
            ),
        )
    with own_actors() as new_actor:
        return run_missing(
            made,
            lambda parts, num_missing: parts.map_batches(
                _PartActor,
                fn_constructor_kwargs={"work": work, "arguments": dict(arguments), "folder": stage.folder},
                batch_size=1,
                **options,
                compute=pool_of(min(placement.encoder_actors, num_missing)),
                ray_remote_args_fn=new_actor,
            ),
        )


def run_missing(made: Sequence[Parts], steps: Callable[[Any, int], Any]) -> dict[str, float]:
    """Run a dataset of the missing parts of some stages through `steps`, the last of which commits; return the counters
    of all parts.

    Args:
        steps: builds the pipeline from the dataset and the number of its rows. Each row that it returns has the stage
            and the bucket of the row that it was given, as `commit_row` makes it.
    """
    missing = {each.stage.name: _announce_missing(each) for each in made}
    places = [(name, bucket) for name, buckets in missing.items() for bucket in buckets]
    committed = steps(dataset_of(places), len(places)) if places else None
    followed = {each.stage.name: _Followed(each, missing[each.stage.name]) for each in made}
    for each in followed.values():
        each.finish_if_whole()
    if committed is not None:
        with worker_errors(", ".join(name for name, buckets in missing.items() if buckets)):
            for row in rows_of(committed):
                with at_work(stage=row["stage"]):
                    followed[row["stage"]].advance(row)
                require_not_stopped()
    return storage.add_counters(each.total() for each in followed.values())


def _announce_missing(made: Parts) -> list[int]:
    stage, missing = made.stage, made.stage.missing_buckets(*made.tables)
    num_parts = len(stage.buckets)
    num_present = num_parts - len(missing)
    if num_present:
        logger.info("%s: %d of %d parts exist already and are kept", stage.name, num_present, num_parts)
    return missing


class _Followed:
    """Counters of a stage's parts, of those that are committed as they are logged."""

    def __init__(self, made: Parts, missing: Sequence[int]):
        name, num_parts = made.stage.name, len(missing)
        self._made, self._missing = made, set(missing)
        self._progress, self._telemetry = Progress(name, num_parts), Telemetry(name, num_parts) if missing else None
        self._by_bucket: dict[int, Counters] = {}
        self._new: Counters = {}

    def advance(self, row: Mapping[str, Any]) -> None:
        """Count one more committed part."""
        bucket = row["bucket"]
        known = (*_PLACE, _WRITTEN)
        counters = {key: value for key, value in row.items() if key not in known and value is not None}
        record_text(self._made.stage.folder, row[_WRITTEN])
        self._by_bucket[bucket] = counters
        self._progress.advance(counters)
        assert self._telemetry is not None
        self._telemetry.advance(bucket, counters)
        self._new = storage.add_counters([self._new, counters])
        self._made.check(self._new, False)
        self.finish_if_whole()

    def finish_if_whole(self) -> None:
        """Tell the counters of all parts if none is missing any more."""
        if self._missing <= set(self._by_bucket):
            counters = self.total()
            self._made.check(counters, True)
            self._made.finish(counters)

    def total(self) -> dict[str, float]:
        """Return the counters of all parts, once all are committed."""
        made = self._made
        kept = [bucket for bucket in made.stage.buckets if bucket not in self._by_bucket]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(storage.read_counters, [made.stage.part(made.tables[0], bucket) for bucket in kept])
            self._by_bucket |= dict(zip(kept, found, strict=True))
        return storage.add_counters(self._by_bucket[bucket] for bucket in made.stage.buckets)


def dataset_of(places: Sequence[tuple[str, int]]) -> Any:
    """Return a dataset with one row, in one block, per part, given the stage and the bucket of each."""
    import ray.data

    start_ray()
    # Ray Data has no other way yet to bound the number of restarts of an actor.
    warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
    rows = [dict(zip(_PLACE, place, strict=True)) for place in places]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def rows_of(steps: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows that the last step of a dataset returns, one per part, as they arrive."""
    # Without prefetching, a committed part is logged at once, not when the next one is committed.
    for block in steps.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        yield from block.to_pylist()


def commit_row(row: Mapping[str, Any], folder: str, commit: Callable[[int], Counters]) -> dict[str, Any]:
    """Commit a part, and return the last step's row of it: the stage and the bucket of `row`, the part's counters, and
    what was written for it.

    Args:
        folder: the stage's folder.
        commit: commits a bucket and returns its counters.
    """
    with recording(folder) as files:
        counters = commit(int(row["bucket"]))
    return {name: row[name] for name in _PLACE} | dict(counters) | {_WRITTEN: to_text(files)}


class _CommitPart:
    def __init__(self, work: PartWork, folder: str):
        self._work, self._folder = work, folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return commit_row(row, self._folder, self._work)


_held: dict[str, PartWork] = {}
"""What this process constructed last, by the call that it is of."""


class _HeldWork:
    """Work that loads an encoder, held by its process as long as parts of the same call come."""

    def __init__(self, work: Callable[..., PartWork], arguments: Mapping[str, Any], folder: str):
        self._work, self._arguments, self._folder = work, arguments, folder
        self._call = uuid.uuid4().hex

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._call not in _held:
            _held.clear()
            _held[self._call] = self._work(**self._arguments)
        return commit_row(row, self._folder, _held[self._call])


class _PartActor:
    def __init__(self, work: Callable[..., PartWork], arguments: Mapping[str, Any], folder: str):
        self._work, self._folder = work(**arguments), folder

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        row = {name: batch[name][0] for name in _PLACE}
        return {key: [value] for key, value in commit_row(row, self._folder, self._work).items()}
