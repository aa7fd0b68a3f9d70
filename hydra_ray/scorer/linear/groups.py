"""Groups of candidates as flat ragged arrays, their target distributions, and the softmax of their scores.

The loss of a group with target distribution t and scores s is the cross-entropy -sum_c t_c log softmax(s)_c, in nats.

Shape suffixes: U users, G groups, N candidates, C candidates of the largest group, D features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TARGET_SHARPNESS = 5.0
"""Inverse temperature of soft targets: log odds of two candidates whose qualities differ by 1. It is low, so that
targets are nearly uniform: their cross-entropy is then close to the squared error of the scores within the group, which
suits noisy qualities.
"""
_MAX_COLUMNS = 8
"""Size of segments above which NumPy's own reduction is as fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Partition of an array into consecutive, non-empty segments."""

    starts: Ints
    piece_of_place: Ints
    size: int
    """Length of every segment; 0 where they differ. Short segments of one length are added up column by column, several
    times as fast as one after the other, and in the same order.
    """

    @classmethod
    def of(cls, is_start: Bools) -> "Segments":
        """Return the segments that begin where `is_start` is true; its first element must be true."""
        return cls(starts=np.flatnonzero(is_start), piece_of_place=np.cumsum(is_start) - 1, size=0)

    @classmethod
    def even(cls, num_places: int, size: int) -> "Segments":
        """Return the segments of `size` places each."""
        starts = np.arange(0, num_places, size)
        return cls(starts=starts, piece_of_place=np.repeat(np.arange(len(starts)), size), size=size)

    def between(self, start: int, end: int) -> "Segments":
        """Return the segments of the places [start, end), which must cut none."""
        if self.size:
            return Segments.even(end - start, self.size)
        first, last = np.searchsorted(self.starts, (start, end))
        pieces = self.piece_of_place[start:end] - first
        return Segments(starts=self.starts[first:last] - start, piece_of_place=pieces, size=0)

    def sums(self, values: Floats) -> Floats:
        """Return the sum of each segment's values, along the first axis."""
        return self._reduced(np.add, values)

    def maxima(self, values: Floats) -> Floats:
        """Return the largest of each segment's values, along the first axis."""
        return self._reduced(np.maximum, values)

    def spread(self, values: Floats) -> Floats:
        """Repeat each segment's value once for each position in it."""
        return values.take(self.piece_of_place, axis=0)

    def centred(self, rows: Floats, shares: Floats) -> Floats:
        """Return rows minus the sum of their segment's rows, weighted by their shares."""
        if not self._is_by_column:
            return rows - self.spread(self.sums(rows * shares[:, None]))
        pieces, weights = rows.reshape(-1, self.size, rows.shape[1]), shares.reshape(-1, self.size, 1)
        sums = self._added(np.add, (pieces[:, place] * weights[:, place] for place in range(self.size)))
        return (pieces - sums[:, None]).reshape(rows.shape)

    @property
    def _is_by_column(self) -> bool:
        return 1 < self.size <= _MAX_COLUMNS

    def _reduced(self, operation: np.ufunc, values: Floats) -> Floats:
        if not self._is_by_column:
            return operation.reduceat(values, self.starts, axis=0)
        pieces = values.reshape(-1, self.size, *values.shape[1:])
        return self._added(operation, (pieces[:, place] for place in range(self.size)))

    def _added(self, operation: np.ufunc, columns: Iterable[Floats]) -> Floats:
        """Return the reduction of the columns in the order in which NumPy reduces a short segment."""
        first, *others = columns
        return operation(first, reduce(operation, others))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """Ragged users of ragged groups of candidates, as flat arrays."""

    features_ND: Floats
    targets_N: Floats
    """Distribution over the candidates of each group; all zeros where a group has no target."""
    qualities_N: Floats
    """NaN where unknown."""
    group_starts: Ints
    """G + 1 offsets into the candidates: group g is [group_starts[g], group_starts[g + 1])."""
    user_starts: Ints
    """U + 1 offsets into the groups."""

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return len(self.user_starts) - 1

    @property
    def num_groups(self) -> int:
        """Number of groups, G."""
        return len(self.group_starts) - 1

    def user_of_group(self) -> Ints:
        """Return the index of each group's user (G)."""
        return np.repeat(np.arange(self.num_users), np.diff(self.user_starts))

    def group_of_candidate(self) -> Ints:
        """Return the index of each candidate's group (N)."""
        return np.repeat(np.arange(self.num_groups), np.diff(self.group_starts))

    def user_of_candidate(self) -> Ints:
        """Return the index of each candidate's user (N)."""
        return self.user_of_group()[self.group_of_candidate()]

    def segments(self) -> Segments:
        """Return the groups as segments of the candidates; there must be at least one group, and none may be empty."""
        size = even_size(np.diff(self.group_starts))
        if size:
            return Segments.even(int(self.group_starts[-1]), size)
        return Segments(starts=self.group_starts[:-1], piece_of_place=self.group_of_candidate(), size=0)

    def has_target(self) -> Bools:
        """Return a mask of the groups that have a target distribution (G)."""
        return np.bincount(self.group_of_candidate(), self.targets_N, self.num_groups) > 0

    def select(self, is_kept_G: Bools) -> "GroupTable":
        """Return the same users with only the groups of the mask."""
        if is_kept_G.all():
            return self
        kept_N = is_kept_G[self.group_of_candidate()]
        kept_per_user = np.bincount(self.user_of_group()[is_kept_G], minlength=self.num_users)
        return GroupTable(
            features_ND=self.features_ND[kept_N],
            targets_N=self.targets_N[kept_N],
            qualities_N=self.qualities_N[kept_N],
            group_starts=starts_of(np.diff(self.group_starts)[is_kept_G]),
            user_starts=starts_of(kept_per_user),
        )

    def scaled(self, scales_D: Floats) -> "GroupTable":
        """Return the same groups with each feature divided by its scale."""
        return replace(self, features_ND=self.features_ND / scales_D)

    def without_empty_users(self) -> "GroupTable":
        """Return the same groups without the users who have none."""
        return replace(self, user_starts=np.unique(self.user_starts))

    def reassigned_to(self, user_G: Ints, num_users: int) -> "GroupTable":
        """Return the same groups sorted by other users (`user_G`, at most `num_users`), to whom they are reassigned."""
        order = np.argsort(user_G, kind="stable")
        lengths = np.diff(self.group_starts)[order]
        rows = np.repeat(self.group_starts[:-1][order] - starts_of(lengths)[:-1], lengths) + np.arange(lengths.sum())
        return GroupTable(
            features_ND=self.features_ND[rows],
            targets_N=self.targets_N[rows],
            qualities_N=self.qualities_N[rows],
            group_starts=starts_of(lengths),
            user_starts=starts_of(np.bincount(user_G, minlength=num_users)),
        )

    def pooled(self) -> "GroupTable":
        """Return the same groups as if one user had them all."""
        return replace(self, user_starts=np.array([0, self.num_groups], np.int64))


