"""Figures of a run's users by generation, and how they changed against the start: means by user, resampled by user.

A generation is the run itself (the start) or one of its updates. Each of its users is compared with the same user at
the start, where the start has the user, and else with the mean of the start's users:

    change = (sum_u x_u - sum_{u at the start} x_u0 - n_new mean_v x_v0) / n        u: users of the generation
                                                                                    v: users of the start

so that who happens to be active makes no change of its own.

Shape suffixes: U users of the generation or the start, S systems, R resamples, X columns that are summed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.adapt.own_model import CONFIDENCE, NUM_RESAMPLES
from hydra_ray.commands.drift.record_losses import Summed
from hydra_ray.evaluate.intervals import Interval, interval, resampled_means, resampled_sums
from hydra_ray.evaluate.metrics import Floats

MIN_USERS = 20
"""Number of users below which a generation, or the start, tells nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One system's figure in one generation: means over users. Key: name."""

    name: str
    value: Interval
    change: Interval | None
    """Difference to the start; None for the start itself, and where one of both has too few users."""


class UserMeans:
    """Each user's mean figures in one generation, or in several as one."""

    def __init__(self, summed: Iterable[Summed]) -> None:
        self._sums: dict[str, Summed] = {}
        for each in summed:
            self.add(each)

    def add(self, summed: Summed) -> None:
        """Add figures of a user, who may have some already."""
        before = self._sums.get(summed.user_id)
        if before is not None:
            num, sums_S = before.num + summed.num, before.sums_S + summed.sums_S
            summed = Summed(user_id=summed.user_id, num=num, sums_S=sums_S)
        self._sums[summed.user_id] = summed

    def joined(self, others: "UserMeans") -> "UserMeans":
        """Return the figures of both as one generation."""
        return UserMeans([*self._sums.values(), *others._sums.values()])

    @property
    def num_users(self) -> int:
        """Number of users who have figures."""
        return len(self._sums)

    @property
    def num(self) -> int:
        """Number of records, or of queries."""
        return sum(each.num for each in self._sums.values())

    @property
    def is_enough(self) -> bool:
        """Whether these are enough users to tell anything."""
        return self.num_users >= MIN_USERS

    def mean(self, user_id: str) -> Floats | None:
        """Return a user's means (S); None where there are none."""
        found = self._sums.get(user_id)
        return None if found is None else found.sums_S / found.num

    @property
    def user_ids(self) -> list[str]:
        """Ids of the users, sorted."""
        return sorted(self._sums)

    def figures(self, names: Sequence[str], start: "UserMeans | None" = None) -> tuple[Figure, ...]:
        """Return each system's figure; none where nobody has any.

        Args:
            names: names of the systems (S).
            start: what the generation is compared with; None for the start itself.
        """
        if not self._sums:
            return ()
        means_US = np.stack([each.sums_S / each.num for _, each in sorted(self._sums.items())])
        observed_S, resampled_RS = resampled_means(np.ones(len(means_US)), means_US, NUM_RESAMPLES, seed=0)
        values = [
            interval(float(value), resampled_R, CONFIDENCE, len(means_US))
            for value, resampled_R in zip(observed_S, resampled_RS.T, strict=True)
        ]
        is_compared = start is not None and start.is_enough and self.is_enough
        changes = changes_since(start, self) if start is not None and is_compared else [None] * len(values)
        return tuple(
            Figure(name=name, value=value, change=change)
            for name, value, change in zip(names, values, changes, strict=True)
        )


def changes_since(start: UserMeans, later: UserMeans) -> list[Interval]:
    """Return how much each system's figure changed from the start to a generation (S), over resamples of all users of
    both.
    """
    user_ids = sorted({*start.user_ids, *later.user_ids})
    sums_UX = np.stack([_columns(start.mean(each), later.mean(each)) for each in user_ids])
    observed_X, resampled_RX = resampled_sums(
        lambda first, end: sums_UX[first:end], len(sums_UX), NUM_RESAMPLES, seed=0
    )
    observed_S, resampled_RS = _changes(observed_X[None])[0], _changes(resampled_RX)
    return [
        interval(float(value), resampled_R, CONFIDENCE, later.num_users)
        for value, resampled_R in zip(observed_S, resampled_RS.T, strict=True)
    ]


def _columns(start_S: Floats | None, later_S: Floats | None) -> Floats:
    """Return a user's part of the sums: of the generation, of those of it whom the start lacks, of the start, and the
    figures at the start and their change (X)."""
    is_later, is_start = later_S is not None, start_S is not None
    known = next(each for each in (start_S, later_S) if each is not None)
    nothing_S = np.zeros_like(known)
    own_S = nothing_S if start_S is None else start_S
    change_S = nothing_S if later_S is None else later_S - own_S
    return np.concatenate([[is_later, is_later and not is_start, is_start], own_S, change_S])


def _changes(sums_RX: Floats) -> Floats:
    """Return the changes (R, S) of sums of `_columns`."""
    num_later_R1, num_lacking_R1, num_start_R1 = (sums_RX[:, place : place + 1] for place in range(3))
    start_RS, change_RS = np.split(sums_RX[:, 3:], 2, axis=1)
    mean_RS = start_RS / np.maximum(num_start_R1, 1)
    return (change_RS - num_lacking_R1 * mean_RS) / np.maximum(num_later_R1, 1)
