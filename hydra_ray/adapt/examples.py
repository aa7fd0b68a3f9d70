"""What makes the adapter a scorer: its groups are the possible answers to a query. A candidate's id is the answer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.adapt import closed, texts
from hydra_ray.adapt.context import Context, Vectors, make_context
from hydra_ray.config import RunConfig, Task
from hydra_ray.lamp.quality import quality
from hydra_ray.records import (
    VARIANTS,
    Candidate,
    DraftedUser,
    Group,
    ProbedUser,
    ScoredUser,
    User,
    UserExamples,
)
from hydra_ray.retrieve.dense import Encode, indexed_text
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """One user's rows of the users, probes, reranker scores and drafts tables. Key: user.user_id."""

    user: User
    probed: ProbedUser
    scored: ScoredUser
    drafted: DraftedUser


def plain_names(task: Task, config: RunConfig) -> tuple[str, ...]:
    """Names of the plain features of a candidate of this task, in order."""
    if not config.adapter.has_plain_features:
        return ()
    return closed.plain_names(task, config.drafts) if task.is_closed else texts.plain_names(config.drafts)


def adapter_examples(rows: Sequence[Drafted], task: Task, config: RunConfig, encode: Encode) -> Iterator[UserExamples]:
    """Each user's groups: one for each drafted query and each variant of the reranker's choice.

    Args:
        encode: called once, with all texts of all rows.
    """
    distinct = list(dict.fromkeys(text for row in rows for text in _texts(row, task)))
    encoded_NH = encode(distinct)
    vectors = dict(zip(distinct, encoded_NH, strict=True))
    for row in rows:
        groups: list[Group] = []
        for ranked, contexts in _contexts(row, config, vectors):
            for variant, context in contexts:
                group = _group(row.user, ranked, variant, context, task, config, vectors)
                if group.candidates:
                    groups.append(group)
        yield UserExamples(
            user_id=row.user.user_id,
            is_new=row.user.is_new,
            fold=row.user.fold,
            history=_encoded_history(row.user, vectors, encoded_NH.shape[1]),
            groups=tuple(groups),
        )


def _contexts(
    row: Drafted, config: RunConfig, vectors: Vectors
) -> Iterator[tuple[RankedQuery, list[tuple[str, Context]]]]:
    """Every drafted query with its variants: a pseudo-query has only the user's own."""
    ranked_queries = {ranked.query.query_id: ranked for ranked in restore_queries(row.user, row.probed)}
    probed = {query.query_id: query for query in row.probed.queries}
    scores = {group.query_id: group for group in row.scored.groups}
    for drafted in row.drafted.queries:
        ranked = ranked_queries[drafted.query_id]
        variants = VARIANTS if row.user.is_evaluated() and not ranked.is_pseudo else VARIANTS[:1]
        query_id = drafted.query_id
        yield (
            ranked,
            [
                (
                    variant,
                    make_context(
                        ranked, probed[query_id], scores.get(query_id), drafted, variant, config.drafts, vectors
                    ),
                )
                for variant in variants
            ],
        )


def _group(
    user: User,
    ranked: RankedQuery,
    variant: str,
    context: Context,
    task: Task,
    config: RunConfig,
    vectors: Vectors,
) -> Group:
    answers = _answers(context, task, config)
    if not config.adapter.has_plain_features:
        plain_NP = np.zeros((len(answers), 0))
    elif task.is_closed:
        labels = closed.closed_features(context, task, config.drafts, vectors)
        plain_NP = labels[[task.labels.index(answer) for answer in answers]]
    else:
        plain_NP = texts.text_features(answers, context, config.drafts, vectors)
    target = ranked.query.target if ranked.may_learn_from(user) else None
    return Group(
        group_id=f"{ranked.query.query_id}/{variant}",
        query_id=ranked.query.query_id,
        variant=variant,
        is_pseudo=ranked.is_pseudo,
        query=ranked.query.input,
        candidates=tuple(
            Candidate(
                candidate_id=text,
                text=task.option_text(context.query, text) if task.is_closed else text,
                plain=tuple(plain),
                quality=None if target is None else quality(task, text, target),
            )
            for text, plain in zip(answers, plain_NP.tolist(), strict=True)
        ),
    )


def _answers(context: Context, task: Task, config: RunConfig) -> list[str]:
    if task.is_closed and config.drafts.candidates == "all":
        return list(task.labels)
    return texts.text_drafts(context, config.drafts)


def _encoded_history(user: User, vectors: Vectors, width: int) -> tuple[float, ...]:
    """Mean vectors of the inputs and of the outputs, one after the other; zeros without a history."""
    if not user.history:
        return (0.0,) * (2 * width)
    inputs = np.mean([vectors[indexed_text(record)] for record in user.history], axis=0)
    outputs = np.mean([vectors[record.output] for record in user.history], axis=0)
    return tuple(np.concatenate([inputs, outputs]).tolist())


def _texts(row: Drafted, task: Task) -> Iterable[str]:
    """Everything of one user that is compared."""
    for record in row.user.history:
        yield indexed_text(record)
        yield record.output
    for ranked in restore_queries(row.user, row.probed):
        yield ranked.query.input
        yield from (task.option_text(ranked.query.input, label) for label in task.labels)
    for drafted in row.drafted.queries:
        yield from (draft.answer.value for draft in drafted.drafts if draft.answer.value is not None)
    for query in row.probed.queries:
        yield from (probe.answer.value for probe in query.probes if probe.answer.value is not None)
