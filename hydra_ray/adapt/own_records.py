"""Records as own heads see them: labels, inputs psi of the own score, and inputs that read the records of the support.

psi reads none of the user's other records, so that a code can be fitted on all of them. For a rating l in [-1, 1] of an
item with vector z it is [l z, 1{l}], for a class l with the text's log probability t it is [t, 1{l}].

Shape suffixes: U users, G records or queries, K blocks, L labels, H the encoder's width, Q item dimensions, I inputs
that read records, N candidates (a label of a record), D inputs psi.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydra_ray.adapt.label_model import labelled_records
from hydra_ray.adapt.text_classifier import TextClassifier
from hydra_ray.adapt.user_label_model import inputs_of_texts, rating_scale
from hydra_ray.config import Task
from hydra_ray.retrieve.dense import NEAR_TEMPERATURE, Floats, Vectors
from hydra_ray.rows import Record, User
from hydra_ray.scorer.linear.groups import Bools, GroupTable, Ints, starts_of
from hydra_ray.scorer.linear.shared import user_fold
from hydra_ray.scorer.linear.support import Support, dated_support, undated_support
from hydra_ray.seeds import rng_of

NUM_ITEM_DIMENSIONS = 79
"""Number of principal components of the items' vectors; 20 and 48 gain less."""
_START_ITEM, _START_LABEL, _START_TEXT = 0.5, 1.0, 0.1
"""Variances that users' weights of an item's vector, of a label and of the text's log probability start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSpace:
    """Principal components of the items' vectors, scaled to a mean squared length of 1."""

    means_H: Floats
    components_QH: Floats

    def project(self, vectors_GH: Floats) -> Floats:
        """Return the items' positions (G, Q)."""
        return (vectors_GH - self.means_H) @ self.components_QH.T


