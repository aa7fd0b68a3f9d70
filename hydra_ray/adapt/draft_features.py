"""Handcrafted features of text tasks, for the candidates in a query's pool.

Shape suffixes: C candidates, N eligible records.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hydra_ray.adapt.context import Context
from hydra_ray.adapt.pool import Pool, greedy_drafts, probe_drafts
from hydra_ray.config import DraftsConfig
from hydra_ray.lamp.rouge import rouge_l
from hydra_ray.lamp.word_overlap import coverage, overlap, words
from hydra_ray.retrieve.dense import Floats, Vectors

_NAMES = (
    "vote_share",  # of the samples
    "probe_share",  # of the answers to one-record prompts
    "consensus",  # mean ROUGE-L with the other drafts, repetitions included
    "consensus_greedy",  # the same with the greedy answers alone
    "consensus_samples",  # the same with the samples alone
    "query_overlap",
    "query_coverage",  # fraction of the draft's words that the query contains
    "lead_coverage",  # fraction of the draft's words among the query's first words
    "query_cosine",  # by the encoder's vectors
    "retrieved_overlap",  # mean overlap with the outputs of the retrieved records
    "near_overlap",  # mean overlap with the user's outputs, weighted by their inputs' similarity to the query
    "near_cosine",  # the same by the encoder's vectors
    "best_output_cosine",
    "copied_output",  # best overlap with one of the user's outputs: high where an example was copied
    "vocabulary",  # fraction of the draft's words that the user's outputs contain
    "log_length",
    "length_deviation",  # absolute difference from the user's mean output length, in log words
    "length_excess",  # the same with its sign
    "repetition",  # fraction of the draft's words that are repetitions
    "is_cut",  # 1 for a truncated draft
    "mean_log_probability",  # of its tokens, if the generator reports it
    "reranker_weight",  # the reranker's weight of the records whose one-record prompts gave it
)
_LEAD_WORDS = 25


def handcrafted_names(config: DraftsConfig) -> tuple[str, ...]:
    """Return the names of a draft's handcrafted features, in order."""
    return _NAMES + tuple(f"is_{name}_answer" for name in config.prompts)


def handcrafted_features(pool: Pool, context: Context, config: DraftsConfig, vectors: Vectors) -> Floats:
    """Return the handcrafted features of every candidate, one row each, in the order of `handcrafted_names`."""
    candidates = list(pool)
    greedy, probes = greedy_drafts(context, config), probe_drafts(context, config)
    columns: dict[str, Sequence[float]] = {
        "consensus": _agreement(candidates, [*greedy, *probes, *context.samples]),
        "consensus_greedy": _agreement(candidates, [*greedy, *probes]),
        "consensus_samples": _agreement(candidates, context.samples),
        "vote_share": _shares(pool, context.samples),
        "probe_share": _shares(pool, probes),
        **_word_columns(candidates, context),
        **_encoded_columns(candidates, context, vectors),
        **_source_columns(pool, context, config),
    }
    return np.array([columns[name] for name in handcrafted_names(config)]).T


def _word_columns(candidates: Sequence[str], context: Context) -> dict[str, Sequence[float]]:
    """Return features of the candidates' words, compared with the query and the user's outputs."""
    outputs = [record.output for record in context.history]
    written = {word for output in outputs for word in words(output)}
    lead = " ".join(words(context.query)[:_LEAD_WORDS])
    lengths = [_log_length(text) for text in candidates]
    usual = _mean([_log_length(output) for output in outputs])
    excesses = [length - usual if outputs else 0.0 for length in lengths]
    overlaps_CN = np.array([[overlap(text, output) for output in outputs] for text in candidates])
    return {
        "query_overlap": [overlap(text, context.query) for text in candidates],
        "query_coverage": [coverage(context.query, text) for text in candidates],
        "lead_coverage": [coverage(lead, text) for text in candidates],
        "retrieved_overlap": [
            _mean([overlap(text, record.output) for record in context.retrieved]) for text in candidates
        ],
        "near_overlap": (overlaps_CN @ context.near_N).tolist(),
        "copied_output": overlaps_CN.max(axis=1, initial=0.0).tolist(),
        "vocabulary": [_mean([float(word in written) for word in words(text)]) for text in candidates],
        "log_length": lengths,
        "length_deviation": [abs(excess) for excess in excesses],
        "length_excess": excesses,
        "repetition": [1 - len(set(words(text))) / max(len(words(text)), 1) for text in candidates],
    }


def _encoded_columns(candidates: Sequence[str], context: Context, vectors: Vectors) -> dict[str, Sequence[float]]:
    """Return features of the candidates' vectors, compared with the query and the user's outputs."""
    cosines_CN = np.array(
        [[float(vectors[text] @ vectors[record.output]) for record in context.history] for text in candidates]
    )
    return {
        "query_cosine": [float(vectors[text] @ vectors[context.query]) for text in candidates],
        "near_cosine": (cosines_CN @ context.near_N).tolist(),
        "best_output_cosine": cosines_CN.max(axis=1, initial=0.0).tolist(),
    }


def _source_columns(pool: Pool, context: Context, config: DraftsConfig) -> dict[str, Sequence[float]]:
    """Return features of the candidates' sources; a truncated draft has those of its draft."""
    likelihoods = _mean_log_probabilities(context)
    usual = _mean(list(likelihoods.values()))
    probes, weights = context.probes[: config.num_probes], context.reranker_weights[: config.num_probes].tolist()
    weighted = [(answer.value, weight) for answer, weight in zip(probes, weights, strict=True)]
    answers = {name: context.greedy[name].value if name in context.greedy else None for name in config.prompts}
    return {
        "is_cut": [float(text not in drafts) for text, drafts in pool.items()],
        "mean_log_probability": [
            _mean([likelihoods[draft] for draft in drafts if draft in likelihoods] or [usual])
            for drafts in pool.values()
        ],
        "reranker_weight": [sum(weight for value, weight in weighted if value in drafts) for drafts in pool.values()],
        **{
            f"is_{name}_answer": [float(value in drafts) for drafts in pool.values()] for name, value in answers.items()
        },
    }


def _shares(pool: Pool, answers: Sequence[str]) -> list[float]:
    """Return the fraction of the answers of which each candidate is a draft or its beginning."""
    return [sum(answer in drafts for answer in answers) / max(len(answers), 1) for drafts in pool.values()]


def _agreement(candidates: Sequence[str], others: Sequence[str]) -> list[float]:
    """Return the mean ROUGE-L of each candidate with `others`, without one occurrence of the candidate itself."""
    counts = Counter(others)
    sums = [sum(num * _rouge_l(text, other) for other, num in counts.items()) for text in candidates]
    own = [float(text in counts) for text in candidates]
    return [(total - each) / max(len(others) - each, 1) for total, each in zip(sums, own, strict=True)]


@lru_cache(maxsize=1 << 18)
def _rouge_l(first: str, second: str) -> float:
    """Return the cached ROUGE-L: the variants of a query have nearly the same candidates."""
    return 1.0 if first == second else rouge_l(first, second)


def _mean_log_probabilities(context: Context) -> dict[str, float]:
    """Return the mean log probability of a token of each greedy answer, if the generator reports it."""
    answers = [*context.greedy.values(), *context.probes]
    return {
        answer.value: answer.log_probability / max(answer.num_tokens, 1)
        for answer in reversed(answers)
        if answer.value is not None and answer.log_probability is not None
    }


def _log_length(text: str) -> float:
    return math.log1p(len(words(text)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
