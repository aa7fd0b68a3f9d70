"""Own heads of a bucket's users: codes fitted to all of their records, and label log probabilities of all queries.

Shape suffixes: U users, G records or queries, L labels, D inputs psi.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.adapt.label_model import LabelModel, labelled_records, needs_label_model
from hydra_ray.adapt.own_model import OwnModel
from hydra_ray.adapt.own_records import Asked, OwnRecords, own_queries, own_records
from hydra_ray.config import HeadsConfig, RunConfig, Task
from hydra_ray.lamp.field_checks import pseudo_query_id
from hydra_ray.retrieve.dense import Encode, Floats, Vectors
from hydra_ray.rows import LabelLogs, User, UserLabelLogs
from hydra_ray.scorer.linear.groups import Ints
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


def encoded_inputs(users: Sequence[User], encode: Encode) -> Vectors:
    """Return the vectors of the inputs of all records and queries."""
    texts = dict.fromkeys(each.input for user in users for each in (*user.history, *user.queries))
    known = list(texts) or [""]
    return dict(zip(known, encode(known), strict=True))


def fit_own_users(task: Task, users: Sequence[User], labels: LabelModel, model: OwnModel, encode: Encode) -> OwnUsers:
    """Fit the own heads of users and score their queries and records."""
    vectors = encoded_inputs(users, encode)
    records = own_records(task, users, labels.text, vectors, own_fold)
    queries = own_queries(
        task, users, [[query.input for query in user.queries] for user in users], labels.text, vectors
    )
    belief = model.fit_codes(task, records)
    deviations_UD = model.deviations(records.fold_U, belief.codes_UR)
    own_GL = model.scores(task, queries, deviations_UD)
    other_GL = model.scores(task, queries, deviations_UD[_others(users)])
    of_queries = [model.log_probabilities(task, queries, records.fold_U, each) for each in (None, own_GL, other_GL)]
    held_out_GL = model.held_out_scores(task, records)
    of_records = [model.log_probabilities(task, records.asked, records.fold_U, each) for each in (None, held_out_GL)]
    return OwnUsers(
        belief=belief,
        num_records_U=np.diff(records.user_starts),
        losses_U2=_losses(records, of_records),
        rows=_rows(task, users, records, queries, of_queries, of_records),
    )


def _others(users: Sequence[User]) -> Ints:
    """Return for each user the index of another one of the same cohort, the next; where there is none, of any."""
    places = np.arange(len(users))
    found = np.roll(places, -1)
    for is_evaluated in (False, True):
        own = np.array([place for place in places if users[place].is_evaluated() == is_evaluated], np.int64)
        if len(own) > 1:
            found[own] = np.roll(own, -1)
    return found


def _losses(records: OwnRecords, logs: Sequence[Floats]) -> Floats:
    is_asked_G = records.support.block_G >= 0
    user_G = records.asked.user_G[is_asked_G]
    num_U = np.maximum(np.bincount(user_G, minlength=len(records.user_ids)), 1)
    rows = np.flatnonzero(is_asked_G)
    sums = [np.bincount(user_G, -each[rows, records.labels_G[rows]], minlength=len(num_U)) for each in logs]
    return np.stack(sums, axis=1) / num_U[:, None]


def _rows(
    task: Task,
    users: Sequence[User],
    records: OwnRecords,
    queries: Asked,
    of_queries: Sequence[Floats],
    of_records: Sequence[Floats],
) -> list[UserLabelLogs]:
    by_user: list[list[LabelLogs]] = [[] for _ in users]
    query_ids = [query.query_id for user in users for query in user.queries]
    for place, (query_id, user) in enumerate(zip(query_ids, queries.user_G.tolist(), strict=True)):
        logs = [queries.text_logs_GL[place], *(each[place] for each in of_queries)]
        by_user[user].append(_logs(query_id, logs))
    record_ids = [record.record_id for user in users for record in labelled_records(task, user.history)]
    for place, (record_id, user) in enumerate(zip(record_ids, records.asked.user_G.tolist(), strict=True)):
        if records.support.block_G[place] >= 0:
            logs = [records.asked.text_logs_GL[place], *(each[place] for each in of_records)]
            by_user[user].append(_logs(pseudo_query_id(record_id), logs))
    return [
        UserLabelLogs(user_id=user.user_id, is_new=user.is_new, queries=tuple(own))
        for user, own in zip(users, by_user, strict=True)
    ]


def _logs(query_id: str, logs: Sequence[Floats]) -> LabelLogs:
    by_text, by_records, by_own, *others = (tuple(each.tolist()) for each in logs)
    return LabelLogs(
        query_id=query_id, by_text=by_text, by_records=by_records, by_own=by_own, by_other=others[0] if others else ()
    )
