"""Removal of stored answers that no run needs any more, or that are old.

Stored answers only serve future runs; finished stages keep their results without them. So removing an answer costs
nothing unless the same request is sent, and paid for, again.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hydra_ray import storage
from hydra_ray.errors import HydraError, InputError
from hydra_ray.generate.batches.records import BATCHES
from hydra_ray.generate.completion_store import asker_of, batched
from hydra_ray.runs.lease import alone
from hydra_ray.runs.root import STORES
from hydra_ray.runs.run_folder import read_config, recorded_fingerprints
from hydra_ray.runs.stage import LEASE
from hydra_ray.stages.definition import asking_definitions
from hydra_ray.stages.plan import plan_run

_DAY_SECONDS = 86_400
_RUNS = "runs"
_NO_BATCH = (
    "batches that no unfinished run waits for; the endpoint keeps their files until they expire, or until `hydra-ray "
    "stop RUN --cancel` is called before"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unneeded:
    """A file of answers that can be removed. Key: location."""

    location: str
    reason: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needs:
    """Answers that the runs below a root need."""

    stores: frozenset[str]
    """Names of the stores that unfinished runs use."""
    askers: frozenset[str]
    """File prefixes of the stages of finished runs."""


def unneeded_answers(root: str, older_than_days: float | None = None, now: float | None = None) -> list[Unneeded]:
    """Return the files of answers below a root that no run needs, and those that are old.

    Answers that an unfinished run may still use are needed however old they are. Answers to finished runs may serve
    runs with other settings; they are unneeded only when they are old.

    Args:
        older_than_days: age from which files count as old; None to ignore age.
        now: current time in seconds since 1970; by default the clock's.

    Raises:
        InputError: a run is not finished, and its requests cannot be determined.
    """
    needs = _needs(root)
    oldest = None if older_than_days is None else (time.time() if now is None else now) - older_than_days * _DAY_SECONDS
    folder = storage.join(root, STORES)
    return list(_unneeded(folder, storage.list_tree(folder), needs, oldest))


def prune(root: str, older_than_days: float | None = None) -> list[Unneeded]:
    """Remove the files that `unneeded_answers` returns, and return them.

    Raises:
        InputError: as for `unneeded_answers`.
        StorageError: a run is active below the root, and nothing was removed.
    """
    with alone(root, "prune"):
        found = unneeded_answers(root, older_than_days)
        for each in found:
            storage.remove_file(each.location)
    return found


def prune_lines(found: Sequence[Unneeded], is_done: bool) -> Iterator[str]:
    """Yield lines on what was or would be removed."""
    reasons = dict.fromkeys(each.reason for each in found)
    for reason in reasons:
        sizes = [each.num_bytes for each in found if each.reason == reason]
        yield f"{len(sizes)} files, {_megabytes(sizes)}: {reason}"
    total = f"{len(found)} files of answers, {_megabytes(each.num_bytes for each in found)}"
    yield f"removed: {total}" if is_done else f"would be removed: {total}; give --yes to remove them"


def _unneeded(folder: str, paths: Iterable[str], needs: _Needs, oldest: float | None) -> Iterator[Unneeded]:
    for path in paths:
        store, _, name = path.partition("/")
        is_batch = name.startswith(f"{BATCHES}/") and not name.endswith(f"/{LEASE}")
        if store in needs.stores or not (name.endswith(".parquet") or is_batch):
            continue
        location = storage.join(folder, path)
        num_bytes, changed_ns = storage.file_state(location)
        if is_batch:
            yield Unneeded(location=location, reason=_NO_BATCH, num_bytes=num_bytes)
            continue
        is_asked = any(name.rpartition("/")[2].startswith(asker) for asker in needs.askers)
        if not is_asked:
            yield Unneeded(location=location, reason="requested by no existing run", num_bytes=num_bytes)
        elif oldest is not None and changed_ns / 1e9 < oldest:
            yield Unneeded(location=location, reason="requested by finished runs, and old", num_bytes=num_bytes)


def _needs(root: str) -> _Needs:
    stores: set[str] = set()
    askers: set[str] = set()
    for run in _runs(root):
        folder = storage.join(root, _RUNS, run)
        fingerprints = recorded_fingerprints(folder)
        own = {asker_of(each.name, fingerprint) for each in asking_definitions() for fingerprint in fingerprints}
        askers |= own | {batched(each) for each in own}
        if not fingerprints:
            stores.add(_store_of(folder))
    return _Needs(stores=frozenset(stores), askers=frozenset(askers))


def _runs(root: str) -> list[str]:
    """Return the names of all runs below a root."""
    paths = (path.split("/") for path in storage.list_tree(storage.join(root, _RUNS)))
    return sorted({path[0] for path in paths if path[1:] == ["config.json"]})


def _store_of(run_folder: str) -> str:
    try:
        return plan_run(read_config(run_folder)).completions.name
    except HydraError as error:
        raise InputError(
            f"the run at {run_folder} is not finished, and its requests cannot be determined, so nothing was removed. "
            f"Finish it, or remove its folder: {error}"
        ) from error


def _megabytes(sizes: Iterable[int]) -> str:
    return f"{sum(sizes) / 1e6:,.1f} MB"
