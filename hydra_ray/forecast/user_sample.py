"""The users on whom a forecast is made: all of them, or a sample from whom it is scaled to all."""

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
"""Standard errors on each side of an estimate: 95 % intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval, which says only what looking at a sample of the users leaves open."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Estimate") -> "Estimate":
        """Of two numbers that were estimated on the same users, so that their errors may agree."""
        return Estimate(value=self.value + other.value, low=self.low + other.low, high=self.high + other.high)

    def scaled(self, factor: float) -> "Estimate":
        """Return the same number in another unit."""
        return Estimate(value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSample:
    """Some users of a run."""

    users: Mapping[int, Sequence[User]]
    """By bucket."""
    counters: Mapping[str, float]
    """Of the whole users table: users, train_users, new_users, records, queries, rejected."""

    @property
    def num_users(self) -> int:
        """Of the whole run."""
        return round(self.counters["users"])

    @property
    def size(self) -> int:
        """Users that are looked at."""
        return sum(map(len, self.users.values()))

    def total(self, values_U: NDArray[np.floating]) -> Estimate:
        """Return the sum over all users of a run, by its values for those of the sample."""
        size = len(values_U)
        if not size:
            return Estimate(value=0.0, low=0.0, high=0.0)
        total = float(values_U.mean()) * self.num_users
        left_out = 1 - size / self.num_users
        error = _Z * self.num_users * float(values_U.std(ddof=1)) * math.sqrt(left_out / size) if size > 1 else 0.0
        return Estimate(value=total, low=max(total - error, 0.0), high=total + error)


def sample_users(users: Stage, max_users: int) -> UserSample:
    """Return at most `max_users` users of a complete users stage, of as few buckets as hold them.

    Users are in a bucket by a hash, so that each bucket is itself a sample. One bucket is in memory at a time.
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
