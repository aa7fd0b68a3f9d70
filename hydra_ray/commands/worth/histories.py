"""Histories in a person's files, read as a run reads them: a sample of the users by a hash, and what was left out."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hydra_ray.adapt.label_model import sampled_users
from hydra_ray.config import RunConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.choices import items_of
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.lamp_files import Sample, read_samples
from hydra_ray.lamp.rejection import Reasons
from hydra_ray.lamp.user_files import FileStart, read_user_files
from hydra_ray.lamp.users import splits_of
from hydra_ray.rows import Rejected, User
from hydra_ray.seeds import seed_of
from hydra_ray.temporary import temporary_folder

MAX_RECORDS, MAX_INPUTS = 40_000, 10_000
"""Numbers of records and of distinct inputs at which no more users are sampled."""
_MAX_NUMBERS = 100_000_000
"""Number of model inputs that are held at once; with many labels fewer records are sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """Users with their usable records, and no queries."""

    users: tuple[User, ...]
    num_users_read: int
    """Number of users in the files, those without usable records included."""
    num_rejected: int
    """Number of malformed users, who are left out."""
    reasons: tuple[str, ...]
    """Commonest reasons of their rejection."""
    is_whole: bool
    """Whether all users with usable records are in `users`, and not a sample of them."""


def read_histories(config: RunConfig, task: Task, max_users: int) -> Histories:
    """Read the histories of a configuration's files. Queries and their targets are not looked at.

    Raises:
        InputError: a file cannot be read, or too many users are malformed.
    """
    rejected, heap = Reasons(), list[tuple[int, str, User]]()
    ids: set[str] = set()
    num_usable = 0
    for each in _samples(config, task):
        if isinstance(each, Rejected):
            rejected.add(each)
            continue
        name = each.user.user_id
        if name in ids:
            reason = "the same id as an earlier user"
            rejected.add(Rejected(source=each.source, position=each.position, sample_id=each.sample_id, reason=reason))
            continue
        ids.add(name)
        user = replace(each.user, queries=(), history=tuple(record for record in each.user.history if record.output))
        if not user.history:
            continue
        num_usable += 1
        heapq.heappush(heap, (-seed_of(0, "worth", name), name, user))
        if len(heap) > max_users:
            heapq.heappop(heap)
    num_rows = len(ids) + rejected.num_rejected
    if rejected.num_rejected > config.users.max_rejected_fraction * num_rows:
        raise InputError(
            f"{rejected.num_rejected} of {num_rows} users are malformed: {'; '.join(rejected)}: correct them, or name "
            "what is in the files by --column, --kind or --labels"
        )
    chosen = tuple(_affordable(task, [user for *_, user in sorted(heap, key=lambda each: -each[0])]))
    return Histories(
        users=_labelled(task, chosen),
        num_users_read=len(ids),
        num_rejected=rejected.num_rejected,
        reasons=tuple(rejected),
        is_whole=len(chosen) == num_usable,
    )


def _samples(config: RunConfig, task: Task) -> Iterator[Sample | Rejected]:
    lamp = config.lamp
    if lamp.root is not None:
        for split, is_new in splits_of(lamp).items():
            yield from read_samples(task, lamp.root, split, is_new)
        return
    with temporary_folder("worth") as folder:
        # As in an update, a row of a user needs no queries, and no newest record becomes one.
        files = input_files(lamp.users_files)
        for each in read_user_files(task, files, Path(folder), columns=lamp.columns, is_update=True):
            assert not isinstance(each, FileStart), "all rows are read"
            yield each


def _affordable(task: Task, users: Iterable[User]) -> Iterator[User]:
    """Yield users until they have as many records or distinct inputs as can be looked at in minutes."""
    num_labels = len(task.labels)
    most = min(MAX_RECORDS, _MAX_NUMBERS // max(num_labels * (num_labels + 20), 1))
    inputs: set[str] = set()
    num_records = 0
    for user in users:
        num_records += len(user.history)
        inputs.update(item for record in user.history for item in items_of(task, record.input))
        if num_records > most or len(inputs) > MAX_INPUTS:
            return
        yield user


def _labelled(task: Task, users: tuple[User, ...]) -> tuple[User, ...]:
    """Return the users with only the records that a run learns labels or choices from, where the task has such."""
    if not task.has_labelled_records:
        return users
    found = sampled_users(task, users, 1 + sum(len(user.history) for user in users))
    return tuple(user for user in found if user.history)