def starts_of(lengths: Sequence[int] | Ints) -> Ints:
    """Return the cumulative offsets of segments of these lengths: 0 first, the total last."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def even_size(lengths: Ints) -> int:
    """Return the length that all segments have; 0 where they differ, or there are none."""
    return int(lengths[0]) if len(lengths) and (lengths == lengths[0]).all() else 0


def target_distribution(qualities: Sequence[float | None], *, has_soft_targets: bool) -> list[float] | None:
    """Return the target distribution of a group, or None where all qualities are equal or one is unknown.

    Args:
        has_soft_targets: targets are softmax(TARGET_SHARPNESS * qualities); otherwise the best candidates share
            probability 1 equally.
    """
    if any(quality is None for quality in qualities) or len(set(qualities)) < 2:
        return None
    values = np.array(qualities, np.float64)
    if not has_soft_targets:
        best = values == values.max()
        return (best / best.sum()).tolist()
    logits = (values - values.max()) * TARGET_SHARPNESS
    return (np.exp(logits) / np.exp(logits).sum()).tolist()


def log_softmax(scores_N: Floats, groups: Segments) -> Floats:
    """Return the log-softmax of the scores within each group (N)."""
    shifted = scores_N - groups.spread(groups.maxima(scores_N))
    return shifted - groups.spread(np.log(groups.sums(np.exp(shifted))))


def group_losses(table: GroupTable, scores_N: Floats) -> Floats:
    """Return the cross-entropy of each group (G), in nats.

    Args:
        table: every group has a target distribution.
    """
    if not table.num_groups:
        return np.zeros(0)
    groups = table.segments()
    return -groups.sums(table.targets_N * log_softmax(scores_N, groups))


def group_probabilities(table: GroupTable, scores_N: Floats) -> Floats:
    """Return the softmax of the scores within each group (N)."""
    return np.exp(log_softmax(scores_N, table.segments()))


def padded_rows(table: GroupTable, users: Ints) -> Ints:
    """Return the positions of the users' candidates as an array (U, G, C) padded with -1."""
    groups = table.user_starts[users][:, None] + np.arange(max(np.diff(table.user_starts)[users].max(initial=0), 1))
    has_group = groups < table.user_starts[users + 1][:, None]
    groups = np.where(has_group, groups, 0)
    if not table.num_groups:
        return np.full((len(users), 1, 1), -1, np.int64)
    lengths = np.where(has_group, np.diff(table.group_starts)[groups], 0)
    places = np.arange(max(lengths.max(initial=0), 1))
    return np.where(places < lengths[:, :, None], table.group_starts[groups][:, :, None] + places, -1)
