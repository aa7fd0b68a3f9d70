"""Text tasks: the distinct drafts compete, each once; the greedy answer to the retriever's prompt always among them."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from hydra_ray.adapt.context import Context, Floats, Vectors
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
    "is_unfinished",  # ends in the middle of a sentence at the length limit
    "mean_log_probability",  # of its tokens, where the generator tells it
    "reranker_weight",  # the reranker's weight of the records whose one-record prompts gave it
)
_LEAD_WORDS = 25


def plain_names(config: DraftsConfig) -> tuple[str, ...]:
    """Names of the plain features of a draft, in order."""
    return _NAMES + tuple(f"is_{name}_answer" for name in config.prompts)


def text_drafts(context: Context, config: DraftsConfig) -> list[str]:
    """The distinct drafts: the greedy answers, those of the best records' probes, the samples."""
    greedy = [context.greedy[name].value for name in config.prompts if name in context.greedy]
    probes = [answer.value for answer in context.probes[: config.num_probes]]
    return list(dict.fromkeys(text for text in (*greedy, *probes, *context.samples) if text is not None))


def text_features(drafts: Sequence[str], context: Context, config: DraftsConfig, vectors: Vectors) -> Floats:
    """Plain features of every draft, one row each, in the order of `plain_names`."""
    greedy = [context.greedy[name].value or "" for name in config.prompts if name in context.greedy]
    probes = [answer.value or "" for answer in context.probes[: config.num_probes]]
    agreement = _Agreement(drafts)
    likelihoods = _mean_log_probabilities(context)
    columns = {
        "consensus": agreement.with_all([*greedy, *probes, *context.samples]),
        "consensus_greedy": agreement.with_all([*greedy, *probes]),
        "consensus_samples": agreement.with_all(context.samples),
    }
    usual = _usual_length(context)
    outputs = [record.output for record in context.history]
    output_words = {word for output in outputs for word in words(output)}
    lead = " ".join(words(context.query)[:_LEAD_WORDS])
    rows: list[list[float]] = []
    for place, text in enumerate(drafts):
        length = math.log1p(len(words(text)))
        cosines = np.array([float(vectors[text] @ vectors[output]) for output in outputs])
        overlaps = np.array([overlap(text, output) for output in outputs])
        values = {
            "vote_share": context.votes()[text] / max(len(context.samples), 1),
            "probe_share": probes.count(text) / max(len(probes), 1),
            **{name: float(column[place]) for name, column in columns.items()},
            "query_overlap": overlap(text, context.query),
            "query_coverage": coverage(context.query, text),
            "lead_coverage": coverage(lead, text),
            "query_cosine": float(vectors[text] @ vectors[context.query]),
            "retrieved_overlap": _mean([overlap(text, record.output) for record in context.retrieved]),
            "near_overlap": float(context.near_N @ overlaps) if outputs else 0.0,
            "near_cosine": float(context.near_N @ cosines) if outputs else 0.0,
            "best_output_cosine": float(cosines.max(initial=0.0)),
            "copied_output": float(overlaps.max(initial=0.0)),
            "vocabulary": _mean([float(word in output_words) for word in words(text)]),
            "log_length": length,
            "length_deviation": 0.0 if usual is None else abs(length - usual),
            "length_excess": 0.0 if usual is None else length - usual,
            "repetition": 1 - len(set(words(text))) / max(len(words(text)), 1),
            "is_unfinished": float(text.rstrip()[-1:] not in {".", "!", "?", '"', "'", ")"} and len(text.split()) > 20),
            "mean_log_probability": likelihoods.get(text, _mean(list(likelihoods.values()))),
            "reranker_weight": _reranker_weight(text, context, len(probes)),
        }
        values |= {f"is_{name}_answer": float(_is_answer(context, name, text)) for name in config.prompts}
        rows.append([values[name] for name in plain_names(config)])
    return np.array(rows)


class _Agreement:
    """ROUGE-L of drafts with each other, each pair computed once."""

    def __init__(self, drafts: Sequence[str]):
        self._places = {text: place for place, text in enumerate(drafts)}
        self._matrix = np.eye(len(drafts))
        for first in range(len(drafts)):
            for second in range(first):
                value = rouge_l(drafts[first], drafts[second])
                self._matrix[first, second] = self._matrix[second, first] = value

    def with_all(self, others: Sequence[str]) -> Floats:
        """Mean agreement of each draft with `others`, one occurrence of the draft itself left out."""
        counts = np.zeros(len(self._places))
        for text, number in Counter(others).items():
            if text in self._places:
                counts[self._places[text]] += number
        own = np.minimum(counts, 1)
        return (self._matrix @ counts - own) / np.maximum(counts.sum() - own, 1)


def _mean_log_probabilities(context: Context) -> dict[str, float]:
    """Mean log probability of a token of each greedy answer, where the generator tells it."""
    answers = [*context.greedy.values(), *context.probes]
    return {
        answer.value: answer.log_probability / max(answer.num_tokens, 1)
        for answer in reversed(answers)
        if answer.value is not None and answer.log_probability is not None
    }


def _usual_length(context: Context) -> float | None:
    lengths = [math.log1p(len(words(record.output))) for record in context.history]
    return _mean(lengths) if lengths else None


def _reranker_weight(text: str, context: Context, num_probes: int) -> float:
    pairs = zip(context.probes[:num_probes], context.reranker_weights.tolist()[:num_probes], strict=True)
    return sum(weight for answer, weight in pairs if answer.value == text)


def _is_answer(context: Context, prompt: str, text: str) -> bool:
    return prompt in context.greedy and context.greedy[prompt].value == text


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
