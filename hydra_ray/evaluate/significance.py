"""Paired tests of two systems with users as the unit, and Holm's correction for multiple tests.

Shape suffixes: U users.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from hydra_ray.evaluate.metrics import Floats

MCNEMAR = "exact McNemar"
PAIRED_T = "paired t"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Two-sided test of the null hypothesis that both systems are equally good."""

    test: str
    """Name of the test: MCNEMAR or PAIRED_T."""
    p_value: float


def paired_test(first_U: Floats, second_U: Floats) -> PairedTest:
    """Test two systems' qualities, each given for every user.

    If every quality is 0 or 1 (one right or wrong answer per user) it is the exact McNemar test, the sign test of the
    users on whom the systems differ; otherwise (ratings, texts, several queries per user) the paired t-test. A single
    user, and systems without a difference, give p = 1.
    """
    from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

    tests = cast(Any, stats)
    if all(np.isin(each, (0.0, 1.0)).all() for each in (first_U, second_U)):
        num_better, num_different = int((first_U > second_U).sum()), int((first_U != second_U).sum())
        p_value = tests.binomtest(num_better, num_different).pvalue if num_different else 1.0
        return PairedTest(test=MCNEMAR, p_value=float(p_value))
    if len(first_U) < 2 or np.array_equal(first_U, second_U):
        return PairedTest(test=PAIRED_T, p_value=1.0)
    with warnings.catch_warnings():
        # With the same difference for all users p is 0, and SciPy warns of the precision of their variance.
        warnings.simplefilter("ignore", RuntimeWarning)
        p_value = tests.ttest_rel(first_U, second_U).pvalue
    return PairedTest(test=PAIRED_T, p_value=float(p_value))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for multiple tests, in the order given (Holm, 1979).

        adjusted p_(i) = max_{j <= i} min(1, (n - j + 1) p_(j))    for p_(1) <= ... <= p_(n)

    Rejecting adjusted p-values below a level bounds the probability of any false rejection by that level.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = largest
    return adjusted
