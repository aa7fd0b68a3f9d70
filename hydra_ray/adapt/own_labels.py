"""Own heads of a bucket's users: codes fitted to all of their records, and log probabilities of all queries' answers.

Shape suffixes: U users, G records or queries, N their candidates, L labels, D inputs psi.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hydra_ray.adapt.label_model import LabelModel, labelled_records, needs_label_model
from hydra_ray.adapt.own_model import OwnModel
from hydra_ray.adapt.own_records import Asked, OwnRecords, own_queries, own_records
from hydra_ray.config import HeadsConfig, RunConfig, Task
from hydra_ray.lamp.choices import candidates_of, items_of
from hydra_ray.lamp.field_checks import pseudo_query_id
from hydra_ray.retrieve.dense import Encode, Floats, Vectors
from hydra_ray.rows import LabelLogs, Query, User, UserLabelLogs
from hydra_ray.scorer.linear.groups import Ints, log_softmax
from hydra_ray.scorer.linear.newton import Belief
from hydra_ray.scorer.linear.shared import user_fold

UNTAUGHT = -1
"""Fold of users who taught nothing: what all training users taught scores them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnUsers:
    """Codes of some users, and what they make of the users' queries."""

    belief: Belief
    num_records_U: Ints
    losses_U2: Floats
    """Mean losses of the held-out records, without and with the own head; 0 where nothing was asked."""
    rows: list[UserLabelLogs]


def needs_own_heads(task: Task, config: RunConfig) -> bool:
    """Return whether a run fits own heads to all records of a user."""
    return needs_label_model(task, config) and config.adapter.has_own_labels and config.adapter.has_own_heads


def adapter_heads(task: Task, config: RunConfig) -> HeadsConfig:
    """Return the settings of the adapter's heads: where own heads are fitted to all records, codes fitted to the few
    pseudo-queries would decode what their features leave out, and are not fitted."""
    heads = config.adapter.heads
    if not needs_own_heads(task, config):
        return heads
    kinds = tuple(kind for kind in heads.kinds if kind != "lowrank") or ("shared",)
    return heads.model_copy(update={"kinds": kinds})


def own_gain(logs: LabelLogs | None, variant: str) -> Floats | None:
    """Return what an own head adds to the label log probabilities of a query (L).

    Args:
        logs: None where own heads do not count.
        variant: one of VARIANTS: the user's own head, none, or another user's in its place.
    """
    by_head = None if logs is None else {"shared": (), "shuffled": logs.by_other}.get(variant, logs.by_own)
    return np.subtract(by_head, logs.by_records) if logs is not None and by_head else None


def own_fold(user: User) -> int:
    """Return the fold of training users whose model scores a user: in a cross-fitted run that in which the user is
    new."""
    if user.is_new:
        return UNTAUGHT
    return user_fold(user.user_id) if user.fold is None else user.fold


def items_of_user(task: Task, user: User) -> list[str]:
    """Return the distinct items of a user's records and queries, in order."""
    inputs = (each.input for each in (*user.history, *user.queries))
    return list(dict.fromkeys(item for text in inputs for item in items_of(task, text)))


def encoded_items(task: Task, users: Sequence[User], encode: Encode) -> Vectors:
    """Return the vectors of the items of all records and queries."""
    texts = dict.fromkeys(item for user in users for item in items_of_user(task, user))
    known = list(texts) or [""]
    return dict(zip(known, encode(known), strict=True))


def fit_own_users(task: Task, users: Sequence[User], labels: LabelModel, model: OwnModel, vectors: Vectors) -> OwnUsers:
    """Fit the own heads of users and score their queries and records, given the vectors of their items; queries for
    which no candidate could be drafted are left out."""
    records = own_records(task, users, labels.text, vectors, own_fold)
    asked = [[query for query in user.queries if candidates_of(task, query.input)] for user in users]
    inputs = [[query.input for query in own] for own in asked]
    queries = own_queries(task, users, inputs, labels.text, vectors)
    belief = model.fit_codes(task, records)
    deviations_UD = model.deviations(records.fold_U, belief.codes_UR)
    own_N = model.scores(task, queries, deviations_UD)
    other_N = model.scores(task, queries, deviations_UD[_others(users)])
    of_queries = [model.log_probabilities(task, queries, records.fold_U, each) for each in (None, own_N, other_N)]
    held_out_N = model.held_out_scores(task, records)
    of_records = [model.log_probabilities(task, records.asked, records.fold_U, each) for each in (None, held_out_N)]
    return OwnUsers(
        belief=belief,
        num_records_U=np.diff(records.user_starts),
        losses_U2=_losses(records, of_records),
        rows=_rows(task, users, asked, records, queries, of_queries, of_records),
    )


def _others(users: Sequence[User]) -> Ints:
    """Return for each user the index of another one of the same cohort, the next; where there is none, of any."""
    found = np.roll(np.arange(len(users)), -1)
    for is_evaluated in (False, True):
        own = np.array([place for place, user in enumerate(users) if user.is_evaluated() == is_evaluated], np.int64)
        if len(own) > 1:
            found[own] = np.roll(own, -1)
    return found


def _losses(records: OwnRecords, logs: Sequence[Floats]) -> Floats:
    is_asked_G = records.support.block_G >= 0
    user_G = records.asked.user_G[is_asked_G]
    num_U = np.maximum(np.bincount(user_G, minlength=len(records.user_ids)), 1)
    right_G = records.right_places[is_asked_G]
    sums = [np.bincount(user_G, -each[right_G], minlength=len(num_U)) for each in logs]
    return np.stack(sums, axis=1) / num_U[:, None]


def _rows(
    task: Task,
    users: Sequence[User],
    asked: Sequence[Sequence[Query]],
    records: OwnRecords,
    queries: Asked,
    of_queries: Sequence[Floats],
    of_records: Sequence[Floats],
) -> list[UserLabelLogs]:
    by_user: list[list[LabelLogs]] = [[] for _ in users]
    query_ids = [query.query_id for own in asked for query in own]
    for user, logs in zip(queries.user_G.tolist(), label_logs(queries, query_ids, of_queries), strict=True):
        by_user[user].append(logs)
    record_ids = [record.record_id for user in users for record in labelled_records(task, user.history)]
    asked_ids = [pseudo_query_id(record_id) for record_id in record_ids]
    found = zip(records.asked.user_G.tolist(), label_logs(records.asked, asked_ids, of_records), strict=True)
    for (user, logs), block in zip(found, records.support.block_G.tolist(), strict=True):
        if block >= 0:
            by_user[user].append(logs)
    return [
        UserLabelLogs(user_id=user.user_id, is_new=user.is_new, queries=tuple(own))
        for user, own in zip(users, by_user, strict=True)
    ]


def label_logs(asked: Asked, query_ids: Sequence[str], logs: Sequence[Floats]) -> Iterator[LabelLogs]:
    """Yield the log probabilities of each text's candidates.

    Args:
        logs: by the records, by the user's own head and maybe by another user's (N).
    """
    columns = [each.tolist() for each in (log_softmax(asked.text_scores_N, asked.segments), *logs)]
    for query_id, (start, end) in zip(query_ids, pairwise(asked.group_starts.tolist()), strict=True):
        by_text, by_records, by_own, *others = (tuple(each[start:end]) for each in columns)
        yield LabelLogs(
            query_id=query_id,
            by_text=by_text,
            by_records=by_records,
            by_own=by_own,
            by_other=others[0] if others else (),
        )
