"""Context of one query, from which its candidates' features are computed: history, similar records, drafts.

Shape suffixes: N eligible records, H the encoder's width, L labels.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from hydra_ray.adapt.label_model import LabelledText
from hydra_ray.adapt.prompting import GREEDY, RERANKED
from hydra_ray.config import DraftsConfig
from hydra_ray.retrieve.dense import Floats, Vectors, nearness
from hydra_ray.retrieve.ranking import RankedQuery
from hydra_ray.rows import Answer, DraftedQuery, ProbedQuery, Record, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Context of one query in one variant of the reranker's selection."""

    query: str
    history: tuple[Record, ...]
    """Records that the query may use (eligible records)."""
    near_N: Floats
    """Weight of each eligible record by the similarity of its input to the query; they sum to 1."""
    retrieved: tuple[Record, ...]
    """Retrieved records, best first."""
    retrieved_weights: Floats
    """Weights of the retrieved records by the retriever's scores; they sum to 1."""
    reranker_weights: Floats
    """Weights of the retrieved records by the reranker's scores in this variant; they sum to 1."""
    probes: tuple[Answer, ...]
    """Answers to the one-record prompts, one for each retrieved record."""
    greedy: Mapping[str, Answer]
    """Parsed greedy answers by the prompt's name; "reranked" is this variant's."""
    samples: tuple[str, ...]
    """Parsed samples, prompt after prompt in the order they were drawn."""
    labelled: LabelledText | None
    """Label log probabilities of the query by the label model; None where histories have no labels."""
    own_gain_L: Floats | None = None
    """What the own head whose answer this variant is adds to the label log probabilities; None where it counts not."""

    def votes(self) -> Counter[str]:
        """Return the number of samples with each answer."""
        return Counter(self.samples)


def make_context(
    ranked: RankedQuery,
    probed: ProbedQuery,
    scores: ScoredGroup | None,
    drafted: DraftedQuery,
    variant: str,
    config: DraftsConfig,
    vectors: Vectors,
    labelled: LabelledText | None,
    own_gain_L: Floats | None = None,
) -> Context:
    """Build the context of a drafted query.

    Args:
        scores: the reranker's scores; None where no record could be retrieved.
        variant: one of VARIANTS.
        labelled: label log probabilities of the query; None where histories have no labels.
        own_gain_L: what the variant's own head adds to them, fitted to all records; None where it counts not.
    """
    retrieved = tuple(ranked.records(each.record_id for each in ranked.retrieved))
    by_record = (
        {each.candidate_id: float(getattr(each, _scores_of(variant))) for each in scores.candidates} if scores else {}
    )
    answers = {probe.record_id: probe.answer for probe in probed.probes}
    return Context(
        query=ranked.query.input,
        history=ranked.eligible,
        near_N=nearness(ranked.query.input, ranked.eligible, vectors),
        retrieved=retrieved,
        retrieved_weights=shares(np.array([max(each.score, 0.0) + 1e-6 for each in ranked.retrieved])),
        reranker_weights=_weights(np.array([by_record.get(record.record_id, 0.0) for record in retrieved])),
        probes=tuple(answers[record.record_id] for record in retrieved),
        greedy=greedy_answers(drafted, variant),
        samples=tuple(
            answer for name in config.sampled_prompts for answer in sampled_answers(drafted, _named(name, variant))
        ),
        labelled=labelled,
        own_gain_L=own_gain_L,
    )


def _named(prompt: str, variant: str) -> str:
    return _prompt_of(variant) if prompt == "reranked" else prompt


def greedy_answers(drafted: DraftedQuery, variant: str) -> dict[str, Answer]:
    """Return the parsed greedy answers by the prompt's name; "reranked" is the variant's."""
    found = {
        draft.prompt: draft.answer
        for draft in drafted.drafts
        if draft.temperature == GREEDY and draft.answer.value is not None
    }
    own = found.get(_prompt_of(variant))
    others = {name: answer for name, answer in found.items() if name not in RERANKED}
    return {**others, "reranked": own} if own else others


def sampled_answers(drafted: DraftedQuery, prompt: str) -> list[str]:
    """Return the parsed samples of one prompt, in the order they were drawn."""
    return [
        draft.answer.value
        for draft in drafted.drafts
        if draft.prompt == prompt and draft.temperature != GREEDY and draft.answer.value is not None
    ]


def shares(values: Floats) -> Floats:
    """Return non-negative values divided by their sum; zeros if all are 0."""
    return values / max(values.sum(), 1e-9)


def _weights(scores: Floats) -> Floats:
    """Return the softmax of the scores; empty without scores."""
    return softmax(scores) if len(scores) else scores


def _prompt_of(variant: str) -> str:
    """Return the prompt that a variant uses as "reranked"; without a reranker the retriever's."""
    return "rag_k" if variant == "retrieved" else variant


def _scores_of(variant: str) -> str:
    return "shared" if variant == "retrieved" else variant
