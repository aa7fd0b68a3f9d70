"""Claims of the quality page: differences with limits that hold where nothing changed, and p-values corrected together.

Shape suffixes: U users.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from hydra_ray.config import ReportConfig
from hydra_ray.evaluate.intervals import Interval, interval, resampled_means
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.evaluate.significance import holm

_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim of the page, with the probability of what was found if it were false."""

    text: str
    shown: str
    """The figure that it rests on, with its interval."""
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Qualities of one system minus those of another for the same users."""

    figure: Interval
    num_better: int
    """Users for whom the first is better."""
    num_worse: int
    num_users: int

    @property
    def is_unchanged(self) -> bool:
        """Return whether both are equally good for every user."""
        return self.num_better == self.num_worse == 0


def difference(first_U: Floats, second_U: Floats, weights_U: Floats, bootstrap: ReportConfig) -> Difference:
    """Return the difference of two systems' qualities, each within [0, 1].

    Its interval is the bootstrap's over users. Where no user's quality differs no resample does either, so that the
    limits are then those of `unchanged`.

    Args:
        weights_U: numbers of queries.
    """
    change_U = first_U - second_U
    num_better, num_worse = int((change_U > _SAME).sum()), int((change_U < -_SAME).sum())
    if num_better == num_worse == 0:
        figure = unchanged(len(change_U), bootstrap.confidence)
    else:
        observed, resampled = resampled_means(weights_U, change_U[:, None], bootstrap.num_resamples, bootstrap.seed)
        figure = interval(float(observed[0]), resampled[:, 0], bootstrap.confidence, len(change_U))
    return Difference(figure=figure, num_better=num_better, num_worse=num_worse, num_users=len(change_U))


def unchanged(num_users: int, confidence: float) -> Interval:
    """Return the limits of a difference of which no user shows any: the share of users who have one is at most Clopper
    and Pearson's (1934) limit for 0 of `num_users`, and a user's quality differs by at most 1.
    """
    limits = _binomial_test(0, num_users, 0.5).proportion_ci(confidence, "exact")
    return Interval(value=0.0, low=-float(limits.high), high=float(limits.high))


def pooled_difference(pairs: Sequence[tuple[Floats, Floats]], bootstrap: ReportConfig) -> Difference:
    """Return the difference over all users of several sets, each with the same weight; users are resampled within their
    sets.
    """
    first_U, second_U = (np.concatenate(each) for each in zip(*pairs, strict=True))
    whole = difference(first_U, second_U, np.ones(len(first_U)), bootstrap)
    if whole.is_unchanged:
        return whole
    sums_R = np.zeros(bootstrap.num_resamples)
    for place, (own_U, other_U) in enumerate(pairs):
        change_U1 = (own_U - other_U)[:, None]
        _, means = resampled_means(np.ones(len(own_U)), change_U1, bootstrap.num_resamples, bootstrap.seed + place)
        sums_R += means[:, 0] * len(own_U)
    figure = interval(whole.figure.value, sums_R / len(first_U), bootstrap.confidence, len(first_U))
    return Difference(figure=figure, num_better=whole.num_better, num_worse=whole.num_worse, num_users=whole.num_users)


def not_worse_p_value(first_U: Floats, second_U: Floats, margin: float) -> float:
    """Return the p-value of the hypothesis that the first system is worse by the margin or more.

    It is that of the one-sided t-test; where no user's quality differs, the probability that none of these users is
    among the share `margin` of users who would have to be worse.
    """
    change_U = first_U - second_U
    if (abs(change_U) <= _SAME).all():
        return float((1 - margin) ** len(change_U))
    with warnings.catch_warnings():
        # With the same difference for all users p is 0 or 1, and SciPy warns of the precision of their variance.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(_stats().ttest_1samp(change_U, -margin, alternative="greater").pvalue)


def below_p_value(values_R: Floats, bound: float) -> float:
    """Return the p-value of the hypothesis that a figure is at most `bound`, by its resamples."""
    return float((1 + (values_R <= bound).sum()) / (1 + len(values_R)))


def corrected(claims: Sequence[Claim]) -> list[float]:
    """Return the p-values of all claims by Holm's correction (1979), in their order."""
    return holm([claim.p_value for claim in claims])


def _binomial_test(num_right: int, num_all: int, chance: float) -> Any:
    return _stats().binomtest(num_right, num_all, chance)


def _stats() -> Any:
    from scipy import stats

    return cast(Any, stats)
