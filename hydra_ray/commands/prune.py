"""Removal of stored answers, vectors of texts and compacted updates that no run needs any more, or that are old.

They only serve future runs; finished stages keep their results without them. So removing an answer costs nothing unless
the same request is sent, and paid for, again, and removing vectors only the time of encoding the texts again. Of
compacted updates those are kept that readers choose by now.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from hydra_ray import storage
from hydra_ray.errors import HydraError, InputError
from hydra_ray.generate.batches.records import BATCHES
from hydra_ray.generate.completion_store import asker_of, batched
from hydra_ray.runs.lease import alone
from hydra_ray.runs.root import STORES
from hydra_ray.runs.run_folder import read_config, recorded_fingerprints
from hydra_ray.runs.stage import LEASE, MANIFEST
from hydra_ray.runs.updates import COMPACTED, compacted_stages, updates_of
from hydra_ray.stages.definition import asking_definitions
from hydra_ray.stages.item_vectors import VECTORS
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.storage.listing_updates import rewriting

_DAY_SECONDS = 86_400
_RUNS = "runs"
_NO_BATCH = (
    "batches that no unfinished run waits for; the endpoint keeps their files until they expire, or until `hydra-ray "
    "stop RUN --cancel` is called before"
)


_COMPACTED_AGAIN = "compacted updates that were compacted again since, or are of no existing run"
_CODES = "stages/adapter/codes"
_VECTORS = re.compile(rf"(?P<fingerprint>[0-9a-f]{{16}})/{VECTORS}/[^/]+\.parquet")
"""Paths of tables of vectors below the folder of all codes of a root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unneeded:
    """A file of answers or vectors that can be removed. Key: location."""

    location: str
    reason: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needs:
    """What the runs below a root need."""

    stores: frozenset[str]
    """Names of the stores that unfinished runs use."""
    askers: frozenset[str]
    """File prefixes of the stages of finished runs."""
    codes: frozenset[str]
    """Fingerprints of the codes of unfinished runs."""
    finished: frozenset[str]
    """Fingerprints of the stages of finished runs."""


def unneeded_files(root: str, older_than_days: float | None = None, now: float | None = None) -> list[Unneeded]:
    """Return the files of answers, vectors and compacted updates below a root that no run needs, and old ones.

    What an unfinished run may still use is needed however old it is. What finished runs have may serve runs with other
    settings; it is unneeded only when it is old.

    Args:
        older_than_days: age from which files count as old; None to ignore age.
        now: current time in seconds since 1970; by default the clock's.

    Raises:
        InputError: a run is not finished, and its requests cannot be determined.
    """
    needs = _needs(root)
    oldest = None if older_than_days is None else (time.time() if now is None else now) - older_than_days * _DAY_SECONDS
    folder = storage.join(root, STORES)
    found = list(_unneeded(folder, storage.list_tree(folder), needs, oldest))
    found += _unneeded_vectors(storage.join(root, _CODES), needs, oldest)
    return found + list(_unneeded_compacted(root))


def prune(root: str, older_than_days: float | None = None) -> list[Unneeded]:
    """Remove the files that `unneeded_files` returns, and return them.

    Raises:
        InputError: as for `unneeded_files`.
        StorageError: a run is active below the root, and nothing was removed.
    """
    with alone(root, "prune"):
        found = unneeded_files(root, older_than_days)
        _remove_compacted(root, [each.location for each in found if each.reason == _COMPACTED_AGAIN])
        others = [each.location for each in found if each.reason != _COMPACTED_AGAIN]
        for folder, own in groupby(others, lambda location: location.rsplit("/", 2)[0]):
            locations = list(own)
            # Only the folder of a stage has a listing, which the tables of vectors are in.
            with rewriting(folder, [location.removeprefix(f"{folder}/") for location in locations]):
                for location in locations:
                    storage.remove_file(location)
    return found


