"""Removal of users from everything below a storage root; later runs do not read these users again.

All runs under a root share stages and stored answers, so users are removed from all of them at once. First a receipt
lists what will be removed; files derived from tables are processed before the tables themselves, so a repeated call
after a kill finds the rest; last the receipt records completion. No run may be active meanwhile: an active run makes
the removal fail, a new run waits.

Files are found by listing the store, so its listings must be strongly consistent, as those of S3 are.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hydra_ray import storage
from hydra_ray.errors import DamagedError, InputError, StorageError
from hydra_ray.forget.file_kinds import Artefact, Kind, artefacts
from hydra_ray.forget.lineage import learned_from, read_manifests
from hydra_ray.forget.receipts import Receipt, Removed, close_receipt, open_receipt, read_receipt
from hydra_ray.forget.run_results import (
    Traces,
    drop_from_report,
    drop_predictions,
    find_in_predictions,
    find_in_report,
    traces_of,
)
from hydra_ray.forget.table_rows import USER_ID, count_rows, drop_rows, read_rows
from hydra_ray.runs.lease import alone
from hydra_ray.runs.root import pseudonym, receipts_key, root_key
from hydra_ray.storage.listing_updates import rewriting

_log = logging.getLogger(__name__)

_USERS, _ANSWERS = "stages/users/", "stages/answers/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of the removal for one user. Key: user_id."""

    user_id: str
    receipt: Receipt | None
    """Receipt of the user; None where the user is unknown: neither present nor removed before."""
    is_removed_now: bool
    """Whether this call removed anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Locations of users' data."""

    root: str
    artefacts: Sequence[Artefact]
    removed: Mapping[str, Sequence[Removed]]
    """Amounts by user_id; only users with any data."""
    traces: Traces
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Rows of the users tables, by user_id and by the path of the stage's folder."""
    pseudonyms: Mapping[str, str]
    """User ids by pseudonym."""

    @property
    def paths(self) -> Set[str]:
        """Paths of the files that hold data of any of the users."""
        return {each.path for removed in self.removed.values() for each in removed}


def root_of(run_folder: str) -> str:
    """Return the storage root of a run's folder.

    Raises:
        InputError: there is no run.
    """
    root, runs, _ = ["", "", *run_folder.rstrip("/").rsplit("/", 2)][-3:]
    if runs != "runs" or not storage.exists(storage.join(run_folder, "config.json")):
        raise InputError(f"no run at {run_folder}. Give <storage.root>/runs/<run> of any run below the root.")
    return root


def forget_users(root: str, user_ids: Collection[str]) -> list[Outcome]:
    """Remove users from every artefact below a root, and keep later runs from reading them again.

    Args:
        user_ids: ids as in the users table; `<split>:<id>` for LaMP's files.

    Raises:
        StorageError: a run is active or a file is of an unknown kind, and nothing was changed; or something wrote below
            the root meanwhile.
    """
    with alone(root, "forget"):
        return _forget(root, user_ids)


def _forget(root: str, user_ids: Collection[str]) -> list[Outcome]:
    wanted = frozenset(user_ids)
    found = _find(root, wanted)
    outcomes = _open_receipts(root, user_ids, found)
    if found.removed:
        with _relisting(found):
            _remove(found, wanted)
        left = sorted(_find(root, wanted).paths)
        if left:
            raise StorageError(
                f"a run wrote below {root} meanwhile: {left[:3]}. Repeat the command when no run is under way."
            )
    else:
        with _relisting(found):  # of an attempt that was killed when all was removed but not listed
            pass
    is_open = [each.receipt is not None and each.receipt.finished_at is None for each in outcomes]
    return [
        replace(each, receipt=close_receipt(root, each.receipt)) if unfinished and each.receipt else each
        for each, unfinished in zip(outcomes, is_open, strict=True)
    ]


