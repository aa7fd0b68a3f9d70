"""Examples of the reranker: a group is the records retrieved for a query, with the qualities of their probes."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hydra_ray.config import RunConfig, Task
from hydra_ray.lamp.word_overlap import coverage, overlap
from hydra_ray.retrieve.dense import indexed_text
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import Candidate, Group, ProbedQuery, ProbedUser, Record, User, UserExamples

_PAIR_NAMES = (
    "retriever_score",  # relative to the group's best
    "retriever_reciprocal_rank",
    "query_overlap",  # F1 of the words of the query and of the record's indexed text
    "output_coverage",  # fraction of the output's words that the query contains
    "history_share",  # fraction of the user's outputs
    "retrieved_agreement",  # fraction of the other retrieved records with this output
    "log_length",
)


def handcrafted_names(task: Task, config: RunConfig) -> tuple[str, ...]:
    """Return the names of the handcrafted features of a (query, record) pair, in order."""
    if not config.reranker.has_plain_features:
        return ()
    return _PAIR_NAMES + tuple(f"output={label}" for label in task.labels)


def reranker_examples(user: User, probed: ProbedUser, task: Task, config: RunConfig) -> UserExamples:
    """Return the user's groups: every query with at least one retrieved record.

    A record whose probe failed is left out where qualities are known: a failure has no quality. In a cross-fitted run
    only pseudo-queries are trained on: the drafts that the reranker leads to are shared by all folds, so no fold's
    targets may have had a part in them. (Tasks without pseudo-queries have nothing else to train on.)
    """
    groups = tuple(
        group
        for ranked, each in zip(restore_queries(user, probed), probed.queries, strict=True)
        if (group := _group(user, ranked, each, task, config)).candidates
    )
    return UserExamples(user_id=user.user_id, is_new=user.is_new, fold=user.fold, groups=groups)


def select_records(scores: dict[str, float], num: int) -> list[str]:
    """Return the ids of the `num` best records, best first; ties are broken by id."""
    return sorted(scores, key=lambda record_id: (-scores[record_id], record_id))[:num]


def _group(user: User, ranked: RankedQuery, probed: ProbedQuery, task: Task, config: RunConfig) -> Group:
    may_learn = ranked.may_learn_from(user) and (ranked.is_pseudo or user.fold is None or not task.has_pseudo_queries)
    qualities = {probe.record_id: probe.quality for probe in probed.probes} if may_learn else {}
    candidates = _candidates(ranked, qualities, task)
    if not config.reranker.has_plain_features:
        candidates = (replace(candidate, plain=()) for candidate in candidates)
    if may_learn:
        candidates = (candidate for candidate in candidates if candidate.quality is not None)
    return Group(
        group_id=ranked.query.query_id,
        query_id=ranked.query.query_id,
        variant="personal",
        is_pseudo=ranked.is_pseudo,
        query=ranked.query.input,
        candidates=tuple(candidates),
    )


def _candidates(ranked: RankedQuery, qualities: dict[str, float | None], task: Task) -> Iterator[Candidate]:
    records = ranked.records(retrieved.record_id for retrieved in ranked.retrieved)
    outputs_history = Counter(record.output for record in ranked.eligible)
    outputs_retrieved = Counter(record.output for record in records)
    best = max((retrieved.score for retrieved in ranked.retrieved), default=0.0)
    for position, (record, retrieved) in enumerate(zip(records, ranked.retrieved, strict=True)):
        yield Candidate(
            candidate_id=record.record_id,
            text=_text(record),
            plain=(
                retrieved.score / best if best > 0 else 0.0,
                1 / (position + 1),
                overlap(ranked.query.input, indexed_text(record)),
                coverage(ranked.query.input, record.output),
                outputs_history[record.output] / len(ranked.eligible),
                (outputs_retrieved[record.output] - 1) / max(len(records) - 1, 1),
                math.log1p(len(record.input.split())),
                *(float(record.output == label) for label in task.labels),
            ),
            quality=qualities.get(record.record_id),
        )


def _text(record: Record) -> str:
    # The output comes first, so that truncation removes the end of the input.
    return f"{record.output}: {record.input}" if record.input else record.output
