"""Examples of the reranker: a group is the records retrieved for a query, with the qualities of their probes."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from hydra_ray.config import RunConfig, Task
from hydra_ray.lamp.rouge import rouge
from hydra_ray.lamp.word_overlap import coverage, overlap
from hydra_ray.plugins import call_plugin, checked_numbers
from hydra_ray.retrieve.dense import indexed_text
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import Candidate, Group, ProbedQuery, ProbedUser, Record, User, UserExamples

Labels = Mapping[str, Mapping[str, float | None]]
"""What is learned of records, by the query's and the record's id; None of a failed probe."""
_ROUGES = ("rouge1", "rougeL")
_SAME = 1e-9
"""Difference of ROUGE that is none."""
FEATURES = "reranker.plain_features"
"""Name of the setting of features of other packages."""
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
    return (*_PAIR_NAMES, *(f"output={label}" for label in task.labels), *config.reranker.plain_features)


def reranker_examples(user: User, probed: ProbedUser, task: Task, config: RunConfig) -> UserExamples:
    """Return the user's groups: every query with at least one retrieved record.

    A record whose probe failed is left out where qualities are known: a failure has no quality. In a cross-fitted run
    only pseudo-queries are trained on: the drafts that the reranker leads to are shared by all folds, so no fold's
    targets may have had a part in them. (Tasks without pseudo-queries have nothing else to train on.)
    """
    queries = list(zip(restore_queries(user, probed), probed.queries, strict=True))
    learned = [(ranked, each) for ranked, each in queries if _may_learn(user, ranked, task)]
    labels = _published_labels(learned, task) if config.reranker.labels == "published" else _qualities(learned)
    groups = tuple(
        group
        for ranked, each in queries
        if (group := _group(ranked, labels.get(each.query_id), task, config)).candidates
    )
    return UserExamples(user_id=user.user_id, is_new=user.is_new, fold=user.fold, groups=groups)


def select_records(scores: dict[str, float], num: int) -> list[str]:
    """Return the ids of the `num` best records, best first; ties are broken by id."""
    return sorted(scores, key=lambda record_id: (-scores[record_id], record_id))[:num]


def _may_learn(user: User, ranked: RankedQuery, task: Task) -> bool:
    return ranked.may_learn_from(user) and (ranked.is_pseudo or user.fold is None or not task.has_pseudo_queries)


def _qualities(learned: Iterable[tuple[RankedQuery, ProbedQuery]]) -> Labels:
    return {each.query_id: {probe.record_id: probe.quality for probe in each.probes} for _, each in learned}


def _published_labels(learned: Sequence[tuple[RankedQuery, ProbedQuery]], task: Task) -> Labels:
    """Return 1 for records whose probe is right, in text tasks for those whose probe has a ROUGE above the mean of all
    of the user's probes; 0 for others, and none for failed probes."""
    known = [(ranked, probe) for ranked, each in learned for probe in each.probes if probe.quality is not None]
    if task.is_closed:
        are_good = [probe.quality == 1 for _, probe in known]
    else:
        scores = [fmean(rouge(_ROUGES)(ranked.query.target or "", probe.answer.value or "")) for ranked, probe in known]
        are_good = [score > fmean(scores) + _SAME for score in scores]
    found: dict[str, dict[str, float | None]] = {each.query_id: {} for _, each in learned}
    for (ranked, probe), is_good in zip(known, are_good, strict=True):
        found[ranked.query.query_id][probe.record_id] = float(is_good)
    return found


def _group(ranked: RankedQuery, labels: Mapping[str, float | None] | None, task: Task, config: RunConfig) -> Group:
    """Return the group of a query.

    Args:
        labels: what is learned of each record; None where nothing may be.
    """
    candidates = _candidates(ranked, labels or {}, task, config)
    if not config.reranker.has_plain_features:
        candidates = (replace(candidate, plain=()) for candidate in candidates)
    if labels is not None:
        candidates = (candidate for candidate in candidates if candidate.quality is not None)
    return Group(
        group_id=ranked.query.query_id,
        query_id=ranked.query.query_id,
        variant="personal",
        is_pseudo=ranked.is_pseudo,
        query=ranked.query.input,
        candidates=tuple(candidates),
    )


def _candidates(
    ranked: RankedQuery, labels: Mapping[str, float | None], task: Task, config: RunConfig
) -> Iterator[Candidate]:
    records = ranked.records(retrieved.record_id for retrieved in ranked.retrieved)
    own = [
        checked_numbers(name, FEATURES, call_plugin(name, FEATURES, ranked, records), len(records), "record").tolist()
        for name in config.reranker.plain_features
    ]
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
                *(values[position] for values in own),
            ),
            quality=labels.get(record.record_id),
        )


def _text(record: Record) -> str:
    # The output comes first, so that truncation removes the end of the input.
    return f"{record.output}: {record.input}" if record.input else record.output
