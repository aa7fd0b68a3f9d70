"""The numeric core of head fitting: listwise softmax regression for very many users at once.

A user's score of a candidate is an offset (the shared head's score) plus the user's code times the candidate's inputs.
The loss of a group is the cross-entropy between its target distribution and the softmax of its scores; the code has a
Gaussian prior centred on zero. That is convex, so a few Newton steps, taken for all users of a chunk as one tensor,
find the optimum, and the curvature there is the Laplace approximation of the posterior.

Letters in shape suffixes: U users, G groups, N candidates, C candidates of the largest group, D features, R code width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CHUNK_ELEMENTS = 4_000_000
"""Padded inputs that are held at once, in numbers."""
MAX_STEPS = 60
MAX_HALVINGS = 40
TOLERANCE = 1e-9
"""Newton decrement, in nats, below which a user is done."""
TARGET_TEMPERATURE = 0.5


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

    def teaches(self) -> Bools:
        """Which groups have a target distribution."""
        sums = np.zeros(self.num_groups)
        np.add.at(sums, self.group_of_candidate(), self.targets_N)
        return sums > 0

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

    def pooled(self) -> "GroupTable":
        """The same groups as if one user had them all."""
        return replace(self, user_starts=np.array([0, self.num_groups], np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The Laplace approximation of all users' codes."""

    codes_UR: Floats
    covariances_URR: Floats
    evidences_U: Floats
    """Log marginal likelihood of each user's targets."""


def starts_of(lengths: Sequence[int] | Ints) -> Ints:
    """Where consecutive pieces of these lengths start, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def target_distribution(qualities: Sequence[float | None], *, is_graded: bool) -> list[float] | None:
    """What a group's scores should be, or None where it teaches nothing: all qualities equal, or one unknown.

    Args:
        is_graded: also candidates that are not the best have their part: a softmax of the standardized qualities.
            Without it, and where there are but two distinct ones, the best candidates share everything.
    """
    if any(quality is None for quality in qualities) or len(set(qualities)) < 2:
        return None
    values = np.array(qualities, np.float64)
    if len(set(qualities)) == 2 or not is_graded:
        best = values == values.max()
        return (best / best.sum()).tolist()
    logits = (values - values.max()) / (values.std() * TARGET_TEMPERATURE)
    return (np.exp(logits) / np.exp(logits).sum()).tolist()


def group_losses(table: GroupTable, scores_N: Floats) -> Floats:
    """Cross-entropy of each group, in nats.

    Args:
        table: every group of it teaches.
    """
    if not table.num_groups:
        return np.zeros(0)
    starts = table.group_starts[:-1]
    group_N = table.group_of_candidate()
    shifted = scores_N - np.maximum.reduceat(scores_N, starts)[group_N]
    log_sums = np.log(np.add.reduceat(np.exp(shifted), starts))
    return -np.add.reduceat(table.targets_N * (shifted - log_sums[group_N]), starts)


def fit_codes(
    table: GroupTable,
    inputs_NR: Floats,
    offsets_N: Floats,
    variances_R: Floats,
    weights_G: Floats | None = None,
    start_UR: Floats | None = None,
) -> Fit:
    """The most probable code of every user, and its uncertainty.

    Args:
        table: every group of it teaches; its features are not looked at.
        inputs_NR: what the code is multiplied with.
        offsets_N: scores that the code adds to.
        variances_R: of the Gaussian prior; a dimension of variance 0 stays at 0.
        weights_G: how much each group counts, 1 where not given; 0 leaves a group out.
        start_UR: where the search begins, zero where not given; the nearer to the end, the sooner it is found.
    """
    num_users, width = table.num_users, inputs_NR.shape[1]
    # With unit prior variance the problem is well scaled, and a variance of 0 needs no case of its own.
    deviations_R = np.sqrt(variances_R)
    weights_G = np.ones(table.num_groups) if weights_G is None else weights_G
    codes = np.zeros((num_users, width))
    covariances = np.zeros((num_users, width, width))
    evidences = np.zeros(num_users)
    scaled_NR = inputs_NR * deviations_R
    for users in _chunks(table, width):
        chunk = _pad(table, users, scaled_NR, offsets_N, weights_G)
        start = np.zeros((len(users), width)) if start_UR is None else start_UR[users] / _nonzero(deviations_R)
        solution = _newton(chunk, start)
        losses, _, hessians = chunk.derivatives(solution)
        codes[users] = solution * deviations_R
        covariances[users] = np.linalg.inv(hessians) * np.outer(deviations_R, deviations_R)
        evidences[users] = -losses - 0.5 * np.linalg.slogdet(hessians)[1]
    return Fit(codes_UR=codes, covariances_URR=covariances, evidences_U=evidences)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """Some users' groups, padded; padding has mask, targets and weights of 0."""

    inputs_UGCR: Floats
    offsets_UGC: Floats
    targets_UGC: Floats
    mask_UGC: Bools
    weights_UG: Floats

    def take(self, users: Ints) -> "_Chunk":
        return _Chunk(
            inputs_UGCR=self.inputs_UGCR[users],
            offsets_UGC=self.offsets_UGC[users],
            targets_UGC=self.targets_UGC[users],
            mask_UGC=self.mask_UGC[users],
            weights_UG=self.weights_UG[users],
        )

    def _log_probabilities(self, codes_UR: Floats) -> Floats:
        num_users, width = codes_UR.shape
        flat = self.inputs_UGCR.reshape(num_users, -1, width) @ codes_UR[:, :, None]
        scores = np.where(self.mask_UGC, self.offsets_UGC + flat.reshape(self.mask_UGC.shape), -1e30)
        scores -= scores.max(axis=2, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))

    def _losses_of(self, log_probabilities_UGC: Floats, codes_UR: Floats) -> Floats:
        entropies = -np.where(self.mask_UGC, self.targets_UGC * log_probabilities_UGC, 0).sum(axis=2)
        return (entropies * self.weights_UG).sum(axis=1) + 0.5 * (codes_UR**2).sum(axis=1)

    def losses(self, codes_UR: Floats) -> Floats:
        """What is minimized: weighted cross-entropies plus the prior."""
        return self._losses_of(self._log_probabilities(codes_UR), codes_UR)

    def derivatives(self, codes_UR: Floats) -> tuple[Floats, Floats, Floats]:
        """Losses, gradients and Hessians by the codes."""
        num_users, width = codes_UR.shape
        log_probabilities = self._log_probabilities(codes_UR)
        probabilities = np.where(self.mask_UGC, np.exp(log_probabilities), 0) * self.weights_UG[:, :, None]
        residuals = probabilities - self.targets_UGC * self.weights_UG[:, :, None]
        inputs = self.inputs_UGCR.reshape(num_users, -1, width)
        gradients = (residuals.reshape(num_users, 1, -1) @ inputs)[:, 0] + codes_UR
        means_UGR = (probabilities[:, :, None, :] @ self.inputs_UGCR)[:, :, 0]
        # Weights enter means once, so the outer product of two of them is divided by one.
        safe_UG1 = np.where(self.weights_UG > 0, self.weights_UG, 1)[:, :, None]
        weighted = inputs * probabilities.reshape(num_users, -1, 1)
        hessians = inputs.transpose(0, 2, 1) @ weighted - (means_UGR / safe_UG1).transpose(0, 2, 1) @ means_UGR
        return self._losses_of(log_probabilities, codes_UR), gradients, hessians + np.eye(width)


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


