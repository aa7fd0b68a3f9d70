"""Forgets users: below a storage root nothing that is a user's own is left, and no later run takes the user in again.

All runs under a root share stages and the generator's answers, so users are forgotten from all of them at once. First a
receipt says what will be removed; what is made of tables goes before the tables themselves, so a call that was killed
finds the rest when it is repeated; last the receipt says that nothing was left. No run may be under way meanwhile: one
that is there already keeps users from being forgotten, one that comes waits.

What is removed is what the store lists, so the store's listings must be complete, as those of S3 are.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from hydra_ray import storage
from hydra_ray.errors import InputError, StorageError
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
from hydra_ray.runs.root import pseudonym, root_key

_USERS, _ANSWERS = "stages/users/", "stages/answers/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one user who was to be forgotten. Key: user_id."""

    user_id: str
    receipt: Receipt | None
    """None where the user is unknown: neither there nor forgotten before."""
    is_removed_now: bool
    """Whether anything was left to be removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Where users are."""

    artefacts: Sequence[Artefact]
    removed: Mapping[str, Sequence[Removed]]
    """By user_id; only of those who are somewhere."""
    traces: Traces
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Rows of the users tables, by user_id and by the path of the stage's folder."""
    pseudonyms: Mapping[str, str]
    """User ids, by what the generator's answers call them."""

    @property
    def paths(self) -> Set[str]:
        """Of the files that hold any of the users."""
        return {each.path for removed in self.removed.values() for each in removed}


def root_of(run_folder: str) -> str:
    """Return the storage root that the folder of a run is in.

    Raises:
        InputError: there is no run.
    """
    root, runs, _ = ["", "", *run_folder.rstrip("/").rsplit("/", 2)][-3:]
    if runs != "runs" or not storage.exists(storage.join(run_folder, "config.json")):
        raise InputError(f"no run at {run_folder}. Give <storage.root>/runs/<run> of any run below the root.")
    return root


def forget_users(root: str, user_ids: Collection[str]) -> list[Outcome]:
    """Remove users from every artefact below a root, and keep them from being taken in again.

    Args:
        user_ids: as the users table has them; of LaMP's files `<split>:<id>`.

    Raises:
        StorageError: a run is under way, or a file is of a kind that users cannot be removed from; then nothing was
            changed. Or something wrote below the root meanwhile.
    """
    with alone(root, "forgetting"):
        return _forget(root, user_ids)


def _forget(root: str, user_ids: Collection[str]) -> list[Outcome]:
    wanted = frozenset(user_ids)
    found = _find(root, wanted)
    outcomes = _open_receipts(root, user_ids, found)
    if found.removed:
        _remove(found, wanted)
        left = sorted(_find(root, wanted).paths)
        if left:
            raise StorageError(
                f"a run wrote below {root} meanwhile: {left[:3]}. Forget again when no run is under way."
            )
    is_open = [each.receipt is not None and each.receipt.finished_at is None for each in outcomes]
    return [
        replace(each, receipt=close_receipt(root, each.receipt)) if unfinished and each.receipt else each
        for each, unfinished in zip(outcomes, is_open, strict=True)
    ]


def _open_receipts(root: str, user_ids: Collection[str], found: _Found) -> list[Outcome]:
    """Write, for each user who is somewhere, what will be removed."""
    key, manifests = root_key(root), read_manifests(found.artefacts)
    outcomes: list[Outcome] = []
    for user_id in dict.fromkeys(user_ids):
        user, removed = pseudonym(user_id, key), found.removed.get(user_id, ())
        receipt = read_receipt(root, user)
        if removed:
            learned = learned_from(found.artefacts, manifests, found.rows.get(user_id, {}))
            receipt = open_receipt(root, user, receipt, removed, learned)
        outcomes.append(Outcome(user_id=user_id, receipt=receipt, is_removed_now=bool(removed)))
    return outcomes


def _find(root: str, user_ids: Set[str]) -> _Found:
    """Everything that users left below a root."""
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
        if counts[table] and table.kind == Kind.TABLE and table.path.startswith((_USERS, _ANSWERS))
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
    return _Found(artefacts=found, removed=removed, traces=traces, rows=rows, pseudonyms=pseudonyms)


def _remove(found: _Found, user_ids: Set[str]) -> None:
    """Write every file that holds the users again without them: what is made of tables first."""
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
