"""Examples of the adapter: a group is the possible answers to a query. A candidate's id is the answer.

Shape suffixes: N texts, H the encoder's width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.adapt import draft_features, label_features
from hydra_ray.adapt.context import Context, make_context
from hydra_ray.adapt.label_model import LabelModel
from hydra_ray.adapt.own_labels import needs_own_heads, own_gain
from hydra_ray.adapt.pool import Pool, cuts, pool_of, usual_words
from hydra_ray.config import DraftsConfig, RunConfig, Task
from hydra_ray.lamp.quality import quality
from hydra_ray.retrieve.dense import Encode, Floats, Vectors, indexed_text
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import (
    VARIANTS,
    Candidate,
    DraftedUser,
    Group,
    ProbedUser,
    ScoredUser,
    User,
    UserExamples,
    UserLabelLogs,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """One user's rows of the users, probes, reranker scores and drafts tables. Key: user.user_id."""

    user: User
    probed: ProbedUser
    scored: ScoredUser
    drafted: DraftedUser
    labels: UserLabelLogs | None = None
    """Row of the labels table; None where own heads fitted to all records do not count."""


def handcrafted_names(task: Task, config: RunConfig) -> tuple[str, ...]:
    """Return the names of the handcrafted features of a candidate of this task, in order."""
    if not config.adapter.has_plain_features:
        return ()
    if not task.is_closed:
        return draft_features.handcrafted_names(config.drafts)
    return label_features.handcrafted_names(
        task,
        config.drafts,
        has_own_labels=config.adapter.has_own_labels,
        has_own_heads=needs_own_heads(task, config),
    )


def adapter_examples(
    rows: Sequence[Drafted], task: Task, config: RunConfig, encode: Encode, label_model: LabelModel | None
) -> Iterator[UserExamples]:
    """Yield each user's groups: one for each drafted query and each variant of the reranker's selection.

    Args:
        encode: encoder, called once with all texts of all rows.
        label_model: model of the queries' labels; None where histories have no labels.
    """
    distinct = list(dict.fromkeys(text for row in rows for text in _texts(row, task)))
    encoded_NH = encode(distinct)
    vectors = dict(zip(distinct, encoded_NH, strict=True))
    for row in rows:
        ranked = {each.query.query_id: each for each in restore_queries(row.user, row.probed)}
        groups = tuple(_groups(row, ranked, task, config, vectors, label_model))
        yield UserExamples(
            user_id=row.user.user_id,
            is_new=row.user.is_new,
            fold=row.user.fold,
            history=tuple(_encoded_histories(row.user, ranked, groups, vectors, encoded_NH.shape[1])),
            groups=groups,
        )


def _groups(
    row: Drafted,
    ranked_queries: Mapping[str, RankedQuery],
    task: Task,
    config: RunConfig,
    vectors: Vectors,
    label_model: LabelModel | None,
) -> Iterator[Group]:
    """Yield the candidates of every drafted query in each of its variants; a pseudo-query has only the personal one."""
    inputs = [ranked.query.input for ranked in ranked_queries.values()]
    own = label_model.labelled(task, row.user, inputs, vectors) if label_model else None
    logs = {} if row.labels is None else {each.query_id: each for each in row.labels.queries}
    probed = {query.query_id: query for query in row.probed.queries}
    scores = {group.query_id: group for group in row.scored.groups}
    for drafted in row.drafted.queries:
        query_id, ranked = drafted.query_id, ranked_queries[drafted.query_id]
        target = ranked.query.target if ranked.may_learn_from(row.user) else None
        labelled = own.labelled(ranked.query.input, ranked.eligible) if own else None
        variants = VARIANTS if row.user.is_evaluated() and not ranked.is_pseudo else VARIANTS[:1]
        for variant in variants:
            context = make_context(
                ranked,
                probed[query_id],
                scores.get(query_id),
                drafted,
                variant,
                config.drafts,
                vectors,
                labelled,
                own_gain(logs.get(query_id), variant),
            )
            candidates = tuple(_candidates(context, target, task, config, vectors))
            if candidates:
                yield Group(
                    group_id=f"{query_id}/{variant}",
                    query_id=query_id,
                    variant=variant,
                    is_pseudo=ranked.is_pseudo,
                    query=ranked.query.input,
                    candidates=candidates,
                )


def _candidates(
    context: Context, target: str | None, task: Task, config: RunConfig, vectors: Vectors
) -> Iterator[Candidate]:
    pool = _pool(context, task, config.drafts)
    for text, plain in zip(pool, _plain_features(pool, context, task, config, vectors).tolist(), strict=True):
        yield Candidate(
            candidate_id=text,
            text=task.option_text(context.query, text) if task.is_closed else text,
            plain=tuple(plain),
            quality=None if target is None else quality(task, text, target),
        )


def _pool(context: Context, task: Task, config: DraftsConfig) -> Pool:
    if task.is_closed and config.candidates == "all":
        return {label: (label,) for label in task.labels}
    # A truncated label is no label.
    return pool_of(context, config, has_cuts=config.has_cuts and not task.is_closed)


def _plain_features(pool: Pool, context: Context, task: Task, config: RunConfig, vectors: Vectors) -> Floats:
    """Return one row of features for each candidate, in the order of `handcrafted_names`."""
    if not pool or not config.adapter.has_plain_features:
        return np.zeros((len(pool), 0))
    if task.is_closed:
        labels = label_features.handcrafted_features(
            context,
            task,
            config.drafts,
            vectors,
            has_own_labels=config.adapter.has_own_labels,
            has_own_heads=needs_own_heads(task, config),
        )
        return labels[[task.labels.index(answer) for answer in pool]]
    from sklearn.preprocessing import scale

    # Standardized within the query: the quality of a draft is relative to the others.
    return scale(draft_features.handcrafted_features(pool, context, config.drafts, vectors))


def _encoded_histories(
    user: User, ranked_queries: Mapping[str, RankedQuery], groups: Sequence[Group], vectors: Vectors, width: int
) -> Iterator[float]:
    """Yield for each group the mean vectors of the inputs and of the outputs of its query's eligible records,
    concatenated; zeros without records. The record that a pseudo-query was made of is not eligible: it would reveal the
    answer.
    """
    encoded = {
        record.record_id: np.concatenate([vectors[indexed_text(record)], vectors[record.output]])
        for record in user.history
    }
    means: dict[str, list[float]] = {}
    for query_id in dict.fromkeys(group.query_id for group in groups):
        rows = [encoded[record.record_id] for record in ranked_queries[query_id].eligible]
        means[query_id] = np.mean(rows, axis=0).tolist() if rows else [0.0] * (2 * width)
    for group in groups:
        yield from means[group.query_id]


def _texts(row: Drafted, task: Task) -> Iterable[str]:
    """Yield all texts of one user that need a vector."""
    for record in row.user.history:
        yield indexed_text(record)
        yield record.output
    drafted = {query.query_id: query.drafts for query in row.drafted.queries}
    probed = {query.query_id: query.probes for query in row.probed.queries}
    for ranked in restore_queries(row.user, row.probed):
        query_id, usual = ranked.query.query_id, usual_words(ranked.eligible)
        yield ranked.query.input
        yield from (task.option_text(ranked.query.input, label) for label in task.labels)
        for each in () if task.is_closed else (*drafted.get(query_id, ()), *probed[query_id]):
            if each.answer.value is not None:
                yield each.answer.value
                yield from cuts(each.answer.value, usual)
