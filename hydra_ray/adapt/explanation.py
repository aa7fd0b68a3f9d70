"""Explanation of the answer to one query: records selected by retriever and heads, and each draft's scores."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hydra_ray.adapt.answers import CHOOSERS, Scored
from hydra_ray.adapt.pool import cuts, usual_words
from hydra_ray.adapt.prompting import GREEDY
from hydra_ray.config import Task
from hydra_ray.lamp.quality import quality
from hydra_ray.rerank.reranker_examples import select_records
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import DraftedQuery, ProbedQuery, ScoredGroup

RETRIEVER = "retriever"
PROBE, SAMPLED, CUT = "probe", " sampled", " cut short"
OWN, SHARED = "personal", "shared"
"""Heads whose choices are explained."""
_SYSTEMS = {OWN: "hydra_personal", SHARED: "hydra_shared"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRecord:
    """Retrieved record. Key: record_id."""

    record_id: str
    input: str
    output: str
    places: Mapping[str, int]
    """Ranks, from 1: by the retriever, and by the own and the shared head of the reranker if they scored it."""
    prompts: tuple[str, ...]
    """Names of the prompts that contained it (see `hydra_ray.adapt.prompting`)."""
    probe: str | None
    """Generator's answer with this record as the only example; None if it failed."""
    probe_quality: float | None
    """None if the answer failed or the target is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDraft:
    """Distinct answer that the generator proposed or the adapter scored. Key: value."""

    value: str
    proposals: Mapping[str, int]
    """Number of times that each prompt gave it: by the prompt's name, with SAMPLED for its samples, or PROBE for the
    one-record prompts; and with CUT if it is only the beginning of the answer.
    """
    scores: Mapping[str, float]
    """Scores by the own and the shared head of the adapter; empty if it was no candidate."""
    quality: float | None
    """None if the target is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Records and drafts behind the answer to a query. Key: (user_id, query_id)."""

    records: tuple[ShownRecord, ...]
    """Records in the retriever's order."""
    drafts: tuple[ShownDraft, ...]
    """Drafts by descending score of the own head; those that it did not score last."""


def explain_query(row: Scored, query_id: str, task: Task) -> Explanation:
    """Return the explanation of one of a user's own queries."""
    ranked = next(each for each in restore_queries(row.user, row.probed) if each.query.query_id == query_id)
    probed = next(each for each in row.probed.queries if each.query_id == query_id)
    drafted = next(each for each in row.drafted.queries if each.query_id == query_id)
    chosen = next((group for group in row.reranker.groups if group.query_id == query_id), None)
    candidates = {group.variant: group for group in row.adapter.groups if group.query_id == query_id}
    target = ranked.query.target

    def quality_of(value: str | None) -> float | None:
        return None if value is None or target is None else quality(task, value, target)

    return Explanation(
        records=tuple(_records(ranked, probed, drafted, chosen, quality_of)),
        drafts=tuple(_drafts(task, ranked, probed, drafted, candidates, quality_of)),
    )


def _records(
    ranked: RankedQuery,
    probed: ProbedQuery,
    drafted: DraftedQuery,
    scores: ScoredGroup | None,
    quality_of: Callable[[str | None], float | None],
) -> list[ShownRecord]:
    retrieved = [each.record_id for each in ranked.retrieved]
    orders = {RETRIEVER: retrieved}
    if scores is not None:
        for head in (OWN, SHARED):
            by_id = {each.candidate_id: float(getattr(each, head)) for each in scores.candidates}
            orders[head] = list(select_records(by_id, len(by_id)))
    answers = {probe.record_id: probe.answer.value for probe in probed.probes}
    return [
        ShownRecord(
            record_id=record.record_id,
            input=record.input,
            output=record.output,
            places={name: order.index(record.record_id) + 1 for name, order in orders.items()},
            prompts=tuple(each.prompt for each in drafted.prompts if record.record_id in each.record_ids),
            probe=answers.get(record.record_id),
            probe_quality=quality_of(answers.get(record.record_id)),
        )
        for record in ranked.records(retrieved)
    ]


def _drafts(
    task: Task,
    ranked: RankedQuery,
    probed: ProbedQuery,
    drafted: DraftedQuery,
    candidates: Mapping[str, ScoredGroup],
    quality_of: Callable[[str | None], float | None],
) -> list[ShownDraft]:
    scores: dict[str, dict[str, float]] = {}
    for name, system in _SYSTEMS.items():
        variant, head = CHOOSERS[system]
        for each in candidates[variant].candidates if variant in candidates else ():
            scores.setdefault(each.candidate_id, {})[name] = float(getattr(each, head))
    proposals: dict[str, Counter[str]] = {}
    usual = usual_words(ranked.eligible)
    for name, value in _written(probed, drafted):
        proposals.setdefault(value, Counter())[name] += 1
        for cut in () if task.is_closed else cuts(value, usual):
            if cut in scores:
                proposals.setdefault(cut, Counter())[name + CUT] += 1
    drafts = [
        ShownDraft(
            value=value,
            proposals=dict(proposals.get(value, {})),
            scores=scores.get(value, {}),
            quality=quality_of(value),
        )
        for value in dict.fromkeys([*scores, *proposals])
    ]
    return sorted(drafts, key=lambda draft: -draft.scores.get(OWN, float("-inf")))


def _written(probed: ProbedQuery, drafted: DraftedQuery) -> Iterator[tuple[str, str]]:
    """Yield every parsed answer of the generator, with the name that it is counted under."""
    for draft in drafted.drafts:
        if draft.answer.value is not None:
            yield draft.prompt if draft.temperature == GREEDY else draft.prompt + SAMPLED, draft.answer.value
    for probe in probed.probes:
        if probe.answer.value is not None:
            yield PROBE, probe.answer.value
