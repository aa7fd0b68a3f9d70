"""Records as own heads see them: choices among candidates, with inputs psi of the own score, and inputs that read the
records of the support.

A record is a choice among the task's labels, or in a preference task among the texts that were there to choose from:
all else is the same. psi reads none of the user's other records, so that a code can be fitted on all of them. For a
rating l in [-1, 1] of an item with vector z it is [l z, 1{l}], for a class l with the text's log probability t it is
[t, 1{l}], and for a text with vector z it is z; of a pair only the difference of both z counts.

Shape suffixes: U users, G records or queries, K blocks, N their candidates, L labels, H the encoder's width, V vectors,
Q item dimensions, I inputs that read records, D inputs psi.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hydra_ray.adapt.label_model import labelled_records
from hydra_ray.adapt.taste_inputs import Taste
from hydra_ray.adapt.text_classifier import TextClassifier
from hydra_ray.adapt.user_label_model import inputs_of_texts, rating_scale
from hydra_ray.config import Task
from hydra_ray.lamp.choices import candidates_of, items_of
from hydra_ray.retrieve.dense import NEAR_TEMPERATURE, Floats, Vectors
from hydra_ray.rows import Record, User
from hydra_ray.scorer.linear.groups import Bools, GroupTable, Ints, Segments, even_size, starts_of
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
    """Texts of users with what is known of each candidate answer. Key: position."""

    user_G: Ints
    """Index of each text's user, ascending."""
    group_starts: Ints
    """G + 1 offsets into the candidates."""
    text_scores_N: Floats
    """Scores of the candidates by the text alone: of labels their log probabilities."""
    vectors_VH: Floats
    """Vectors of the items: of each text, or in a preference task of each candidate."""
    inputs_NI: Floats
    """Inputs that read the records that the text's query may use."""

    @property
    def text_of_candidate(self) -> Ints:
        """Index of each candidate's text."""
        return np.repeat(np.arange(len(self.user_G)), np.diff(self.group_starts))

    @property
    def segments(self) -> Segments:
        """The texts as segments of their candidates."""
        size = even_size(np.diff(self.group_starts))
        if size:
            return Segments.even(len(self.text_scores_N), size)
        return Segments(starts=self.group_starts[:-1], piece_of_place=self.text_of_candidate, size=0)

    def of_texts(self, is_kept_G: Bools) -> "Asked":
        """Return the same with only the texts of the mask."""
        is_kept_N = is_kept_G[self.text_of_candidate]
        return Asked(
            user_G=self.user_G[is_kept_G],
            group_starts=starts_of(np.diff(self.group_starts)[is_kept_G]),
            text_scores_N=self.text_scores_N[is_kept_N],
            vectors_VH=self.vectors_VH[is_kept_G if len(self.vectors_VH) == len(is_kept_G) else is_kept_N],
            inputs_NI=self.inputs_NI[is_kept_N],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRecords:
    """All labelled records of some users, each asked from its support."""

    user_ids: list[str]
    fold_U: Ints
    asked: Asked
    labels_G: Ints
    """Place of each record's right answer among its candidates."""
    support: Support
    age_G: Floats
    """Number of the user's records after each; 0 where records have no dates."""
    is_dated: bool
    """Whether all records of all users have dates."""

    @property
    def user_starts(self) -> Ints:
        """U + 1 offsets into the records."""
        return starts_of(np.bincount(self.asked.user_G, minlength=len(self.user_ids)))

    @property
    def right_places(self) -> Ints:
        """Position of each record's right answer among all candidates (G)."""
        return self.asked.group_starts[:-1] + self.labels_G

    def of_users(self, is_kept_U: Bools) -> "OwnRecords":
        """Return the same with only the users of the mask."""
        number_U = np.cumsum(is_kept_U) - 1
        kept = self.of_records(is_kept_U[self.asked.user_G])
        return replace(
            kept,
            user_ids=[name for name, is_kept in zip(self.user_ids, is_kept_U.tolist(), strict=True) if is_kept],
            fold_U=self.fold_U[is_kept_U],
            asked=replace(kept.asked, user_G=number_U[kept.asked.user_G]),
        )

    def of_records(self, is_kept_G: Bools) -> "OwnRecords":
        """Return the same users with only the records of the mask."""
        return replace(
            self,
            asked=self.asked.of_texts(is_kept_G),
            labels_G=self.labels_G[is_kept_G],
            support=self.support.of_records(is_kept_G),
            age_G=self.age_G[is_kept_G],
        )


def own_records(
    task: Task,
    users: Sequence[User],
    text: TextClassifier,
    vectors: Vectors,
    fold_of: Callable[[User], int],
    support_of: Callable[[User, Sequence[Record]], Support] | None = None,
) -> OwnRecords:
    """Return the labelled records of users, each asked from its support.

    Args:
        vectors: vectors of all records' items.
        fold_of: fold of a user, by which heads were fitted without the user.
        support_of: support of a user's labelled records; by default each is asked from the others.
    """
    support_of = support_of or partial(_support, task)
    histories = [labelled_records(task, user.history) for user in users]
    scores = _text_scores(task, users, [[each.input for each in records] for records in histories], text, vectors)
    supports = [support_of(user, records) for user, records in zip(users, histories, strict=True)]
    parts = [
        _asked(task, number, [each.input for each in records], records, _shown(support), own, vectors)
        for number, (records, support, own) in enumerate(zip(histories, supports, scores, strict=True))
    ]
    supports.append(undated_support([], rng_of(0)))  # so that there is one, even of nobody
    parts.append(_asked(task, 0, [], [], np.zeros((0, 0)), {}, vectors))
    labels = [candidates_of(task, record.input).index(record.output) for records in histories for record in records]
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
        vectors: vectors of all records' and queries' items.
    """
    histories = [labelled_records(task, user.history) for user in users]
    texts = [[*(record.input for record in records), *own] for records, own in zip(histories, queries, strict=True)]
    scores = _text_scores(task, users, texts, text, vectors)
    parts = [
        _asked(task, number, own, records, np.ones((len(own), len(records))), known, vectors)
        for number, (own, records, known) in enumerate(zip(queries, histories, scores, strict=True))
    ]
    return _joined([*parts, _asked(task, 0, [], [], np.zeros((0, 0)), {}, vectors)])


def own_inputs(task: Task, space: ItemSpace, asked: Asked) -> Floats:
    """Return the inputs psi of every candidate (N, D)."""
    items_VQ = space.project(asked.vectors_VH)
    if task.kind == "preference":
        return items_VQ
    num_texts, num_labels = len(asked.user_G), len(task.labels)
    biases_GLL = np.broadcast_to(np.eye(num_labels), (num_texts, num_labels, num_labels))
    read = asked.text_scores_N.reshape(num_texts, num_labels, 1)
    if task.kind == "rating":
        read = rating_scale(task)[:, None] * items_VQ[:, None, :]
    inputs_GLD = np.concatenate([read, biases_GLL], axis=2)
    return inputs_GLD.reshape(num_texts * num_labels, inputs_GLD.shape[2])


def start_variances(task: Task, num_inputs: int) -> Floats:
    """Return the variances that the estimation of users' deviations starts from (D)."""
    start = _START_TEXT if task.kind == "classification" else _START_ITEM
    num_labels = len(task.labels)
    return np.repeat([start, _START_LABEL], [num_inputs - num_labels, num_labels])


def own_table(records: OwnRecords, inputs_ND: Floats) -> GroupTable:
    """Return the records as groups of candidates, each with its inputs."""
    targets_N = np.zeros(len(records.asked.text_scores_N))
    targets_N[records.right_places] = 1.0
    return GroupTable(
        features_ND=inputs_ND,
        targets_N=targets_N,
        qualities_N=targets_N,
        group_starts=records.asked.group_starts,
        user_starts=records.user_starts,
    )


def _support(task: Task, user: User, records: Sequence[Record]) -> Support:
    items, dates = [items_of(task, record.input) for record in records], [record.date for record in records]
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


def _text_scores(
    task: Task, users: Sequence[User], inputs: Sequence[Sequence[str]], text: TextClassifier, vectors: Vectors
) -> list[Mapping[str, Floats]]:
    """Return for each user the scores by the text alone of all items, of the labels (L) or of the item itself (1), by
    classifiers that saw none of the user's records."""
    folds = [user_fold(user.user_id) for user in users]
    score = text.logits if task.kind == "preference" else text.by_text
    items = [[item for each in own for item in items_of(task, each)] for own in inputs]
    by_fold = {
        fold: score(fold, [each for own, at in zip(items, folds, strict=True) if at == fold for each in own], vectors)
        for fold in set(folds)
    }
    return [by_fold[fold] for fold in folds]


def _asked(
    task: Task,
    number: int,
    texts: Sequence[str],
    records: Sequence[Record],
    shown_AN: Floats,
    scores: Mapping[str, Floats],
    vectors: Vectors,
) -> Asked:
    """Return texts of one user, each asked from the records that `shown_AN` marks.

    Args:
        scores: scores by the text alone of all items, as `_text_scores` returns them.
    """
    items = [items_of(task, text) for text in texts]
    flat = [item for own in items for item in own]
    width, num_labels = len(next(iter(vectors.values()))), max(len(task.labels), 1)
    vectors_VH = np.array([vectors[item] for item in flat]).reshape(-1, width)
    scores_VL = np.array([scores[item] for item in flat]).reshape(-1, num_labels)
    if task.kind == "preference":
        sizes_A = [len(own) for own in items]
        taste = Taste.of(records, scores, vectors)
        asked_C = np.repeat(np.arange(len(texts)), sizes_A)
        inputs_NI = taste.inputs(asked_C, flat, scores_VL[:, 0], vectors, shown_AN)
    else:
        sizes_A = [num_labels] * len(texts)
        inputs_NI = _label_inputs(task, scores_VL, vectors_VH, records, shown_AN, scores, vectors)
    return Asked(
        user_G=np.full(len(texts), number),
        group_starts=starts_of(sizes_A),
        text_scores_N=scores_VL.ravel(),
        vectors_VH=vectors_VH.astype(np.float32),
        inputs_NI=inputs_NI,
    )


def _label_inputs(
    task: Task,
    text_logs_AL: Floats,
    vectors_AH: Floats,
    records: Sequence[Record],
    shown_AN: Floats,
    logs: Mapping[str, Floats],
    vectors: Vectors,
) -> Floats:
    """Return the inputs of the user label model of every label of one user's texts (A * L, I)."""
    inputs = [record.input for record in records]
    record_labels_N = np.array([task.labels.index(record.output) for record in records], np.int64)
    record_logs_NL = np.array([logs[text] for text in inputs]).reshape(-1, len(task.labels))
    vectors_NH = np.array([vectors[text] for text in inputs]).reshape(-1, vectors_AH.shape[1])
    near_AN = shown_AN * np.exp((vectors_AH @ vectors_NH.T - 1) / NEAR_TEMPERATURE)
    near_AN /= np.maximum(near_AN.sum(axis=1, keepdims=True), 1e-300)
    inputs_ALI = inputs_of_texts(text_logs_AL, record_logs_NL, record_labels_N, shown_AN, near_AN, task)
    return inputs_ALI.reshape(-1, inputs_ALI.shape[2])


def _joined(parts: Sequence[Asked]) -> Asked:
    return Asked(
        user_G=np.concatenate([part.user_G for part in parts]),
        group_starts=starts_of(np.concatenate([np.diff(part.group_starts) for part in parts])),
        text_scores_N=np.concatenate([part.text_scores_N for part in parts]),
        vectors_VH=np.concatenate([part.vectors_VH for part in parts]),
        inputs_NI=np.concatenate([part.inputs_NI for part in parts]),
    )
