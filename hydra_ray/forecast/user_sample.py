"""Users on which a forecast is computed: all of them, or a sample that is extrapolated."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hydra_ray.lamp.users import USERS
from hydra_ray.rows import User, arrow_schema, from_table
from hydra_ray.runs.stage import Stage
from hydra_ray.seeds import seed_of
from hydra_ray.storage import add_counters, read_counters, read_part

_Z = 1.96
"""Standard errors on each side of an estimate, for 95 % intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval, which covers only the error of sampling users."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Estimate") -> "Estimate":
        """Add a number estimated on the same users; the interval assumes fully correlated errors."""
        return Estimate(value=self.value + other.value, low=self.low + other.low, high=self.high + other.high)

    def scaled(self, factor: float) -> "Estimate":
        """Return the estimate multiplied by `factor`."""
        return Estimate(value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSample:
    """Sample of the users of a run."""

    users: Mapping[int, Sequence[User]]
    """Users by bucket."""
    counters: Mapping[str, float]
    """Counters of the whole users table: users, train_users, new_users, records, queries, rejected."""

    @property
    def num_users(self) -> int:
        """Number of users of the whole run."""
        return round(self.counters["users"])

    @property
    def size(self) -> int:
        """Number of users in the sample."""
        return sum(map(len, self.users.values()))

    def total(self, values_U: NDArray[np.floating]) -> Estimate:
        """Return the estimated sum over all users of a run, given the values of the sample."""
        size = len(values_U)
        if not size:
            return Estimate(value=0.0, low=0.0, high=0.0)
        total = float(values_U.mean()) * self.num_users
        left_out = 1 - size / self.num_users
        error = _Z * self.num_users * float(values_U.std(ddof=1)) * math.sqrt(left_out / size) if size > 1 else 0.0
        return Estimate(value=total, low=max(total - error, 0.0), high=total + error)


def sample_users(users: Stage, max_users: int) -> UserSample:
    """Return at most `max_users` users of a complete users stage, from as few buckets as possible.

    Users are assigned to buckets by a hash, so each bucket is itself a random sample. One bucket is in memory at a
    time.
    """
    found: dict[int, list[User]] = {}
    room = max_users
    for bucket in sorted(users.buckets, key=lambda each: seed_of(0, "forecast", str(each))):
        if not room:
            break
        rows = list(from_table(read_part(users.part(USERS, bucket), arrow_schema(User)), User))
        rows.sort(key=lambda user: seed_of(0, "forecast", user.user_id))
        found[bucket] = rows[:room]
        room -= len(found[bucket])
    return UserSample(users=found, counters=add_counters(read_counters(location) for location in users.parts(USERS)))
