"""Handcrafted features of closed tasks: every label is a candidate, and the generator's drafts are evidence.

Shape suffixes: L labels, N eligible records.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hydra_ray.adapt.context import Context, shares
from hydra_ray.config import DraftsConfig, Task
from hydra_ray.lamp.word_overlap import coverage, mentions, overlap
from hydra_ray.retrieve.dense import Floats, Vectors
from hydra_ray.rows import Answer, Record

_FLOOR = 0.01
"""Added to probabilities before taking logarithms, so that an unobserved label is not impossible."""
_NAMES = (
    "vote_share",  # of the samples
    "is_rag_answer",  # equals the greedy answer to the retriever's prompt
    "is_mentioned",  # the query contains the words of the label's text
    "history_share",  # fraction of the user's outputs
    "log_history_share",
    "retrieved_share",  # the same of the retrieved records, weighted by the retriever's score
    "near_share",  # the same of all records, weighted by their inputs' similarity to the query
    "log_near_share",
    "is_nearest_output",  # the output of the best retrieved record
    "query_cosine",  # cosine of the encoder's vectors of query and label's text
    "log_p_probes",  # the generator's probability of the label, averaged over the one-record prompts
    "log_p_probes_reranked",  # the same, weighted by the reranker
    "probe_share",  # of the answers to one-record prompts
)
_TEXT_NAME = "log_p_text"  # by the text classifier, which knows no user
_OWN_NAME = "log_p_own"  # by the user label model, given the user's records
_GAIN_NAME = "own_gain"  # what the user's own head, fitted to all records, adds to the log probability
PREFITTED_NAMES = (_OWN_NAME, _GAIN_NAME)
"""Names of the features that are fitted scores themselves; they are the last ones."""
_RATING_NAMES = (  # distance from a mean rating, as a fraction of the label range
    "history_distance",
    "retrieved_distance",
    "near_distance",
    "vote_distance",
    "rag_distance",
    "probes_distance",
)
_OPTION_NAMES = (  # similarity of the label's text with the history
    "option_overlap",
    "option_near_cosine",
    "option_best_cosine",
)


def num_prefitted(names: Sequence[str]) -> int:
    """Return how many of the features of these names are fitted scores themselves; they are the last ones."""
    return sum(name in PREFITTED_NAMES for name in names)


def handcrafted_names(
    task: Task, config: DraftsConfig, *, has_own_labels: bool = True, has_own_heads: bool = False
) -> tuple[str, ...]:
    """Return the names of a label's handcrafted features, in order.

    Args:
        has_own_labels: whether the user label model's score is included, where there is one.
        has_own_heads: whether what own heads fitted to all records add is included.
    """
    ratings = _RATING_NAMES if task.kind == "rating" else ()
    options = _OPTION_NAMES if task.option_pattern else ()
    text = (_TEXT_NAME,) if task.has_labelled_records else ()
    biases = tuple(f"label={label}" for label in task.labels)
    prefitted = (_OWN_NAME,) if task.has_labelled_records and has_own_labels else ()
    prefitted += (_GAIN_NAME,) if has_own_heads else ()
    return _NAMES + tuple(f"log_p_{name}" for name in config.prompts) + ratings + text + options + biases + prefitted


def handcrafted_features(
    context: Context,
    task: Task,
    config: DraftsConfig,
    vectors: Vectors,
    *,
    has_own_labels: bool = True,
    has_own_heads: bool = False,
) -> Floats:
    """Return the handcrafted features of every label, one row each, in the order of `handcrafted_names`."""
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
    columns[_GAIN_NAME] = np.zeros(len(task.labels)) if context.own_gain_L is None else context.own_gain_L
    if task.option_pattern:
        columns |= _option_columns(context, texts, vectors)
    columns |= {f"label={label}": _indicator(task, label) for label in task.labels}
    names = handcrafted_names(task, config, has_own_labels=has_own_labels, has_own_heads=has_own_heads)
    return np.stack([columns[name] for name in names], axis=1)


def _shares(task: Task, counts: Mapping[str, float]) -> Floats:
    """Return the fraction of each label in label counts (L); zeros if there are none."""
    return shares(np.array([float(counts.get(label, 0.0)) for label in task.labels]))


def _indicator(task: Task, value: str | None) -> Floats:
    return np.array([float(label == value) for label in task.labels])


def _weighted_outputs(records: Sequence[Record], weights: Floats) -> dict[str, float]:
    """Return the sum of the weights of the records with each output."""
    sums: dict[str, float] = {}
    for record, weight in zip(records, weights.tolist(), strict=True):
        sums[record.output] = sums.get(record.output, 0.0) + weight
    return sums


def _probabilities(task: Task, answer: Answer | None) -> Floats:
    """Return the generator's probability of each label (L): of the label it wrote, if it reports none; uniform without
    answer.
    """
    if answer is None:
        return np.full(len(task.labels), 1 / len(task.labels))
    return (
        shares(np.array(answer.label_probabilities)) if answer.label_probabilities else _indicator(task, answer.value)
    )


def _mean_probabilities(task: Task, answers: Sequence[Answer], weights: Floats | None) -> Floats:
    """Return the label probabilities averaged over several answers (L)."""
    if not answers:
        return _probabilities(task, None)
    return np.average([_probabilities(task, answer) for answer in answers], axis=0, weights=weights)


def _distances(task: Task, shares: Floats) -> Floats:
    """Return each rating's distance from the mean rating, as a fraction of the label range (L); 0 without ratings."""
    ratings = np.array([float(label) for label in task.labels])
    return np.abs(ratings - ratings @ shares) / (ratings.max() - ratings.min()) * float(shares.sum() > 0.5)


def _option_columns(context: Context, texts: list[str], vectors: Vectors) -> dict[str, Floats]:
    """Return features of the similarity of each label's text with the user's records."""
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