def prune_lines(found: Sequence[Unneeded], is_done: bool) -> Iterator[str]:
    """Yield lines on what was or would be removed."""
    reasons = dict.fromkeys(each.reason for each in found)
    for reason in reasons:
        sizes = [each.num_bytes for each in found if each.reason == reason]
        yield f"{len(sizes)} files, {_megabytes(sizes)}: {reason}"
    total = f"{len(found)} files, {_megabytes(each.num_bytes for each in found)}"
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


def _unneeded_vectors(folder: str, needs: _Needs, oldest: float | None) -> Iterator[Unneeded]:
    for path in storage.list_tree(folder):
        match = _VECTORS.fullmatch(path)
        if match is None or match["fingerprint"] in needs.codes:
            continue
        location = storage.join(folder, path)
        num_bytes, changed_ns = storage.file_state(location)
        if match["fingerprint"] not in needs.finished:
            yield Unneeded(location=location, reason="vectors of texts of no existing run", num_bytes=num_bytes)
        elif oldest is not None and changed_ns / 1e9 < oldest:
            yield Unneeded(location=location, reason="vectors of finished runs' texts, and old", num_bytes=num_bytes)


def _unneeded_compacted(root: str) -> Iterator[Unneeded]:
    folder = storage.join(root, "stages", COMPACTED)
    paths = storage.list_tree(folder)
    listed, needed = frozenset(paths), set[str]()
    runs = _runs(root) if paths else []
    for run in (each for each in runs if any(other.startswith(f"{each}+") for other in runs)):
        updates = [each for each in updates_of(root, run) if each.is_finished]
        names = [each.fingerprint for each in compacted_stages(root, run, updates)]
        complete = [place for place, name in enumerate(names) if f"{name}/{MANIFEST}" in listed]
        # Later ones are under way.
        needed.update(names[max(complete, default=0) :])
    for path in paths:
        if path.partition("/")[0] not in needed:
            location = storage.join(folder, path)
            yield Unneeded(location=location, reason=_COMPACTED_AGAIN, num_bytes=storage.file_state(location)[0])


def _remove_compacted(root: str, locations: Iterable[str]) -> None:
    folder = storage.join(root, "stages", COMPACTED)
    for name in sorted({each.removeprefix(f"{folder}/").partition("/")[0] for each in locations}):
        # First what says that it is whole: nobody takes what is half removed for that.
        storage.remove_file(storage.join(folder, name, MANIFEST))
        storage.remove_folder(storage.join(folder, name))


def _needs(root: str) -> _Needs:
    stores: set[str] = set()
    askers: set[str] = set()
    codes: set[str] = set()
    finished: set[str] = set()
    for run in _runs(root):
        folder = storage.join(root, _RUNS, run)
        fingerprints = recorded_fingerprints(folder)
        own = {asker_of(each.name, fingerprint) for each in asking_definitions() for fingerprint in fingerprints}
        askers |= own | {batched(each) for each in own}
        finished |= set(fingerprints)
        if not fingerprints:
            plan = _plan_of(folder)
            stores.add(plan.completions.name)
            codes.add(plan.stage("adapter.codes").fingerprint)
    return _Needs(
        stores=frozenset(stores), askers=frozenset(askers), codes=frozenset(codes), finished=frozenset(finished)
    )


def _runs(root: str) -> list[str]:
    """Return the names of all runs below a root."""
    paths = (path.split("/") for path in storage.list_tree(storage.join(root, _RUNS)))
    return sorted({path[0] for path in paths if path[1:] == ["config.json"]})


def _plan_of(run_folder: str) -> Plan:
    try:
        return plan_run(read_config(run_folder))
    except HydraError as error:
        raise InputError(
            f"the run at {run_folder} is not finished, and its requests cannot be determined, so nothing was removed. "
            f"Finish it, or remove its folder: {error}"
        ) from error


def _megabytes(sizes: Iterable[int]) -> str:
    return f"{sum(sizes) / 1e6:,.1f} MB"
