"""Batches of the training users' groups, streamed with one part in memory at a time, in a seeded order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

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
    """Group with a target distribution: its candidates' qualities are known and differ. Where users have networks and
    candidates are judged alone, they may be equal too, and the distribution is uniform."""

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
    """Training groups for one rank.

    Of what is counted and evaluated, a rank has every `num_ranks`-th training user of each part, from position `rank`
    on. The batches of an epoch are the same for any number of ranks, which share each of them: every rank reads all
    groups, which costs little beside encoding its own.
    """

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
            num_users, users = self._part(location, 0, is_shared=True)
            self._offsets.append(self._offsets[-1] + num_users)
            for _, user in users:
                training_groups = sum(1 for _ in self._training_groups(0, user))
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
        """Yield this rank's training groups of held-out users, or of the others, in the order they are stored."""
        return self._read(range(len(self._locations)), is_held_out=is_held_out, is_shared=True)

    def first(self, number: int) -> Iterator[TrainingGroup]:
        """Yield this rank's share of the first training groups of all that are not held out."""
        every = self._read(range(len(self._locations)), is_held_out=False, is_shared=False)
        return islice(every, self._rank, number, self._num_ranks)

    def epoch(self, epoch: int) -> Iterator[list[TrainingGroup]]:
        """Yield this rank's share, which may be empty, of shuffled batches of groups of similar length.

        Parts are read in an order of the epoch's own until it has all of its groups. Where not all groups fit into an
        epoch, the users of a part are read in an order of the epoch's own too, so that all have the same chance.
        """
        max_groups = self._config.max_epoch_groups
        batch_size = self._config.batch_groups
        rng = rng_of(self._config.seed, "epoch", str(epoch), "0")
        order = rng_of(self._config.seed, "parts", str(epoch)).permutation(len(self._locations))
        users_rng = None if max_groups is None else rng_of(self._config.seed, "users", str(epoch))
        every = islice(self._read(order, is_held_out=False, is_shared=False, rng=users_rng), max_groups)
        while window := list(islice(every, WINDOW_BATCHES * batch_size)):
            for batch in _batches(window, batch_size, rng):
                yield batch[self._rank :: self._num_ranks]

    def _read(
        self,
        order: Sequence[int] | np.ndarray,
        *,
        is_held_out: bool,
        is_shared: bool,
        rng: np.random.Generator | None = None,
    ) -> Iterator[TrainingGroup]:
        """Yield the training groups of the parts in this order.

        Args:
            rng: order of the users of a part; None for the stored one.
        """
        for place in order:
            users = self._part(self._locations[place], self._offsets[place], is_shared=is_shared, rng=rng)[1]
            for index, user in users:
                if self._is_held_out(user) == is_held_out:
                    yield from self._training_groups(index, user)

    def _training_groups(self, user_index: int, user: UserExamples) -> Iterator[TrainingGroup]:
        for group in user.groups:
            qualities = [candidate.quality for candidate in group.candidates]
            targets = target_distribution(qualities, has_soft_targets=self._has_soft_targets)
            if targets is None and self._takes_equals and qualities and None not in qualities:
                targets = [1 / len(qualities)] * len(qualities)
            if targets is not None:
                yield TrainingGroup(user_index=user_index, group=group, targets=tuple(targets))

    @property
    def _takes_equals(self) -> bool:
        return self._config.training_heads == "networks" and self._config.loss == "pointwise"

    def _is_held_out(self, user: UserExamples) -> bool:
        return is_holdout(user.user_id, self._config.seed, self._config.holdout_fraction)

    def _part(
        self, location: str, offset: int, *, is_shared: bool, rng: np.random.Generator | None = None
    ) -> tuple[int, Iterator[tuple[int, UserExamples]]]:
        """Return the number of training users in a part, and these with their indices in all training users.

        Args:
            is_shared: whether only this rank's are wanted.
            rng: their order; None for the stored one.
        """
        part = storage.read_part(location, arrow_schema(UserExamples))
        rows = np.flatnonzero(~is_new_in(part, self._fold))
        places = np.arange(len(rows)) if rng is None else rng.permutation(len(rows))
        if is_shared:
            places = places[self._rank :: self._num_ranks]
        users = (from_dict(row, UserExamples) for row in part.take(rows[places]).to_pylist())
        return len(rows), zip((offset + places).tolist(), users, strict=True)


def _batches(window: list[TrainingGroup], batch_size: int, rng: np.random.Generator) -> Iterator[list[TrainingGroup]]:
    shuffled = [window[place] for place in rng.permutation(len(window))]
    shuffled.sort(key=_length)
    starts = np.arange(0, len(shuffled), batch_size)
    for start in rng.permutation(starts):
        yield shuffled[start : start + batch_size]


def _length(each: TrainingGroup) -> int:
    return len(each.group.query) + max(len(candidate.text) for candidate in each.group.candidates)
