"""Baselines that need no scorer: answers that HYDRA's choice among drafts has to beat."""

from collections import Counter
from collections.abc import Sequence

from hydra_ray.lamp.rouge import rouge_l


def majority_answer(outputs: Sequence[str]) -> str:
    """Return the most frequent output of a user's history; the last of equals.

    Args:
        outputs: at least one, oldest first.
    """
    return _most_frequent(outputs[::-1])


def mean_answer(outputs: Sequence[str], labels: Sequence[str]) -> str:
    """Return the rating nearest to the mean of a user's ratings; the first of equals.

    Args:
        outputs: at least one rating.
        labels: all ratings.
    """
    mean = sum(float(output) for output in outputs) / len(outputs)
    return min(labels, key=lambda label: abs(float(label) - mean))


def near_answer(outputs: Sequence[str], weights: Sequence[float]) -> str:
    """Return the output with the largest sum of weights (kNN); the first of equals.

    Args:
        outputs: outputs of at least one record near the query.
        weights: similarity of each record to the query.
    """
    sums: dict[str, float] = {}
    for output, weight in zip(outputs, weights, strict=True):
        sums[output] = sums.get(output, 0.0) + weight
    return max(sums, key=lambda output: sums[output])


def vote_answer(values: Sequence[str]) -> str:
    """Return the most frequent answer; the first drawn of equals.

    Args:
        values: at least one, in the order they were drawn.
    """
    return _most_frequent(values)


def consensus_answer(texts: Sequence[str]) -> str:
    """Return the text with the largest mean ROUGE-L with all texts, the medoid; the first of equals.

    Args:
        texts: at least one, repetitions included, because they are votes.
    """
    counts = Counter(texts)
    return max(counts, key=lambda text: sum(rouge_l(text, other) * num for other, num in counts.items()))


def _most_frequent(values: Sequence[str]) -> str:
    # Counter keeps the order of first occurrence, and max() the first of equals.
    counts = Counter(values)
    return max(counts, key=lambda value: counts[value])