def _open_receipts(root: str, user_ids: Collection[str], found: _Found) -> list[Outcome]:
    """Write a receipt for each user with any data, of what will be removed."""
    key, manifests = receipts_key(root), read_manifests(found.artefacts)
    outcomes: list[Outcome] = []
    for user_id in dict.fromkeys(user_ids):
        user, removed = pseudonym(user_id, key), found.removed.get(user_id, ())
        receipt = _earlier(root, user) if removed else read_receipt(root, user)
        if removed:
            learned = learned_from(found.artefacts, manifests, found.rows.get(user_id, {}))
            receipt = open_receipt(root, user, receipt, removed, learned)
        outcomes.append(Outcome(user_id=user_id, receipt=receipt, is_removed_now=bool(removed)))
    return outcomes


def _earlier(root: str, user: str) -> Receipt | None:
    """Return the receipt of an earlier removal of a user whose data is there again, unless it is damaged."""
    try:
        return read_receipt(root, user)
    except DamagedError as error:
        _log.warning("%s The receipt is written anew.", error)
        return None


def _find(root: str, user_ids: Set[str]) -> _Found:
    """Return everything of the users below a root."""
    found = artefacts(root)
    key = root_key(root)
    pseudonyms = {pseudonym(each, key): each for each in user_ids}
    tables = [each for each in found if each.kind in (Kind.TABLE, Kind.REJECTED)]
    counts = {each: count_rows(each, user_ids) for each in tables}
    for each in found:
        if each.kind == Kind.ANSWERS:
            counts[each] = Counter({pseudonyms[user]: n for user, n in count_rows(each, pseudonyms).items()})
    queried = [
        (table.stage_folder, row)
        for table in tables
        if counts[table]
        and table.kind == Kind.TABLE
        and table.path.startswith((_USERS, _ANSWERS))
        and table.folder.endswith(("/users", "/answers"))
        for row in read_rows(table, user_ids)
    ]
    traces = traces_of(row for _, row in queried)
    for each in found:
        if each.kind == Kind.PREDICTIONS:
            counts[each] = find_in_predictions(each.location, traces)
        elif each.kind == Kind.REPORT:
            counts[each] = find_in_report(each.location, user_ids, traces)
    removed: defaultdict[str, list[Removed]] = defaultdict(list)
    for each, by_user in counts.items():
        for user_id, count in by_user.items():
            removed[user_id].append(Removed(path=each.path, kind=each.kind, count=count))
    rows: defaultdict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for folder, row in queried:
        if folder.startswith(_USERS):
            rows[row[USER_ID]][folder] = row
    return _Found(root=root, artefacts=found, removed=removed, traces=traces, rows=rows, pseudonyms=pseudonyms)


@contextmanager
def _relisting(found: _Found) -> Iterator[None]:
    """Let files be rewritten during the block, after which the listings of their folders have their new digests."""
    own = {folder: _paths_below(folder, found.paths) for folder in _listed_folders(found.artefacts)}
    with ExitStack() as stack:
        for folder, paths in own.items():
            stack.enter_context(rewriting(storage.join(found.root, folder), paths))
        yield


def _paths_below(folder: str, paths: Set[str]) -> list[str]:
    """Return those of some paths below a root that are in a folder, as paths in it; with a report goes its page."""
    below = [path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/")]
    return [*below, "report.html"] if "metrics.json" in below else below


def _listed_folders(found: Sequence[Artefact]) -> list[str]:
    """Return the paths of the folders of stages and runs that have a listing."""
    return [each.folder for each in found if each.is_listing]


def _remove(found: _Found, user_ids: Set[str]) -> None:
    """Rewrite every file that holds the users' data without it, files derived from tables first."""
    for each in found.artefacts:
        if each.kind == Kind.UNFINISHED:
            storage.remove_file(each.location)
    holding = [each for each in found.artefacts if each.path in found.paths]
    for each in holding:
        if each.kind == Kind.REPORT:
            drop_from_report(each.location, user_ids, found.traces)
        elif each.kind == Kind.PREDICTIONS:
            drop_predictions(each.location, found.traces)
    for each in holding:
        if each.kind in (Kind.TABLE, Kind.REJECTED):
            drop_rows(each, user_ids)
        elif each.kind == Kind.ANSWERS:
            drop_rows(each, found.pseudonyms)