def item_space(vectors_GH: Floats) -> ItemSpace:
    """Fit the space to distinct items' vectors; without any, all positions are 0."""
    if not len(vectors_GH):
        num_components = min(NUM_ITEM_DIMENSIONS, vectors_GH.shape[1])
        return ItemSpace(
            means_H=np.zeros(vectors_GH.shape[1]), components_QH=np.zeros((num_components, vectors_GH.shape[1]))
        )
    means_H = vectors_GH.mean(axis=0)
    _, _, rows = np.linalg.svd(vectors_GH - means_H, full_matrices=False)
    components_QH = rows[:NUM_ITEM_DIMENSIONS]
    largest_Q = components_QH[np.arange(len(components_QH)), np.abs(components_QH).argmax(axis=1)]
    components_QH = components_QH * np.sign(largest_Q)[:, None]
    size = np.sqrt((((vectors_GH - means_H) @ components_QH.T) ** 2).sum(axis=1).mean())
    return ItemSpace(means_H=means_H, components_QH=components_QH / max(size, 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Texts of users with what is known of each label. Key: position."""

    user_G: Ints
    """Index of each text's user, ascending."""
    text_logs_GL: Floats
    """Log probabilities of the labels by the text alone."""
    vectors_GH: Floats
    inputs_GLI: Floats
    """Inputs of the user label model, from the records that the text's query may use."""

    def of_texts(self, is_kept_G: Bools) -> "Asked":
        """Return the same with only the texts of the mask."""
        return Asked(
            user_G=self.user_G[is_kept_G],
            text_logs_GL=self.text_logs_GL[is_kept_G],
            vectors_GH=self.vectors_GH[is_kept_G],
            inputs_GLI=self.inputs_GLI[is_kept_G],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRecords:
    """All labelled records of some users, each asked from its support."""

    user_ids: list[str]
    fold_U: Ints
    asked: Asked
    labels_G: Ints
    support: Support
    age_G: Floats
    """Number of the user's records after each; 0 where records have no dates."""
    is_dated: bool
    """Whether all records of all users have dates."""

    @property
    def user_starts(self) -> Ints:
        """U + 1 offsets into the records."""
        return starts_of(np.bincount(self.asked.user_G, minlength=len(self.user_ids)))

    def of_users(self, is_kept_U: Bools) -> "OwnRecords":
        """Return the same with only the users of the mask."""
        is_kept_G = is_kept_U[self.asked.user_G]
        number_U = np.cumsum(is_kept_U) - 1
        asked = self.asked.of_texts(is_kept_G)
        return replace(
            self,
            user_ids=[name for name, is_kept in zip(self.user_ids, is_kept_U.tolist(), strict=True) if is_kept],
            fold_U=self.fold_U[is_kept_U],
            asked=replace(asked, user_G=number_U[asked.user_G]),
            labels_G=self.labels_G[is_kept_G],
            support=self.support.of_records(is_kept_G),
            age_G=self.age_G[is_kept_G],
        )


def own_records(
    task: Task, users: Sequence[User], text: TextClassifier, vectors: Vectors, fold_of: Callable[[User], int]
) -> OwnRecords:
    """Return the labelled records of users, each asked from its support.

    Args:
        vectors: vectors of all records' inputs.
        fold_of: fold of a user, by which heads were fitted without the user.
    """
    histories = [labelled_records(task, user.history) for user in users]
    logs = _text_logs(users, [[record.input for record in records] for records in histories], text, vectors)
    supports = [_support(user, records) for user, records in zip(users, histories, strict=True)]
    parts = [
        _asked(task, number, [each.input for each in records], records, _shown(support), own, vectors)
        for number, (records, support, own) in enumerate(zip(histories, supports, logs, strict=True))
    ]
    supports.append(undated_support([], rng_of(0)))  # so that there is one, even of nobody
    parts.append(_asked(task, 0, [], [], np.zeros((0, 0)), {}, vectors))
    labels = [task.labels.index(record.output) for records in histories for record in records]
    return OwnRecords(
        user_ids=[user.user_id for user in users],
        fold_U=np.array([fold_of(user) for user in users], np.int64),
        asked=_joined(parts),
        labels_G=np.array(labels, np.int64),
        support=Support.joined(supports),
        age_G=np.concatenate([np.zeros(0), *map(_last_ages, histories)]),
        is_dated=all(record.date is not None for records in histories for record in records),
    )


def own_queries(
    task: Task, users: Sequence[User], queries: Sequence[Sequence[str]], text: TextClassifier, vectors: Vectors
) -> Asked:
    """Return each user's queries, asked from all of the user's records.

    Args:
        queries: inputs of each user's queries.
        vectors: vectors of all records' and queries' inputs.
    """
    histories = [labelled_records(task, user.history) for user in users]
    texts = [[*(record.input for record in records), *own] for records, own in zip(histories, queries, strict=True)]
    logs = _text_logs(users, texts, text, vectors)
    parts = [
        _asked(task, number, own, records, np.ones((len(own), len(records))), known, vectors)
        for number, (own, records, known) in enumerate(zip(queries, histories, logs, strict=True))
    ]
    return _joined([*parts, _asked(task, 0, [], [], np.zeros((0, 0)), {}, vectors)])


def own_inputs(task: Task, items_GQ: Floats, text_logs_GL: Floats) -> Floats:
    """Return the inputs psi of every label (G * L, D)."""
    num_texts, num_labels = text_logs_GL.shape
    biases_GLL = np.broadcast_to(np.eye(num_labels), (num_texts, num_labels, num_labels))
    read = text_logs_GL[:, :, None]
    if task.kind == "rating":
        read = rating_scale(task)[:, None] * items_GQ[:, None, :]
    inputs_GLD = np.concatenate([read, biases_GLL], axis=2)
    return inputs_GLD.reshape(num_texts * num_labels, inputs_GLD.shape[2])


def start_variances(task: Task, num_inputs: int) -> Floats:
    """Return the variances that the estimation of users' deviations starts from (D)."""
    start = _START_ITEM if task.kind == "rating" else _START_TEXT
    num_labels = len(task.labels)
    return np.repeat([start, _START_LABEL], [num_inputs - num_labels, num_labels])


def own_table(records: OwnRecords, inputs_ND: Floats) -> GroupTable:
    """Return the records as groups of labels, each with its inputs."""
    num_records, num_labels = records.asked.text_logs_GL.shape
    targets_N = np.eye(num_labels)[records.labels_G].ravel()
    return GroupTable(
        features_ND=inputs_ND,
        targets_N=targets_N,
        qualities_N=targets_N,
        group_starts=np.arange(num_records + 1) * num_labels,
        user_starts=records.user_starts,
    )


def _support(user: User, records: Sequence[Record]) -> Support:
    items, dates = [record.input for record in records], [record.date for record in records]
    known = [date for date in dates if date is not None]
    if len(known) == len(items):
        return dated_support(items, known)
    return undated_support(items, rng_of(0, "blocks of records", user.user_id))


def _shown(support: Support) -> Floats:
    """Return which of one user's records may be used when each of them is asked (G, G)."""
    return support.has_KG[support.block_G].astype(np.float64)


def _last_ages(records: Sequence[Record]) -> Floats:
    dates = [record.date for record in records if record.date is not None]
    if len(dates) < len(records):
        return np.zeros(len(records))
    age_G = np.empty(len(records))
    age_G[np.argsort(np.array(dates, np.int64), kind="stable")] = np.arange(len(records))[::-1]
    return age_G


def _text_logs(
    users: Sequence[User], texts: Sequence[Sequence[str]], text: TextClassifier, vectors: Vectors
) -> list[Mapping[str, Floats]]:
    """Return for each user the log probabilities of the labels (L) of texts, by classifiers that saw none of the
    user's records."""
    folds = [user_fold(user.user_id) for user in users]
    by_fold = {
        fold: text.by_text(
            fold, [each for own, at in zip(texts, folds, strict=True) if at == fold for each in own], vectors
        )
        for fold in set(folds)
    }
    return [by_fold[fold] for fold in folds]


def _asked(
    task: Task,
    number: int,
    texts: Sequence[str],
    records: Sequence[Record],
    shown_AN: Floats,
    logs: Mapping[str, Floats],
    vectors: Vectors,
) -> Asked:
    """Return texts of one user, each asked from the records that `shown_AN` marks."""
    width = len(next(iter(vectors.values())))
    num_labels = len(task.labels)

    def logs_of(texts: Sequence[str]) -> Floats:
        return np.array([logs[text] for text in texts]).reshape(-1, num_labels)

    def vectors_of(texts: Sequence[str]) -> Floats:
        return np.array([vectors[text] for text in texts]).reshape(-1, width)

    inputs = [record.input for record in records]
    text_logs_AL, vectors_AH, vectors_NH = logs_of(texts), vectors_of(texts), vectors_of(inputs)
    record_labels_N = np.array([task.labels.index(record.output) for record in records], np.int64)
    near_AN = shown_AN * np.exp((vectors_AH @ vectors_NH.T - 1) / NEAR_TEMPERATURE)
    near_AN /= np.maximum(near_AN.sum(axis=1, keepdims=True), 1e-300)
    return Asked(
        user_G=np.full(len(texts), number),
        text_logs_GL=text_logs_AL,
        vectors_GH=vectors_AH.astype(np.float32),
        inputs_GLI=inputs_of_texts(text_logs_AL, logs_of(inputs), record_labels_N, shown_AN, near_AN, task),
    )


def _joined(parts: Sequence[Asked]) -> Asked:
    return Asked(
        user_G=np.concatenate([part.user_G for part in parts]),
        text_logs_GL=np.concatenate([part.text_logs_GL for part in parts]),
        vectors_GH=np.concatenate([part.vectors_GH for part in parts]),
        inputs_GLI=np.concatenate([part.inputs_GLI for part in parts]),
    )
