"""Paired bootstrap over users, and per-user win, tie and loss.

Users are the unit of resampling: the queries of one user are not independent. All systems are seen in the same
resamples, so differences between systems have intervals of their own (Efron and Tibshirani, 1993, chapter 8).

Shapes: R resamples, U users, K sums (of all systems side by side), S systems.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydra_ray.evaluate.metrics import Floats

_WEIGHTS_IN_MEMORY = 4_000_000
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure and the percentile interval around it; without bounds where there is only one user to resample."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """For how many users the first system is better than the second, as good, and worse."""

    win: int
    tie: int
    loss: int


def resampled_sums(
    user_sums: Callable[[int, int], Floats], num_users: int, num_resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Sums over all users, and over the users of each resample: K and R, K.

    Memory depends neither on the number of users nor on how they are split into blocks: how many draws of a resample
    fall into a block is drawn first, and then which users of the block they are. This is the multinomial of the
    ordinary bootstrap, exactly.

    Args:
        user_sums: the sums of the users from the first position up to the second, B, K.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_IN_MEMORY // num_resamples)
    remaining_R = np.full(num_resamples, num_users)
    observed_K: Floats | None = None
    resampled_RK: Floats | None = None
    for start in range(0, num_users, block):
        stop = min(start + block, num_users)
        draws_R = rng.binomial(remaining_R, (stop - start) / (num_users - start))
        remaining_R -= draws_R
        sums_BK = user_sums(start, stop)
        added_RK = _weights(rng, draws_R, stop - start) @ sums_BK
        observed_K = sums_BK.sum(axis=0) if observed_K is None else observed_K + sums_BK.sum(axis=0)
        resampled_RK = added_RK if resampled_RK is None else resampled_RK + added_RK
    assert observed_K is not None
    assert resampled_RK is not None
    return observed_K, resampled_RK


def resampled_means(weights_U: Floats, values_UK: Floats, num_resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Means over users with weights, such as numbers of queries, and in each resample: K and R, K.

    Args:
        weights_U: above 0.
    """
    sums_UK = np.concatenate([weights_U[:, None], weights_U[:, None] * values_UK], axis=1)
    observed_K, resampled_RK = resampled_sums(
        lambda start, stop: sums_UK[start:stop], len(sums_UK), num_resamples, seed
    )
    return observed_K[1:] / observed_K[0], resampled_RK[:, 1:] / resampled_RK[:, :1]


def interval(value: float, resampled_R: Floats, confidence: float, num_users: int) -> Interval:
    """The percentile interval of a figure that has the value `value` on all users."""
    if num_users < 2:
        return Interval(value=value, low=None, high=None)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled_R, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def compare(first_U: Floats, second_U: Floats, is_higher_better: bool) -> Comparison:
    """Win, tie and loss of the first system against the second, each given as its metric for each user."""
    advantage_U = first_U - second_U if is_higher_better else second_U - first_U
    win = int(np.count_nonzero(advantage_U > _SAME))
    loss = int(np.count_nonzero(advantage_U < -_SAME))
    return Comparison(win=win, tie=len(advantage_U) - win - loss, loss=loss)


def quantile_groups(history_U: NDArray[np.int64], num_groups: int) -> list[NDArray[np.bool_]]:
    """Which users belong to each of `num_groups` groups of about the same size, by length of history, shortest first.

    Users with equally long histories stay together, so groups may differ in size, and some may be empty.
    """
    shares = [position / num_groups for position in range(1, num_groups)]
    bounds = np.quantile(history_U, shares, method="inverted_cdf")
    group_U = np.searchsorted(bounds, history_U, side="left")
    return [group_U == position for position in range(num_groups)]


def terciles(history_U: NDArray[np.int64]) -> Mapping[str, NDArray[np.bool_]]:
    """Which users have a short, a medium and a long history; groups without a user are left out."""
    groups = zip(("short", "medium", "long"), quantile_groups(history_U, 3), strict=True)
    return {name: members for name, members in groups if members.any()}


def _weights(rng: np.random.Generator, draws_R: NDArray[np.int64], num_users: int) -> Floats:
    """How often each of `num_users` users is drawn in each resample, R, U, when draws_R users are drawn in all."""
    rows = np.repeat(np.arange(len(draws_R)), draws_R)
    users = rng.integers(0, num_users, size=len(rows))
    counts = np.bincount(rows * num_users + users, minlength=len(draws_R) * num_users)
    return counts.reshape(len(draws_R), num_users).astype(np.float64)
