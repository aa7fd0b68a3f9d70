"""What the candidates of one query are compared with: the user's history, the records near the query, the drafts.

Letters in shape suffixes: N eligible records, H the encoder's width, L labels.
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
    """One query as its candidates see it, in one variant of the reranker's choice."""

    query: str
    history: tuple[Record, ...]
    """The records that the query may look at."""
    near_N: Floats
    """Weight of each of these records by how near its input is to the query, for the encoder; they sum to 1."""
    retrieved: tuple[Record, ...]
    """Best first."""
    retrieved_weights: Floats
    """By the retriever's scores; they sum to 1."""
    reranker_weights: Floats
    """Of the retrieved records, by the reranker's scores in this variant; they sum to 1."""
    probes: tuple[Answer, ...]
    """One for each retrieved record."""
    greedy: Mapping[str, Answer]
    """The understood greedy answers by the prompt's name; "reranked" is this variant's."""
    samples: tuple[str, ...]
    """The understood samples, prompt after prompt in the order they were drawn."""
    labelled: LabelledText | None
    """The query's labels by what records teach; None where histories have no labels."""

    def votes(self) -> Counter[str]:
        """How many samples gave each answer."""
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
) -> Context:
    """What the candidates of a drafted query are compared with.

    Args:
        scores: of the reranker; None where no record could be retrieved.
        variant: one of VARIANTS.
        labelled: the query; None where histories have no labels.
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
    )


def _named(prompt: str, variant: str) -> str:
    return _prompt_of(variant) if prompt == "reranked" else prompt


def greedy_answers(drafted: DraftedQuery, variant: str) -> dict[str, Answer]:
    """The understood greedy answers by the prompt's name; "reranked" is the variant's."""
    found = {
        draft.prompt: draft.answer
        for draft in drafted.drafts
        if draft.temperature == GREEDY and draft.answer.value is not None
    }
    own = found.get(_prompt_of(variant))
    others = {name: answer for name, answer in found.items() if name not in RERANKED}
    return {**others, "reranked": own} if own else others


def sampled_answers(drafted: DraftedQuery, prompt: str) -> list[str]:
    """The understood samples of one prompt, in the order they were drawn."""
    return [
        draft.answer.value
        for draft in drafted.drafts
        if draft.prompt == prompt and draft.temperature != GREEDY and draft.answer.value is not None
    ]


def shares(values: Floats) -> Floats:
    """Values of at least 0, divided by their sum; zeros where all are 0."""
    return values / max(values.sum(), 1e-9)


def _weights(scores: Floats) -> Floats:
    """Weights that sum to 1, or none where there is no score."""
    return softmax(scores) if len(scores) else scores


def _prompt_of(variant: str) -> str:
    """The prompt whose drafts a variant has in the reranker's place: the retriever's, where there is no reranker."""
    return "rag_k" if variant == "retrieved" else variant


def _scores_of(variant: str) -> str:
    return "shared" if variant == "retrieved" else variant
