"""Closed tasks: every label is a candidate, and what the generator wrote is evidence for or against it.

Letters in shape suffixes: L labels.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hydra_ray.adapt.context import Context, shares
from hydra_ray.config import DraftsConfig, Task
from hydra_ray.lamp.tokens import coverage, mentions, overlap
from hydra_ray.retrieve.dense import Floats, Vectors
from hydra_ray.rows import Answer, Record

_FLOOR = 0.01
"""Added to probabilities before their logarithm is taken, so that what was not told is not impossible."""
_NAMES = (
    "vote_share",  # among the samples
    "is_rag_answer",  # the greedy answer to the retriever's prompt
    "is_mentioned",  # the query contains the words of what the label stands for
    "history_share",  # how often the user gave this output
    "log_history_share",
    "retrieved_share",  # the same among the retrieved records, weighted by the retriever's score
    "near_share",  # the same among all records, weighted by how near they are for the encoder
    "log_near_share",
    "is_nearest_output",  # the output of the best retrieved record
    "query_cosine",  # of the query with what the label stands for, for the encoder
    "log_p_probes",  # the generator's probability of the label, averaged over the one-record prompts
    "log_p_probes_reranked",  # the same, weighted by the reranker
    "probe_share",  # how many of the one-record prompts it answers
)
_TEXT_NAME = "log_p_text"  # what the text says about its label, whoever wrote it
_OWN_NAME = "log_p_own"  # the same, given the user's records
PREFITTED_NAMES = (_OWN_NAME,)
"""The features that are fitted scores themselves; they stand last."""
_RATING_NAMES = (  # distance from a mean rating, in label ranges
    "history_distance",
    "retrieved_distance",
    "near_distance",
    "vote_distance",
    "rag_distance",
    "probes_distance",
)
_OPTION_NAMES = (  # of what the label stands for with the history
    "option_overlap",
    "option_near_cosine",
    "option_best_cosine",
)


def handcrafted_names(task: Task, config: DraftsConfig, *, has_own_labels: bool = True) -> tuple[str, ...]:
    """Names of the plain features of a label, in order.

    Args:
        has_own_labels: whether the labeller's second step is among them, where there is one.
    """
    ratings = _RATING_NAMES if task.kind == "rating" else ()
    options = _OPTION_NAMES if task.option_pattern else ()
    text = (_TEXT_NAME,) if task.has_labelled_records else ()
    biases = tuple(f"label={label}" for label in task.labels)
    prefitted = PREFITTED_NAMES if task.has_labelled_records and has_own_labels else ()
    return _NAMES + tuple(f"log_p_{name}" for name in config.prompts) + ratings + text + options + biases + prefitted


def closed_features(
    context: Context, task: Task, config: DraftsConfig, vectors: Vectors, *, has_own_labels: bool = True
) -> Floats:
    """Plain features of every label, one row each, in the order of `handcrafted_names`."""
    texts = [task.option_text(context.query, label) for label in task.labels]
    history = _shares(task, Counter(record.output for record in context.history))
    retrieved = _shares(task, _weighted_outputs(context.retrieved, context.retrieved_weights))
    near = _shares(task, _weighted_outputs(context.history, context.near_N))
    votes = _shares(task, context.votes())
    probes = _mean_probabilities(task, context.probes, None)
    columns: dict[str, Floats] = {
        "vote_share": votes,
        "is_rag_answer": _indicator(task, context.greedy["rag_k"].value if "rag_k" in context.greedy else None),
        "is_mentioned": np.array([float(mentions(context.query, text)) for text in texts]),
        "history_share": history,
        "log_history_share": np.log(history + _FLOOR),
        "retrieved_share": retrieved,
        "near_share": near,
        "log_near_share": np.log(near + _FLOOR),
        "is_nearest_output": _indicator(task, context.retrieved[0].output if context.retrieved else None),
        "query_cosine": np.array([float(vectors[context.query] @ vectors[text]) for text in texts]),
        "log_p_probes": np.log(probes + _FLOOR),
        "log_p_probes_reranked": np.log(_mean_probabilities(task, context.probes, context.reranker_weights) + _FLOOR),
        "probe_share": _shares(task, Counter(answer.value for answer in context.probes if answer.value is not None)),
    }
    prompts = {name: _probabilities(task, context.greedy.get(name)) for name in (*config.prompts, "rag_k")}
    columns |= {f"log_p_{name}": np.log(values + _FLOOR) for name, values in prompts.items()}
    if task.kind == "rating":
        sources = (history, retrieved, near, votes, prompts["rag_k"], probes)
        columns |= {name: _distances(task, each) for name, each in zip(_RATING_NAMES, sources, strict=True)}
    if context.labelled is not None:
        columns |= {_TEXT_NAME: context.labelled.by_text_L, _OWN_NAME: context.labelled.by_user_L}
    if task.option_pattern:
        columns |= _option_columns(context, texts, vectors)
    columns |= {f"label={label}": _indicator(task, label) for label in task.labels}
    return np.stack([columns[name] for name in handcrafted_names(task, config, has_own_labels=has_own_labels)], axis=1)


def _shares(task: Task, counts: Mapping[str, float]) -> Floats:
    """Share (L) of each label in what was counted of labels; zeros where nothing was."""
    return shares(np.array([float(counts.get(label, 0.0)) for label in task.labels]))


def _indicator(task: Task, value: str | None) -> Floats:
    return np.array([float(label == value) for label in task.labels])


def _weighted_outputs(records: Sequence[Record], weights: Floats) -> dict[str, float]:
    """Sum of the weights of the records with each output."""
    sums: dict[str, float] = {}
    for record, weight in zip(records, weights.tolist(), strict=True):
        sums[record.output] = sums.get(record.output, 0.0) + weight
    return sums


def _probabilities(task: Task, answer: Answer | None) -> Floats:
    """The generator's probability (L) of each label; of the label it wrote, where it tells none."""
    if answer is None:
        return np.full(len(task.labels), 1 / len(task.labels))
    return (
        shares(np.array(answer.label_probabilities)) if answer.label_probabilities else _indicator(task, answer.value)
    )


def _mean_probabilities(task: Task, answers: Sequence[Answer], weights: Floats | None) -> Floats:
    """The same (L) averaged over several answers."""
    if not answers:
        return _probabilities(task, None)
    return np.average([_probabilities(task, answer) for answer in answers], axis=0, weights=weights)


def _distances(task: Task, shares: Floats) -> Floats:
    """Distance (L) of each rating from the mean rating, in label ranges; 0 where there is none."""
    ratings = np.array([float(label) for label in task.labels])
    return np.abs(ratings - ratings @ shares) / (ratings.max() - ratings.min()) * float(shares.sum() > 0.5)


def _option_columns(context: Context, texts: list[str], vectors: Vectors) -> dict[str, Floats]:
    """How each label's own text agrees with the user's records."""
    if not context.history:
        return {name: np.zeros(len(texts)) for name in _OPTION_NAMES}
    outputs = np.stack([vectors[record.output] for record in context.history])
    cosines = outputs @ np.stack([vectors[text] for text in texts]).T
    overlaps = [
        max(overlap(text, record.output) + coverage(record.input, text) for record in context.history) for text in texts
    ]
    return {
        "option_overlap": np.array(overlaps),
        "option_near_cosine": context.near_N @ cosines,
        "option_best_cosine": cosines.max(axis=0),
    }
