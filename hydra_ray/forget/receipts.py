"""Receipts of removed users: what was removed, what could not be, and that runs must not read the user again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hydra_ray import storage
from hydra_ray.forget.lineage import Learned
from hydra_ray.rows import from_dict, to_dict
from hydra_ray.runs.root import receipt_location
from hydra_ray.temporary import remove_leftovers

REMAINS = (
    "What was learned from many users at once (bases, shared heads with basis and priors, routed heads, the labeller) "
    "keeps what this user taught it; `learned` lists it with its cohort. To learn it anew without the user, run the "
    "configuration with users.leaves_out_forgotten=true, then remove the folders that are listed.",
    "Averages and counters still count the user: metrics.json, report.html, manifests, footers of tables. Choices and "
    "scores of other users still depend on what was learned, and their scores by the head of another user (the "
    "`shuffled` control) may be by this one's.",
    "Outside the storage root nothing was touched: the raw files that users came from, Ray's logs and object store, "
    "backups, and older versions of objects where the store keeps them. An endpoint that was sent batches keeps their "
    "files until the run has stored their answers, or until they expire.",
)
"""Explanation of what removal cannot reach, in each receipt."""
_TEMPORARY = (
    "Users' raw texts stand in temporary folders while they are read. Looked at on this machine: {}. On other machines "
    "of a cluster none was looked at: the next hydra-ray command there removes those of ended processes."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """Amount of a user's data in a file. Key: path."""

    path: str
    """Path below the root."""
    kind: str
    count: int
    """Number of rows of a table, or of entries of another file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Record of the removal of one user. Key: user."""

    user: str
    """Pseudonym by the root's key, never the id."""
    started_at: str
    finished_at: str | None
    """Time of completion; None during the removal, or after it was interrupted."""
    removed: tuple[Removed, ...]
    learned: tuple[Learned, ...]
    remains: tuple[str, ...]


def read_receipt(root: str, user: str) -> Receipt | None:
    """Return the receipt of a user, given by pseudonym; None where there is none."""
    location = receipt_location(root, user)
    if not storage.exists(location):
        return None
    return from_dict(storage.read_json(location, _SHAPE, _ANEW), Receipt)


_ANEW = "The user counts as forgotten while the file is there, whatever it holds: restore a backup of it, or leave it."
_SHAPE: storage.Shape = {
    "user": str,
    "started_at": str,
    "finished_at": (str, type(None)),
    "removed": list,
    "learned": list,
    "remains": list,
}


def open_receipt(
    root: str, user: str, earlier: Receipt | None, removed: Sequence[Removed], learned: Sequence[Learned]
) -> Receipt:
    """Write what will be removed before anything is; entries of an earlier attempt are kept.

    Args:
        user: pseudonym of the user.
        earlier: existing receipt of an interrupted attempt.
    """
    known = {each.path: each for each in (earlier.removed if earlier else ())}
    for each in removed:
        if each.path not in known or known[each.path].count < each.count:
            known[each.path] = each
    receipt = Receipt(
        user=user,
        started_at=earlier.started_at if earlier else _now(),
        finished_at=None,
        removed=tuple(known[path] for path in sorted(known)),
        learned=tuple(dict.fromkeys([*(earlier.learned if earlier else ()), *learned])),
        remains=(*REMAINS, _TEMPORARY.format(remove_leftovers())),
    )
    return _write(root, receipt)


def close_receipt(root: str, receipt: Receipt) -> Receipt:
    """Record that the removal is complete."""
    return _write(root, replace(receipt, finished_at=_now()))


def _write(root: str, receipt: Receipt) -> Receipt:
    storage.write_json(receipt_location(root, receipt.user), to_dict(receipt))
    return receipt


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
