"""BLEU by the sacrebleu package, as in LaMP's generation metrics: 13a tokens, exponential smoothing, 0 to 100.

BLEU is a metric of a whole corpus, but a function of counts that are summed over its texts. So a text keeps its counts,
and the BLEU of any weighted set of texts costs a sum.

    BLEU = 100 * exp(min(0, 1 - target length / length) + mean_n log(common n-grams / n-grams)), n = 1 .. MAX_ORDER

Shape suffixes: O = MAX_ORDER lengths of n-grams; ... any leading axes.
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
"""Counts of one text: n-grams shared with the target, its own n-grams, the lengths of both."""


def bleu_counts(target: str, text: str) -> tuple[float, ...]:
    """Return the `COUNTS` of one text."""
    return _counter()(target, text)


def bleu_of_counts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the BLEU (0 to 100) of texts whose counts were summed: (..., len(COUNTS)) -> (...)."""
    common_O, total_O = counts[..., :MAX_ORDER], counts[..., MAX_ORDER : 2 * MAX_ORDER]
    length, target_length = counts[..., -2], counts[..., -1]
    is_missed_O = (common_O == 0) & (total_O > 0)
    # The precision of each order without a match is half that of the order before it (NIST smoothing).
    smoothed_O = np.where(is_missed_O, 0.5 ** np.cumsum(is_missed_O, axis=-1), common_O)
    precision_O = np.divide(smoothed_O, total_O, out=np.zeros_like(smoothed_O), where=total_O > 0)
    is_zero = (common_O == 0).all(axis=-1) | (precision_O == 0).any(axis=-1)
    mean_log = np.log(np.where(precision_O > 0, precision_O, 1.0)).mean(axis=-1)
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
