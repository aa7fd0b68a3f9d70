"""Batches of the training users' groups, streamed with one part in memory at a time, in a seeded order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray import storage
from hydra_ray.config import BaseConfig
from hydra_ray.rows import Group, UserExamples, arrow_schema, from_dict
from hydra_ray.scorer.linear.groups import target_distribution
from hydra_ray.scorer.splits import is_holdout, is_new_in
from hydra_ray.seeds import rng_of

WINDOW_BATCHES = 32
"""Number of batches among which groups are shuffled and sorted by length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGroup:
    """Group with a target distribution: its candidates' qualities are known and differ."""

    user_index: int
    """Index of its user among all training users."""
    group: Group
    targets: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Counts from one pass over a rank's share of the training users."""

    num_users: int
    """Number of training users in all parts, those of other ranks included."""
    num_training_groups: int
    """Number of this rank's training groups, without those held out."""
    num_held_out: int
    num_plain: int
    """Number of candidates of this rank's users; the sums are over their handcrafted features."""
    plain_sums: np.ndarray
    plain_squares: np.ndarray


class TrainingGroupStream:
    """Share of one rank: every `num_ranks`-th training user of each part, from position `rank` on."""

    def __init__(
        self,
        locations: Sequence[str],
        num_plain: int,
        config: BaseConfig,
        rank: int = 0,
        num_ranks: int = 1,
        fold: int | None = None,
        *,
        has_soft_targets: bool,
    ) -> None:
        """Count everything in one pass.

        Args:
            fold: fold of a cross-fitted run, whose new users are left out.
            has_soft_targets: see `target_distribution`.
        """
        self._locations, self._config, self._rank, self._num_ranks = locations, config, rank, num_ranks
        self._fold, self._has_soft_targets = fold, has_soft_targets
        self._offsets = [0]
        """Number of training users before each part."""
        num_training_groups = num_held_out = count = 0
        sums, squares = np.zeros(num_plain), np.zeros(num_plain)
        for location in locations:
            num_users, users = self._part(location, 0)
            self._offsets.append(self._offsets[-1] + num_users)
            for _, user in users:
                training_groups = sum(1 for _ in _training_groups(0, user, has_soft_targets))
                is_held_out = self._is_held_out(user)
                num_held_out += training_groups if is_held_out else 0
                num_training_groups += 0 if is_held_out else training_groups
                plain = [candidate.plain for group in user.groups for candidate in group.candidates]
                if plain:
                    count += len(plain)
                    sums += np.sum(plain, axis=0)
                    squares += np.sum(np.square(plain), axis=0)
        self.survey = Survey(
            num_users=self._offsets[-1],
            num_training_groups=num_training_groups,
            num_held_out=num_held_out,
            num_plain=count,
            plain_sums=sums,
            plain_squares=squares,
        )

    def training_groups(self, *, is_held_out: bool) -> Iterator[TrainingGroup]:
        """Yield the training groups of held-out users, or of the others, in the order they are stored."""
        return self._read(range(len(self._locations)), is_held_out=is_held_out)

    def epoch(self, epoch: int, batch_size: int) -> Iterator[list[TrainingGroup]]:
        """Yield shuffled batches of training groups, groups of similar length together."""
        rng = rng_of(self._config.seed, "epoch", str(epoch), str(self._rank))
        # All ranks take the parts in one order, so that a part that was just read is likely to be cached.
        order = rng_of(self._config.seed, "parts", str(epoch)).permutation(len(self._locations))
        window: list[TrainingGroup] = []
        for each in self._read(order, is_held_out=False):
            window.append(each)
            if len(window) == WINDOW_BATCHES * batch_size:
                yield from _batches(window, batch_size, rng)
                window = []
        yield from _batches(window, batch_size, rng)

    def _read(self, order: Sequence[int] | np.ndarray, *, is_held_out: bool) -> Iterator[TrainingGroup]:
        for place in order:
            for index, user in self._part(self._locations[place], self._offsets[place])[1]:
                if self._is_held_out(user) == is_held_out:
                    yield from _training_groups(index, user, self._has_soft_targets)

    def _is_held_out(self, user: UserExamples) -> bool:
        return is_holdout(user.user_id, self._config.seed, self._config.holdout_fraction)

    def _part(self, location: str, offset: int) -> tuple[int, Iterator[tuple[int, UserExamples]]]:
        """Return the number of training users in a part, and this rank's with their indices in all training users."""
        part = storage.read_part(location, arrow_schema(UserExamples))
        rows = np.flatnonzero(~is_new_in(part, self._fold))
        own = rows[self._rank :: self._num_ranks]
        positions = offset + np.arange(len(rows))[self._rank :: self._num_ranks]
        users = (from_dict(row, UserExamples) for row in part.take(own).to_pylist())
        return len(rows), zip(positions.tolist(), users, strict=True)


def _training_groups(user_index: int, user: UserExamples, has_soft_targets: bool) -> Iterator[TrainingGroup]:
    for group in user.groups:
        targets = target_distribution(
            [candidate.quality for candidate in group.candidates], has_soft_targets=has_soft_targets
        )
        if targets is not None:
            yield TrainingGroup(user_index=user_index, group=group, targets=tuple(targets))


def _batches(window: list[TrainingGroup], batch_size: int, rng: np.random.Generator) -> Iterator[list[TrainingGroup]]:
    shuffled = [window[place] for place in rng.permutation(len(window))]
    shuffled.sort(key=_length)
    starts = np.arange(0, len(shuffled), batch_size)
    for start in rng.permutation(starts):
        yield shuffled[start : start + batch_size]


def _length(each: TrainingGroup) -> int:
    return len(each.group.query) + max(len(candidate.text) for candidate in each.group.candidates)
