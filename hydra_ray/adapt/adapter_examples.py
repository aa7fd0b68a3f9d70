"""Examples of the adapter: a group is the possible answers to a query. A candidate's id is the answer.

Shape suffixes: N texts, H the encoder's width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from hydra_ray.adapt import draft_features, label_features
from hydra_ray.adapt.context import Context, make_context
from hydra_ray.adapt.label_model import LabelModel
from hydra_ray.adapt.own_labels import needs_own_heads, own_gain
from hydra_ray.adapt.pool import Pool, cuts, pool_of, usual_words
from hydra_ray.config import DraftsConfig, RunConfig, Task
from hydra_ray.lamp.quality import quality
from hydra_ray.plugins import call_plugin, checked_numbers
from hydra_ray.retrieve.dense import Encode, Floats, Vectors, indexed_text
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import (
    VARIANTS,
    Candidate,
    DraftedUser,
    Group,
    Judgement,
    ProbedUser,
    ScoredUser,
    User,
    UserExamples,
    UserLabelLogs,
)

FEATURES = "adapter.plain_features"
"""Name of the setting of features of other packages."""
_LEAD = 0.15
"""Lead of the best draft of a user without drafts that the metric tells apart: about that of LaMP-4's and LaMP-5's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """One user's rows of the users, probes, reranker scores and drafts tables. Key: user.user_id."""

    user: User
    probed: ProbedUser
    scored: ScoredUser
    drafted: DraftedUser
    labels: UserLabelLogs | None = None
    """Row of the labels table; None where own heads fitted to all records do not count."""
    judgements: tuple[Judgement, ...] = ()
    """What the user said of drafts of earlier queries."""


def handcrafted_names(task: Task, config: RunConfig) -> tuple[str, ...]:
    """Return the names of the handcrafted features of a candidate of this task, in order."""
    if not config.adapter.has_plain_features:
        return ()
    if not task.is_closed:
        return (*draft_features.handcrafted_names(config.drafts), *config.adapter.plain_features)
    names = label_features.handcrafted_names(
        task,
        config.drafts,
        has_own_labels=config.adapter.has_own_labels,
        has_own_heads=needs_own_heads(task, config),
    )
    first = len(names) - label_features.num_prefitted(names)
    return (*names[:first], *config.adapter.plain_features, *names[first:])


def adapter_examples(
    rows: Sequence[Drafted],
    task: Task,
    config: RunConfig,
    encode: Encode,
    label_model: LabelModel | None,
    variants: Sequence[str] = VARIANTS,
) -> Iterator[UserExamples]:
    """Yield each user's groups: one for each drafted query and each variant of the reranker's selection, and one for
    each judgement.

    Args:
        encode: encoder, called once with all texts of all rows.
        label_model: model of the queries' labels; None where histories have no labels.
        variants: those of VARIANTS that an evaluated query has.
    """
    distinct = list(dict.fromkeys(text for row in rows for text in _texts(row, task)))
    encoded_NH = encode(distinct)
    vectors = dict(zip(distinct, encoded_NH, strict=True))
    names = handcrafted_names(task, config)
    for row in rows:
        ranked = {each.query.query_id: each for each in restore_queries(row.user, row.probed)}
        drafted = tuple(_groups(row, ranked, task, config, vectors, label_model, variants))
        groups = (*drafted, *_judged_groups(row.judgements, drafted, names))
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
    evaluated_variants: Sequence[str],
) -> Iterator[Group]:
    """Yield the candidates of every drafted query in each of its variants; a pseudo-query has only the personal one."""
    inputs = [ranked.query.input for ranked in ranked_queries.values()]
    own = label_model.labelled(task, row.user, inputs, vectors) if label_model else None
    logs = {} if row.labels is None else {each.query_id: each for each in row.labels.queries}
    probed = {query.query_id: query for query in row.probed.queries}
    scores = {group.query_id: group for group in row.scored.groups}
    for drafted in row.drafted.queries:
        query_id, ranked = drafted.query_id, ranked_queries[drafted.query_id]
        target = ranked.query.target if _may_learn(row.user, ranked, task, config) else None
        labelled = own.labelled(ranked.query.input, ranked.eligible) if own else None
        variants = evaluated_variants if row.user.is_evaluated() and not ranked.is_pseudo else VARIANTS[:1]
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


def _judged_groups(judgements: Sequence[Judgement], drafted: Sequence[Group], names: Sequence[str]) -> Iterator[Group]:
    """Yield the drafts of each judgement as those of a pseudo-query.

    The better drafts of a preference are as much better than the others as the best draft of a pseudo-query is by the
    task's metric: whoever prefers a draft weighs as much as the metric does. A feature that a draft did not have then
    is 0, its mean over the drafts of a query.

    Args:
        names: names of the handcrafted features, in order.
    """
    lead = _usual_lead(drafted) if judgements else 0.0
    for each in judgements:
        places = {name: place for place, name in enumerate(each.features)}
        yield Group(
            group_id=f"{each.judgement_id}/{VARIANTS[0]}",
            query_id=each.judgement_id,
            variant=VARIANTS[0],
            is_pseudo=True,
            query=each.input,
            candidates=tuple(
                Candidate(
                    candidate_id=draft.text,
                    text=draft.text,
                    plain=tuple(draft.plain[places[name]] if name in places else 0.0 for name in names),
                    quality=draft.quality * lead if each.is_preference else draft.quality,
                )
                for draft in each.drafts
            ),
        )


