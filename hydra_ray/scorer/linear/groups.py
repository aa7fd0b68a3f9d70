"""Groups of candidates as flat ragged arrays, their target distributions, and the softmax of their scores.

The loss of a group with target distribution t and scores s is the cross-entropy -sum_c t_c log softmax(s)_c, in nats.

Shape suffixes: U users, G groups, N candidates, C candidates of the largest group, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Partition of an array into consecutive, non-empty segments."""

    starts: Ints
    piece_of_place: Ints

    @classmethod
    def of(cls, is_start: Bools) -> "Segments":
        """Return the segments that begin where `is_start` is true; its first element must be true."""
        return cls(starts=np.flatnonzero(is_start), piece_of_place=np.cumsum(is_start) - 1)

    def sums(self, values: Floats) -> Floats:
        """Return the sum of each segment's values, along the first axis."""
        return np.add.reduceat(values, self.starts, axis=0)

    def spread(self, values: Floats) -> Floats:
        """Repeat each segment's value once for each position in it."""
        return values.take(self.piece_of_place, axis=0)


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
        return Segments(starts=self.group_starts[:-1], piece_of_place=self.group_of_candidate())

    def has_target(self) -> Bools:
        """Return a mask of the groups that have a target distribution (G)."""
        return np.bincount(self.group_of_candidate(), self.targets_N, self.num_groups) > 0

    def select(self, is_kept_G: Bools) -> "GroupTable":
        """Return the same users with only the groups of the mask."""
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
    shifted = scores_N - groups.spread(np.maximum.reduceat(scores_N, groups.starts))
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