def _pad(table: GroupTable, users: Ints, inputs_NR: Floats, offsets_N: Floats, weights_G: Floats) -> _Chunk:
    rows = padded_rows(table, users)
    mask = rows >= 0
    if not len(inputs_NR):
        inputs_NR, offsets_N, targets_N = np.zeros((1, inputs_NR.shape[1])), np.zeros(1), np.zeros(1)
        weights_N = np.zeros(1)
    else:
        targets_N, weights_N = table.targets_N, weights_G[table.group_of_candidate()]
    return _Chunk(
        inputs_UGCR=np.where(mask[..., None], inputs_NR[rows], 0),
        offsets_UGC=np.where(mask, offsets_N[rows], 0),
        targets_UGC=np.where(mask, targets_N[rows], 0),
        mask_UGC=mask,
        weights_UG=np.where(mask[:, :, 0], weights_N[rows[:, :, 0]], 0),
    )


def _chunks(table: GroupTable, width: int) -> Iterator[Ints]:
    """Users of similar size together, so that little is padded."""
    counts = np.diff(table.user_starts)
    order = np.argsort(-counts, kind="stable")
    largest = int(np.diff(table.group_starts).max(initial=1))
    start = 0
    while start < len(order):
        size = max(1, CHUNK_ELEMENTS // max(1, int(counts[order[start]]) * largest * max(width, 1)))
        yield order[start : start + size]
        start += size


def _nonzero(values: Floats) -> Floats:
    return np.where(values > 0, values, 1.0)


def _newton(chunk: _Chunk, start_UR: Floats) -> Floats:
    codes = start_UR.copy()
    active = np.arange(len(codes))
    for _ in range(MAX_STEPS):
        losses, gradients, hessians = chunk.derivatives(codes[active])
        steps = np.linalg.solve(hessians, gradients[:, :, None])[:, :, 0]
        decrements = (gradients * steps).sum(axis=1)
        codes[active] -= _step_sizes(chunk, codes[active], steps, losses, decrements)[:, None] * steps
        unfinished = decrements > TOLERANCE
        if not unfinished.any():
            break
        if not unfinished.all():
            active, chunk = active[unfinished], chunk.take(np.flatnonzero(unfinished))
    return codes


def _step_sizes(chunk: _Chunk, codes_UR: Floats, steps_UR: Floats, losses_U: Floats, decrements_U: Floats) -> Floats:
    """The largest of 1, 1/2, 1/4 ... that lowers each user's loss as much as its slope promises."""
    sizes, is_short = np.ones(len(codes_UR)), np.ones(len(codes_UR), bool)
    for _ in range(MAX_HALVINGS):
        reached = chunk.losses(codes_UR - sizes[:, None] * steps_UR)
        is_short = reached > losses_U - 1e-4 * sizes * decrements_U + 1e-12 * (1 + np.abs(losses_U))
        if not is_short.any():
            return sizes
        sizes[is_short] /= 2
    return np.where(is_short, 0.0, sizes)