def _usual_lead(groups: Sequence[Group]) -> float:
    """Return by how much the best draft of a user's pseudo-query is better than the mean of the others, on average."""
    leads: list[float] = []
    for group in groups:
        if group.is_pseudo and len(group.candidates) > 1:
            best, *others = sorted((each.quality or 0.0 for each in group.candidates), reverse=True)
            leads.append(best - fmean(others))
    return fmean(leads) if any(leads) else _LEAD


def _may_learn(user: User, ranked: RankedQuery, task: Task, config: RunConfig) -> bool:
    """Return whether a query's target may be used. Where it becomes a candidate, no user's evaluated query may have it,
    in whatever fold."""
    is_hidden = _is_candidate(task, config) and user.is_evaluated() and not ranked.is_pseudo
    return ranked.may_learn_from(user) and not is_hidden


def _is_candidate(task: Task, config: RunConfig) -> bool:
    """Return whether targets that may be used stand among the candidates."""
    return config.adapter.labels == "published" and not task.is_closed


def _candidates(
    context: Context, target: str | None, task: Task, config: RunConfig, vectors: Vectors
) -> Iterator[Candidate]:
    pool = _pool(context, task, config.drafts)
    if pool and target is not None and _is_candidate(task, config):
        pool = {**pool, target: pool.get(target, ())}
    for text, plain in zip(pool, _plain_features(pool, context, task, config, vectors).tolist(), strict=True):
        yield Candidate(
            candidate_id=text,
            text=task.option_text(context.query, text) if task.is_closed else text,
            plain=tuple(plain),
            quality=None if target is None else _label(text, target, task, config),
        )


def _label(text: str, target: str, task: Task, config: RunConfig) -> float:
    if config.adapter.labels == "quality":
        return quality(task, text, target)
    return float(quality(task, text, target) == 1 if task.is_closed else text == target)


def _pool(context: Context, task: Task, config: DraftsConfig) -> Pool:
    if task.is_closed and config.candidates == "all":
        return {label: (label,) for label in task.labels}
    # A truncated label is no label.
    return pool_of(context, config, has_cuts=config.has_cuts and not task.is_closed)


def _plain_features(pool: Pool, context: Context, task: Task, config: RunConfig, vectors: Vectors) -> Floats:
    """Return one row of features for each candidate, in the order of `handcrafted_names`."""
    if not pool or not config.adapter.has_plain_features:
        return np.zeros((len(pool), 0))
    own = _own_features(pool, context, config)
    if task.is_closed:
        labels = label_features.handcrafted_features(
            context,
            task,
            config.drafts,
            vectors,
            has_own_labels=config.adapter.has_own_labels,
            has_own_heads=needs_own_heads(task, config),
        )
        features = labels[[task.labels.index(answer) for answer in pool]]
        first = features.shape[1] - label_features.num_prefitted(handcrafted_names(task, config))
        return np.hstack([features[:, :first], own, features[:, first:]])
    from sklearn.preprocessing import scale

    # Standardized within the query: the quality of a draft is relative to the others.
    return scale(np.hstack([draft_features.handcrafted_features(pool, context, config.drafts, vectors), own]))


def _own_features(pool: Pool, context: Context, config: RunConfig) -> Floats:
    """Return one row of features of other packages for each candidate, in the order of the setting."""
    candidates = tuple(pool)
    columns = [
        checked_numbers(name, FEATURES, call_plugin(name, FEATURES, context, candidates), len(candidates), "candidate")
        for name in config.adapter.plain_features
    ]
    return np.array(columns).reshape(len(columns), len(candidates)).T


def _encoded_histories(
    user: User, ranked_queries: Mapping[str, RankedQuery], groups: Sequence[Group], vectors: Vectors, width: int
) -> Iterator[float]:
    """Yield for each group the mean vectors of the inputs and of the outputs of its query's eligible records,
    concatenated; zeros without records. The record that a pseudo-query was made of is not eligible, nor one that has a
    judgement's id: it would reveal the answer.
    """
    encoded = {
        record.record_id: np.concatenate([vectors[indexed_text(record)], vectors[record.output]])
        for record in user.history
    }
    means: dict[str, list[float]] = {}
    for query_id in dict.fromkeys(group.query_id for group in groups):
        ranked = ranked_queries.get(query_id)
        eligible = ranked.eligible if ranked else [each for each in user.history if each.record_id != query_id]
        rows = [encoded[record.record_id] for record in eligible]
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
