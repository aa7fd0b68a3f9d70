"""BLEU by the sacrebleu package, as LaMP's generation metrics have it: 13a tokens, exponential smoothing, 0 to 100.

BLEU is a figure of a whole corpus, but a function of counts that are summed over its texts. So a text keeps its
counts, and any weighted set of texts has its BLEU at the price of a sum.

Shapes: ... any leading axes, M = MAX_ORDER lengths of n-grams, B = len(COUNTS).
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 4
COUNTS: tuple[str, ...] = (
    *(f"common_{order}grams" for order in range(1, MAX_ORDER + 1)),
    *(f"num_{order}grams" for order in range(1, MAX_ORDER + 1)),
    "num_words",
    "num_target_words",
)
"""What is counted of one text: n-grams that it shares with the target, its own n-grams, the lengths of both."""


def bleu_counts(target: str, text: str) -> tuple[float, ...]:
    """The `COUNTS` of one text."""
    return _counter()(target, text)


def bleu_of_counts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU (0 to 100) of texts whose counts were summed: ..., B -> ... ."""
    common_M, total_M = counts[..., :MAX_ORDER], counts[..., MAX_ORDER : 2 * MAX_ORDER]
    length, target_length = counts[..., -2], counts[..., -1]
    is_missed_M = (common_M == 0) & (total_M > 0)
    # Each order without a match counts half as much as the one before it (NIST's smoothing).
    smoothed_M = np.where(is_missed_M, 0.5 ** np.cumsum(is_missed_M, axis=-1), common_M)
    precision_M = np.divide(smoothed_M, total_M, out=np.zeros_like(smoothed_M), where=total_M > 0)
    is_zero = (common_M == 0).all(axis=-1) | (precision_M == 0).any(axis=-1)
    mean_log = np.log(np.where(precision_M > 0, precision_M, 1.0)).mean(axis=-1)
    shortness = np.maximum(target_length / np.maximum(length, 1e-9) - 1, 0)
    return np.where(is_zero, 0.0, 100 * np.exp(mean_log - shortness))


@cache
def _counter() -> Callable[[str, str], tuple[float, ...]]:
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(effective_order=True)  # for single texts; it changes no count

    def count(target: str, text: str) -> tuple[float, ...]:
        score = bleu.sentence_score(text, [target])
        return tuple(float(each) for each in (*score.counts, *score.totals, score.sys_len, score.ref_len))

    return count
