"""Text tasks: the plain features of the candidates in a query's pool."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hydra_ray.adapt.context import Context, Floats, Vectors
from hydra_ray.adapt.pool import Pool, greedy_drafts, probe_drafts
from hydra_ray.config import DraftsConfig
from hydra_ray.lamp.rouge import rouge_l
from hydra_ray.lamp.words import coverage, overlap, words

_NAMES = (
    "vote_share",  # among the samples
    "probe_share",  # among the answers to one-record prompts
    "consensus",  # mean ROUGE-L with the other drafts, repetitions included
    "consensus_greedy",  # the same with the greedy answers alone
    "consensus_samples",  # the same with the samples alone
    "query_overlap",
    "query_coverage",  # share of the draft's words that the query contains
    "lead_coverage",  # share of the draft's words that the query's first words contain
    "query_cosine",  # for the encoder
    "retrieved_overlap",  # mean overlap with the outputs of the retrieved records
    "near_overlap",  # mean overlap with the user's outputs, weighted by how near their inputs are to the query
    "near_cosine",  # the same by the encoder
    "best_output_cosine",
    "copied_output",  # best overlap with one of the user's outputs: high where an example was copied
    "vocabulary",  # share of the draft's words that the user's outputs contain
    "log_length",
    "length_deviation",  # from the user's mean output length, in log words
    "length_excess",  # the same with its sign
    "repetition",  # share of the draft's words that it says again
    "is_cut",  # the beginning of a draft
    "mean_log_probability",  # of its tokens, where the generator tells it
    "reranker_weight",  # the reranker's weight of the records whose one-record prompts gave it
)
_LEAD_WORDS = 25


def plain_names(config: DraftsConfig) -> tuple[str, ...]:
    """Names of the plain features of a draft, in order."""
    return _NAMES + tuple(f"is_{name}_answer" for name in config.prompts)


def text_features(pool: Pool, context: Context, config: DraftsConfig, vectors: Vectors) -> Floats:
    """Plain features of every candidate, one row each, in the order of `plain_names`."""
    candidates = list(pool)
    greedy, probes = greedy_drafts(context, config), probe_drafts(context, config)
    agreement = _Agreement(candidates, list(dict.fromkeys([*greedy, *probes, *context.samples])))
    agreements = {
        "consensus": agreement.mean([*greedy, *probes, *context.samples]),
        "consensus_greedy": agreement.mean([*greedy, *probes]),
        "consensus_samples": agreement.mean(context.samples),
    }
    rows: list[list[float]] = []
    for place, (text, drafts) in enumerate(pool.items()):
        values = {
            **{name: float(column[place]) for name, column in agreements.items()},
            **_own_features(text, context, vectors),
            **_source_features(text, drafts, context, config),
        }
        rows.append([values[name] for name in plain_names(config)])
    return np.array(rows)


def _own_features(text: str, context: Context, vectors: Vectors) -> dict[str, float]:
    """What a candidate's words say, beside the query and the user's outputs."""
    outputs = [record.output for record in context.history]
    overlaps = np.array([overlap(text, output) for output in outputs])
    cosines = np.array([float(vectors[text] @ vectors[output]) for output in outputs])
    lead = " ".join(words(context.query)[:_LEAD_WORDS])
    length, usual = math.log1p(len(words(text))), _usual_length(context)
    return {
        "query_overlap": overlap(text, context.query),
        "query_coverage": coverage(context.query, text),
        "lead_coverage": coverage(lead, text),
        "query_cosine": float(vectors[text] @ vectors[context.query]),
        "retrieved_overlap": _mean([overlap(text, record.output) for record in context.retrieved]),
        "near_overlap": float(context.near_N @ overlaps) if outputs else 0.0,
        "near_cosine": float(context.near_N @ cosines) if outputs else 0.0,
        "best_output_cosine": float(cosines.max(initial=0.0)),
        "copied_output": float(overlaps.max(initial=0.0)),
        "vocabulary": _mean([float(word in _output_words(context)) for word in words(text)]),
        "log_length": length,
        "length_deviation": 0.0 if usual is None else abs(length - usual),
        "length_excess": 0.0 if usual is None else length - usual,
        "repetition": 1 - len(set(words(text))) / max(len(words(text)), 1),
    }


def _source_features(text: str, drafts: Sequence[str], context: Context, config: DraftsConfig) -> dict[str, float]:
    """Where a candidate comes from: what holds of a draft holds of its beginning too."""
    probes, likelihoods = probe_drafts(context, config), _mean_log_probabilities(context)
    told = [likelihoods[draft] for draft in drafts if draft in likelihoods]
    is_from = {name: context.greedy[name].value in drafts for name in config.prompts if name in context.greedy}
    weights = zip(
        context.probes[: config.num_probes], context.reranker_weights.tolist()[: config.num_probes], strict=True
    )
    return {
        "is_cut": float(text not in drafts),
        "vote_share": sum(sample in drafts for sample in context.samples) / max(len(context.samples), 1),
        "probe_share": sum(probe in drafts for probe in probes) / max(len(probes), 1),
        "reranker_weight": sum(weight for answer, weight in weights if answer.value in drafts),
        "mean_log_probability": _mean(told or list(likelihoods.values())),
        **{f"is_{name}_answer": float(is_from.get(name, False)) for name in config.prompts},
    }


class _Agreement:
    """ROUGE-L of candidates with drafts, each pair computed once."""

    def __init__(self, candidates: Sequence[str], drafts: Sequence[str]):
        self._candidates = candidates
        self._places = {draft: place for place, draft in enumerate(drafts)}
        self._matrix = np.array([[_rouge_l(text, draft) for draft in drafts] for text in candidates])

    def mean(self, others: Sequence[str]) -> Floats:
        """Mean agreement of each candidate with `others`, one occurrence of the candidate itself left out."""
        if not others:
            return np.zeros(len(self._candidates))
        counts = np.zeros(len(self._places))
        for text, number in Counter(others).items():
            counts[self._places[text]] = number
        own = np.array(
            [float(counts[self._places[text]] > 0) if text in self._places else 0.0 for text in self._candidates]
        )
        return (self._matrix @ counts - own) / np.maximum(counts.sum() - own, 1)


@lru_cache(maxsize=1 << 18)
def _rouge_l(first: str, second: str) -> float:
    """Cached, as the variants of a query have nearly the same candidates."""
    return 1.0 if first == second else rouge_l(first, second)


def _mean_log_probabilities(context: Context) -> dict[str, float]:
    """Mean log probability of a token of each greedy answer, where the generator tells it."""
    answers = [*context.greedy.values(), *context.probes]
    return {
        answer.value: answer.log_probability / max(answer.num_tokens, 1)
        for answer in reversed(answers)
        if answer.value is not None and answer.log_probability is not None
    }


def _output_words(context: Context) -> frozenset[str]:
    return frozenset(word for record in context.history for word in words(record.output))


def _usual_length(context: Context) -> float | None:
    lengths = [math.log1p(len(words(record.output))) for record in context.history]
    return _mean(lengths) if lengths else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
