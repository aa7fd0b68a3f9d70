"""What heads learn from: candidates in groups, their target distributions, and the loss of scores.

The loss of a group is the cross-entropy between its target distribution and the softmax of its candidates' scores.

Letters in shape suffixes: U users, G groups, N candidates, C candidates of the largest group, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TARGET_SHARPNESS = 5.0
"""Log odds of two candidates whose qualities are 1 apart, where targets are graded. Low, so that targets are nearly
uniform: their cross-entropy is then the squared error of the scores within the query, as noisy qualities deserve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Consecutive pieces of an array, none of them empty, that cover it."""

    starts: Ints
    piece_of_place: Ints

    @classmethod
    def of(cls, is_start: Bools) -> "Segments":
        """Those that start at some places, the first among them."""
        return cls(starts=np.flatnonzero(is_start), piece_of_place=np.cumsum(is_start) - 1)

    def sums(self, values: Floats) -> Floats:
        """Of each piece, along the first axis."""
        return np.add.reduceat(values, self.starts, axis=0)

    def spread(self, values: Floats) -> Floats:
        """Each piece's value, once for each of its places."""
        return values.take(self.piece_of_place, axis=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """Candidates in groups in users, all ragged, as flat arrays."""

    features_ND: Floats
    targets_N: Floats
    """Per group a distribution over its candidates; zeros throughout where a group teaches nothing."""
    qualities_N: Floats
    """NaN where not known."""
    group_starts: Ints
    """G + 1 positions of candidates: group g is [group_starts[g], group_starts[g + 1])."""
    user_starts: Ints
    """U + 1 positions of groups."""

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_starts) - 1

    @property
    def num_groups(self) -> int:
        """G."""
        return len(self.group_starts) - 1

    def user_of_group(self) -> Ints:
        """Index of each group's user."""
        return np.repeat(np.arange(self.num_users), np.diff(self.user_starts))

    def group_of_candidate(self) -> Ints:
        """Index of each candidate's group."""
        return np.repeat(np.arange(self.num_groups), np.diff(self.group_starts))

    def user_of_candidate(self) -> Ints:
        """Index of each candidate's user."""
        return self.user_of_group()[self.group_of_candidate()]

    def segments(self) -> Segments:
        """The groups as pieces of the candidates; there must be one, and none may be empty."""
        return Segments(starts=self.group_starts[:-1], piece_of_place=self.group_of_candidate())

    def teaches(self) -> Bools:
        """Which groups have a target distribution."""
        return np.bincount(self.group_of_candidate(), self.targets_N, self.num_groups) > 0

    def select(self, is_kept_G: Bools) -> "GroupTable":
        """The same users with only some of their groups."""
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
        """The same groups with each feature divided by its scale."""
        return replace(self, features_ND=self.features_ND / scales_D)

    def without_empty_users(self) -> "GroupTable":
        """The same groups, and only the users who have any."""
        return replace(self, user_starts=np.unique(self.user_starts))

    def handed_to(self, user_G: Ints, num_users: int) -> "GroupTable":
        """The same groups, sorted by other users who have them."""
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
        """The same groups as if one user had them all."""
        return replace(self, user_starts=np.array([0, self.num_groups], np.int64))


def starts_of(lengths: Sequence[int] | Ints) -> Ints:
    """Where consecutive pieces of these lengths start, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def target_distribution(qualities: Sequence[float | None], *, has_soft_targets: bool) -> list[float] | None:
    """What a group's scores should be, or None where it teaches nothing: all qualities equal, or one unknown.

    Args:
        has_soft_targets: the target is the softmax of the qualities over all candidates; else the best candidates
            share it equally.
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
    """Logarithms of the softmax of the scores within each group."""
    shifted = scores_N - groups.spread(np.maximum.reduceat(scores_N, groups.starts))
    return shifted - groups.spread(np.log(groups.sums(np.exp(shifted))))


def group_losses(table: GroupTable, scores_N: Floats) -> Floats:
    """Cross-entropy of each group, in nats.

    Args:
        table: every group of it teaches.
    """
    if not table.num_groups:
        return np.zeros(0)
    groups = table.segments()
    return -groups.sums(table.targets_N * log_softmax(scores_N, groups))


def group_probabilities(table: GroupTable, scores_N: Floats) -> Floats:
    """Softmax of the scores within each group."""
    return np.exp(log_softmax(scores_N, table.segments()))


def padded_rows(table: GroupTable, users: Ints) -> Ints:
    """Positions of the users' candidates as (U, G, C); -1 is padding."""
    groups = table.user_starts[users][:, None] + np.arange(max(np.diff(table.user_starts)[users].max(initial=0), 1))
    has_group = groups < table.user_starts[users + 1][:, None]
    groups = np.where(has_group, groups, 0)
    if not table.num_groups:
        return np.full((len(users), 1, 1), -1, np.int64)
    lengths = np.where(has_group, np.diff(table.group_starts)[groups], 0)
    places = np.arange(max(lengths.max(initial=0), 1))
    return np.where(places < lengths[:, :, None], table.group_starts[groups][:, :, None] + places, -1)
