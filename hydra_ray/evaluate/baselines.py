"""Answers that need no scorer: what HYDRA's choice among drafts has to beat."""

from collections import Counter
from collections.abc import Sequence

from hydra_ray.lamp.rouge import rouge_l


def majority_answer(outputs: Sequence[str]) -> str:
    """The most frequent output of a user's history; of equally frequent ones the one that comes last.

    Args:
        outputs: at least one, oldest first.
    """
    return _most_frequent(outputs[::-1])


def near_answer(outputs: Sequence[str], weights: Sequence[float]) -> str:
    """The output with the largest sum of weights, kNN's answer; of equals the one that comes first.

    Args:
        outputs: of at least one record near the query.
        weights: how near each record is.
    """
    sums: dict[str, float] = {}
    for output, weight in zip(outputs, weights, strict=True):
        sums[output] = sums.get(output, 0.0) + weight
    return max(sums, key=lambda output: sums[output])


def vote_answer(values: Sequence[str]) -> str:
    """The most frequent answer; of equally frequent ones the one that was drawn first.

    Args:
        values: at least one, in the order they were drawn.
    """
    return _most_frequent(values)


def consensus_answer(texts: Sequence[str]) -> str:
    """The text that is most like the others: the medoid by ROUGE-L; of equally central ones the first.

    Args:
        texts: at least one, repetitions included, because they are votes.
    """
    counts = Counter(texts)
    return max(counts, key=lambda text: sum(rouge_l(text, other) * num for other, num in counts.items()))


def _most_frequent(values: Sequence[str]) -> str:
    # Counter keeps the order of first occurrence, and max() the first of equals.
    counts = Counter(values)
    return max(counts, key=lambda value: counts[value])
