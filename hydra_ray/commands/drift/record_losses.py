"""Log losses of records that show labels or choices, before anything was learned from them: by the text alone, by the
user's other records, and by the user's own head.

A user's first records are asked as the stage `adapter.codes` asked them, each with its block left out. Records that
came later are asked from those that were known before.

Shape suffixes: U users, G records, N their candidates, S systems.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hydra_ray.adapt.label_model import LabelModel, labelled_records
from hydra_ray.adapt.own_model import OwnModel
from hydra_ray.adapt.own_records import own_records
from hydra_ray.config import Task
from hydra_ray.lamp.choices import candidates_of, items_of
from hydra_ray.lamp.field_checks import pseudo_query_id
from hydra_ray.retrieve.dense import Floats, Vectors
from hydra_ray.rows import Record, User, UserLabelLogs
from hydra_ray.scorer.linear.groups import log_softmax
from hydra_ray.scorer.linear.support import Support, later_support
from hydra_ray.seeds import rng_of

TEXT, RECORDS, OWN = "text", "records", "own heads"
SYSTEMS = (TEXT, RECORDS, OWN)
"""Systems in the order of their losses."""
_NEWEST_SHARE = 4
"""The newest one in so many of a user's dated records are counted: they are asked from nearly the whole history, as
records that come later are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summed:
    """Sums of a user's figures, from which a mean by user is made. Key: (generation, user_id)."""

    user_id: str
    num: int
    """Number of records, or of queries; at least 1."""
    sums_S: Floats
    """Sums over these of each system's figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A user who came back with records. Key: user.user_id."""

    user: User
    """The user as of the update."""
    before: User
    """The user as of the newest run before it."""
    fold: int
    """Fold of training users whose model scores the user, as at the start (`hydra_ray.adapt.own_labels.own_fold`)."""


def first_losses(task: Task, users: Iterable[User], rows: Mapping[str, UserLabelLogs]) -> Iterator[Summed]:
    """Yield the losses of users' held-out records, as they are stored; who has none is left out.

    Args:
        rows: the users' rows of the table of label log probabilities, by user_id.
    """
    for user in users:
        logs = {each.query_id: each for each in rows[user.user_id].queries} if user.user_id in rows else {}
        losses = [
            [
                -by[candidates_of(task, record.input).index(record.output)]
                for by in (own.by_text, own.by_records, own.by_own)
            ]
            for record in _comparable(labelled_records(task, user.history))
            if (own := logs.get(pseudo_query_id(record.record_id))) is not None
        ]
        if losses:
            yield Summed(user_id=user.user_id, num=len(losses), sums_S=np.sum(losses, axis=0))


def later_losses(
    task: Task, returned: Sequence[Returned], labels: LabelModel, model: OwnModel, vectors: Vectors
) -> Iterator[Summed]:
    """Yield the losses of records that users came back with, by what was learned before; who has none is left out.

    Args:
        vectors: vectors of the items of all records of these users.
    """
    folds = {each.user.user_id: each.fold for each in returned}
    known = {each.user.user_id: frozenset(labelled_records(task, each.before.history)) for each in returned}

    def support_of(user: User, records: Sequence[Record]) -> Support:
        return _later_support(task, user, records, known[user.user_id].__contains__)

    records = own_records(
        task, [each.user for each in returned], labels.text, vectors, lambda user: folds[user.user_id], support_of
    )
    own_N, asked = model.held_out_scores(task, records), records.asked
    logs = (
        log_softmax(asked.text_scores_N, asked.segments),
        model.log_probabilities(task, asked, records.fold_U, None),
        model.log_probabilities(task, asked, records.fold_U, own_N),
    )
    losses_GS = -np.stack([each[records.right_places] for each in logs], axis=1)
    is_later_G = records.support.block_G >= 0
    for user_id, (start, end) in zip(records.user_ids, pairwise(records.user_starts.tolist()), strict=True):
        own_GS = losses_GS[start:end][is_later_G[start:end]]
        if len(own_GS):
            yield Summed(user_id=user_id, num=len(own_GS), sums_S=own_GS.sum(axis=0))


def _later_support(task: Task, user: User, records: Sequence[Record], is_known: Callable[[Record], bool]) -> Support:
    dates = [record.date for record in records if record.date is not None]
    return later_support(
        [items_of(task, record.input) for record in records],
        np.array([is_known(record) for record in records], bool),
        dates if len(dates) == len(records) else None,
        rng_of(0, "blocks of later records", user.user_id),
    )


def _comparable(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records that are asked from about as much as later ones: of dated ones the newest."""
    dated = sorted((record.date, place) for place, record in enumerate(records) if record.date is not None)
    if len(dated) < len(records):
        return records
    return [records[place] for _, place in dated[-max(len(dated) // _NEWEST_SHARE, 1) :]]
