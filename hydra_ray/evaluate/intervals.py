"""Paired bootstrap over users, and per-user win, tie and loss.

Users are the unit of resampling: the queries of one user are not independent. All systems are evaluated on the same
resamples, so differences between systems have intervals of their own (Efron and Tibshirani, 1993, chapter 8).

Shape suffixes: R resamples, U users, B users of a block, X columns that are summed (of all systems side by side).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydra_ray.evaluate.metrics import Floats

_WEIGHTS_OF_BLOCK = 4_000_000
"""Resamples times users of a block; another number draws other resamples."""
_WEIGHTS_IN_MEMORY = 250_000
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Value with its percentile interval; without bounds if there is only one user to resample."""

    value: float
    low: float | None
    high: float | None

    @property
    def is_above_zero(self) -> bool:
        """Return whether the lower bound is known and above zero."""
        return self.low is not None and self.low > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Numbers of users for whom the first system is better than the second, equal, and worse."""

    win: int
    tie: int
    loss: int


def resampled_sums(
    user_sums: Callable[[int, int], Floats], num_users: int, num_resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Return sums over all users (X), and over the users of each resample (R, X).

    The bootstrap draws U users with replacement: counts ~ Multinomial(U, 1/U). They are drawn block by block, so that
    memory does not depend on the number of users: first how many draws of a resample fall into a block (binomial), then
    which users of the block they are. This is exactly the same multinomial.

    Args:
        user_sums: function of (start, stop) that returns the sums of the users at these positions (B, X).
    """
    rng = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_OF_BLOCK // num_resamples)
    remaining_R = np.full(num_resamples, num_users)
    observed_X: Floats | None = None
    resampled_RX: Floats | None = None
    for start in range(0, num_users, block):
        stop = min(start + block, num_users)
        draws_R = rng.binomial(remaining_R, (stop - start) / (num_users - start))
        remaining_R -= draws_R
        sums_BX = user_sums(start, stop)
        some = max(1, _WEIGHTS_IN_MEMORY // (stop - start))
        added_RX = np.concatenate(
            [
                _weights(rng, draws_R[first : first + some], stop - start) @ sums_BX
                for first in range(0, num_resamples, some)
            ]
        )
        observed_X = sums_BX.sum(axis=0) if observed_X is None else observed_X + sums_BX.sum(axis=0)
        resampled_RX = added_RX if resampled_RX is None else resampled_RX + added_RX
    assert observed_X is not None
    assert resampled_RX is not None
    return observed_X, resampled_RX


def resampled_means(weights_U: Floats, values_UX: Floats, num_resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Return weighted means over users (X), and those of each resample (R, X).

    Args:
        weights_U: weights above 0, such as numbers of queries.
    """

    def user_sums(start: int, stop: int) -> Floats:
        weights_B1 = weights_U[start:stop, None]
        return np.concatenate([weights_B1, weights_B1 * values_UX[start:stop]], axis=1)

    observed_X, resampled_RX = resampled_sums(user_sums, len(values_UX), num_resamples, seed)
    return observed_X[1:] / observed_X[0], resampled_RX[:, 1:] / resampled_RX[:, :1]


def interval(value: float, resampled_R: Floats, confidence: float, num_users: int) -> Interval:
    """Return the percentile interval of a figure with the value `value` on all users."""
    if num_users < 2:
        return Interval(value=value, low=None, high=None)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled_R, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def mean_interval(
    weights_U: Floats, values_U: Floats, num_resamples: int, confidence: float, seed: int = 0
) -> Interval:
    """Return the weighted mean over users, with its interval.

    Args:
        weights_U: weights above 0, such as numbers of queries.
    """
    observed, resampled = resampled_means(weights_U, values_U[:, None], num_resamples, seed)
    return interval(float(observed[0]), resampled[:, 0], confidence, len(values_U))


def signed_text(figure: Interval) -> str:
    """Return a difference with its bounds, if it has any, as "+0.0123 [+0.0045, +0.0201]"."""
    bounds = "" if figure.low is None else f" [{figure.low:+.4f}, {figure.high:+.4f}]"
    return f"{figure.value:+.4f}{bounds}"


def level_text(figure: Interval) -> str:
    """Return a value with its bounds, if it has any, as "0.612 [0.587, 0.640]"."""
    bounds = "" if figure.low is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{bounds}"


def compare(first_U: Floats, second_U: Floats, is_higher_better: bool) -> Comparison:
    """Count wins, ties and losses of the first system against the second, given the metric of each user."""
    advantage_U = first_U - second_U if is_higher_better else second_U - first_U
    win = int(np.count_nonzero(advantage_U > _SAME))
    loss = int(np.count_nonzero(advantage_U < -_SAME))
    return Comparison(win=win, tie=len(advantage_U) - win - loss, loss=loss)


def quantile_groups(history_U: NDArray[np.int64], num_groups: int) -> list[NDArray[np.bool_]]:
    """Return a mask of the users in each of `num_groups` groups of similar size, by length of history, shortest first.

    Users with equally long histories stay together, so groups may differ in size, and some may be empty.
    """
    shares = [position / num_groups for position in range(1, num_groups)]
    bounds = np.quantile(history_U, shares, method="inverted_cdf")
    group_U = np.searchsorted(bounds, history_U, side="left")
    return [group_U == position for position in range(num_groups)]


def terciles(history_U: NDArray[np.int64]) -> Mapping[str, NDArray[np.bool_]]:
    """Return masks of the users with a short, a medium and a long history; empty groups are left out."""
    groups = zip(("short", "medium", "long"), quantile_groups(history_U, 3), strict=True)
    return {name: members for name, members in groups if members.any()}


def _weights(rng: np.random.Generator, draws_R: NDArray[np.int64], num_users: int) -> Floats:
    """Return how often each of `num_users` users is drawn in each resample (R, U), given the draws in all of each
    resample.
    """
    rows = np.repeat(np.arange(len(draws_R)), draws_R)
    users = rng.integers(0, num_users, size=len(rows))
    counts = np.bincount(rows * num_users + users, minlength=len(draws_R) * num_users)
    return counts.reshape(len(draws_R), num_users).astype(np.float64)
