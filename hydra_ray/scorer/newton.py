"""The numeric core of head fitting: listwise softmax regression for very many users at once.

A user's score of a candidate is an offset (the shared head's score) plus the user's code times the candidate's inputs.
Groups cost their cross-entropy; the code has a Gaussian prior centred on zero. That is convex, so a few Newton steps,
taken for all users of a chunk as one tensor, find the optimum, and the curvature there is the Laplace approximation of
the posterior.

Letters in shape suffixes: U users, G groups, N candidates, C candidates of the largest group, R code width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydra_ray.scorer.heads import Bools, Floats, GroupTable, Ints, padded_rows

CHUNK_ELEMENTS = 200_000
"""Padded inputs that are worked on at once, in numbers: what a processor's cache holds."""
MAX_STEPS = 60
MAX_HALVINGS = 40
TOLERANCE = 1e-5
"""Newton decrement, in nats, below which a user's next step is the last; what remains after it is far smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """The Laplace approximation of all users' codes."""

    codes_UR: Floats
    precisions_URR: Floats
    """In units of the prior's standard deviations."""
    deviations_R: Floats
    """The prior's standard deviations."""
    losses_U: Floats
    """Cross-entropies and prior at the codes."""

    def evidences(self) -> Floats:
        """Log marginal likelihood of each user's targets."""
        return -self.losses_U - 0.5 * np.linalg.slogdet(self.precisions_URR)[1]

    def covariances(self) -> Floats:
        """Of each user's code (U, R, R)."""
        return np.linalg.inv(self.precisions_URR) * np.outer(self.deviations_R, self.deviations_R)


class Regression:
    """Users' groups, made ready to be solved for many priors and weights."""

    def __init__(self, table: GroupTable, inputs_NR: Floats, offsets_N: Floats) -> None:
        """Pad everything once.

        Args:
            table: every group of it teaches; its features are not looked at.
            inputs_NR: what the code is multiplied with.
            offsets_N: scores that the code adds to.
        """
        self.table, self.inputs_NR, self.offsets_N = table, inputs_NR, offsets_N
        self._chunks = [_pad(table, users, inputs_NR, offsets_N) for users in _chunks(table, inputs_NR.shape[1])]

    def codes(self, variances_R: Floats, weights_G: Floats | None = None, start_UR: Floats | None = None) -> Floats:
        """The most probable code (U, R) of every user.

        Args:
            variances_R: of the Gaussian prior; a dimension of variance 0 stays at 0.
            weights_G: how much each group counts, 1 where not given; 0 leaves a group out.
            start_UR: where the search begins, zero where not given; the nearer to the end, the sooner it is found.
        """
        codes = np.zeros((self.table.num_users, len(variances_R)))
        for chunk, objective in self._objectives(variances_R, weights_G):
            codes[chunk.users] = _newton(objective, _start(chunk, objective, start_UR)) * objective.deviations_R
        return codes

    def posterior(self, variances_R: Floats, start_UR: Floats | None = None) -> Posterior:
        """The most probable code of every user, and its uncertainty.

        Args:
            variances_R: of the Gaussian prior; a dimension of variance 0 stays at 0.
            start_UR: where the search begins, zero where not given.
        """
        num_users, width = self.table.num_users, len(variances_R)
        codes, losses, precisions = (
            np.zeros((num_users, width)),
            np.zeros(num_users),
            np.zeros((num_users, width, width)),
        )
        for chunk, objective in self._objectives(variances_R, None):
            solution = _newton(objective, _start(chunk, objective, start_UR))
            losses[chunk.users], _, precisions[chunk.users] = objective.derivatives(solution)
            codes[chunk.users] = solution * objective.deviations_R
        return Posterior(codes_UR=codes, precisions_URR=precisions, deviations_R=np.sqrt(variances_R), losses_U=losses)

    def common_code(
        self, variances_R: Floats, weights_G: Floats, start_R: Floats, tolerance: float = TOLERANCE
    ) -> Floats:
        """The most probable code (R) if all users had the same one.

        Args:
            tolerance: Newton decrement, in nats, below which the next step is the last.
        """
        deviations_R = np.sqrt(variances_R)
        objective = _Common([each for _, each in self._objectives(variances_R, weights_G, prior=0.0)])
        return _newton(objective, _standardized(start_R, deviations_R)[None], tolerance)[0] * deviations_R

    def common_codes_without(self, variances_R: Floats, weights_G: Floats, code_R: Floats) -> Floats:
        """For each user (U, R) about the common code of the other users: one Newton step from that of all.

        Args:
            code_R: the common code for the same variances and weights, or one near it.
        """
        deviations_R, identity = np.sqrt(variances_R), np.eye(len(code_R))
        code = _standardized(code_R, deviations_R)
        gradients = np.zeros((self.table.num_users, len(code)))
        hessians = np.zeros((*gradients.shape, len(code)))
        for chunk, objective in self._objectives(variances_R, weights_G, prior=0.0):
            _, gradients[chunk.users], hessians[chunk.users] = objective.derivatives(_tiled(code[None], objective))
        rest_UR = gradients.sum(axis=0) - gradients + code
        rest_URR = hessians.sum(axis=0) - hessians + identity
        return (code - np.linalg.solve(rest_URR, rest_UR[:, :, None])[:, :, 0]) * deviations_R

    def _objectives(
        self, variances_R: Floats, weights_G: Floats | None, prior: float = 1.0
    ) -> Iterator[tuple["_Chunk", "_Objective"]]:
        weights_G = np.ones(self.table.num_groups) if weights_G is None else weights_G
        deviations_R = np.sqrt(variances_R)
        for chunk in self._chunks:
            weights_UG = np.where(chunk.groups_UG >= 0, np.append(weights_G, 0.0)[chunk.groups_UG], 0.0)
            yield chunk, _Objective(chunk=chunk, weights_UG=weights_UG, deviations_R=deviations_R, prior=prior)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """Some users' groups, padded; padding has inputs and targets of 0."""

    users: Ints
    groups_UG: Ints
    """-1 is padding."""
    inputs_UGCR: Floats
    offsets_UGC: Floats
    targets_UGC: Floats
    mask_UGC: Bools

    def take(self, places: Ints) -> "_Chunk":
        return _Chunk(
            users=self.users[places],
            groups_UG=self.groups_UG[places],
            inputs_UGCR=self.inputs_UGCR[places],
            offsets_UGC=self.offsets_UGC[places],
            targets_UGC=self.targets_UGC[places],
            mask_UGC=self.mask_UGC[places],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objective:
    """What is minimized: weighted cross-entropies plus the prior.

    Codes are in units of the prior's standard deviations: so the problem is well scaled, and a variance of 0 needs no
    case of its own.
    """

    chunk: _Chunk
    weights_UG: Floats
    deviations_R: Floats
    prior: float
    """How often the prior counts: once, or not at all."""

    def take(self, places: Ints) -> "_Objective":
        """The same for some of the users."""
        return replace(self, chunk=self.chunk.take(places), weights_UG=self.weights_UG[places])

    def losses(self, codes_UR: Floats) -> Floats:
        """Of each user."""
        return self._losses_of(self._log_probabilities(codes_UR), codes_UR)

    def derivatives(self, codes_UR: Floats) -> tuple[Floats, Floats, Floats]:
        """Losses, gradients and Hessians by the codes."""
        num_users, width = codes_UR.shape
        inputs_UGCR, weights_UG1 = self.chunk.inputs_UGCR, self.weights_UG[:, :, None]
        log_probabilities = self._log_probabilities(codes_UR)
        probabilities = np.where(self.chunk.mask_UGC, np.exp(log_probabilities), 0)
        residuals = ((probabilities - self.chunk.targets_UGC) * weights_UG1).reshape(num_users, 1, -1)
        gradients = (residuals @ inputs_UGCR.reshape(num_users, -1, width))[:, 0] * self.deviations_R
        hessians = np.zeros((num_users, width, width))
        step = max(1, CHUNK_ELEMENTS // max(1, inputs_UGCR[:, 0].size))
        for first in range(0, inputs_UGCR.shape[1], step):
            groups = slice(first, first + step)
            own, weights_UGC = inputs_UGCR[:, groups], (probabilities * weights_UG1)[:, groups]
            # A sum of weighted covariances; as the product of a matrix with itself it costs half.
            roots = (own - probabilities[:, groups, None, :] @ own) * np.sqrt(weights_UGC)[..., None]
            flat = roots.reshape(num_users, -1, width)
            hessians += flat.transpose(0, 2, 1) @ flat
        hessians = hessians * np.outer(self.deviations_R, self.deviations_R) + self.prior * np.eye(width)
        return self._losses_of(log_probabilities, codes_UR), gradients + self.prior * codes_UR, hessians

    def _log_probabilities(self, codes_UR: Floats) -> Floats:
        num_users, width = codes_UR.shape
        mask = self.chunk.mask_UGC
        flat = self.chunk.inputs_UGCR.reshape(num_users, -1, width) @ (codes_UR * self.deviations_R)[:, :, None]
        scores = np.where(mask, self.chunk.offsets_UGC + flat.reshape(mask.shape), -1e30)
        scores -= scores.max(axis=2, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))

    def _losses_of(self, log_probabilities_UGC: Floats, codes_UR: Floats) -> Floats:
        chunk = self.chunk
        entropies = -np.where(chunk.mask_UGC, chunk.targets_UGC * log_probabilities_UGC, 0).sum(axis=2)
        return (entropies * self.weights_UG).sum(axis=1) + 0.5 * self.prior * (codes_UR**2).sum(axis=1)


@dataclass(frozen=True, slots=True)
class _Common:
    """What is minimized by one code that all users have; its prior counts once, those of the parts do not."""

    parts: Sequence[_Objective]

    def take(self, _: Ints) -> "_Common":
        """There is but one code to take."""
        return self

    def losses(self, codes_1R: Floats) -> Floats:
        """Of the one code."""
        loss = sum(part.losses(_tiled(codes_1R, part)).sum() for part in self.parts)
        return loss + 0.5 * (codes_1R**2).sum(axis=1)

    def derivatives(self, codes_1R: Floats) -> tuple[Floats, Floats, Floats]:
        """Loss, gradient and Hessian by the one code."""
        parts = [part.derivatives(_tiled(codes_1R, part)) for part in self.parts]
        loss, gradient, hessian = (
            np.sum([own.sum(axis=0) for own in kind], axis=0) for kind in zip(*parts, strict=True)
        )
        prior = 0.5 * (codes_1R**2).sum(axis=1)
        return loss + prior, gradient + codes_1R, hessian[None] + np.eye(codes_1R.shape[1])


def _tiled(codes_1R: Floats, objective: _Objective) -> Floats:
    return np.tile(codes_1R, (len(objective.weights_UG), 1))


def _pad(table: GroupTable, users: Ints, inputs_NR: Floats, offsets_N: Floats) -> _Chunk:
    rows = padded_rows(table, users)
    mask = rows >= 0
    groups = np.append(table.group_of_candidate(), -1)[rows[:, :, 0]]
    return _Chunk(
        users=users,
        groups_UG=groups,
        inputs_UGCR=_gather(inputs_NR, rows, mask),
        offsets_UGC=_gather(offsets_N, rows, mask),
        targets_UGC=_gather(table.targets_N, rows, mask),
        mask_UGC=mask,
    )


def _gather(values: Floats, rows_UGC: Ints, mask_UGC: Bools) -> Floats:
    if not len(values):
        return np.zeros((*rows_UGC.shape, *values.shape[1:]))
    gathered = values[rows_UGC].astype(np.float64, copy=False)
    gathered[~mask_UGC] = 0
    return gathered


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


def _start(chunk: _Chunk, objective: _Objective, start_UR: Floats | None) -> Floats:
    if start_UR is None:
        return np.zeros((len(chunk.users), len(objective.deviations_R)))
    return _standardized(start_UR[chunk.users], objective.deviations_R)


def _standardized(codes: Floats, deviations_R: Floats) -> Floats:
    return np.where(deviations_R > 0, codes / np.where(deviations_R > 0, deviations_R, 1.0), 0.0)


def _newton(objective: _Objective | _Common, start_UR: Floats, tolerance: float = TOLERANCE) -> Floats:
    codes = start_UR.copy()
    active = np.arange(len(codes))
    for _ in range(MAX_STEPS):
        losses, gradients, hessians = objective.derivatives(codes[active])
        steps = np.linalg.solve(hessians, gradients[:, :, None])[:, :, 0]
        decrements = (gradients * steps).sum(axis=1)
        codes[active] -= _step_sizes(objective, codes[active], steps, losses, decrements)[:, None] * steps
        unfinished = decrements > tolerance
        if not unfinished.any():
            break
        if not unfinished.all():
            active, objective = active[unfinished], objective.take(np.flatnonzero(unfinished))
    return codes


def _step_sizes(
    objective: _Objective | _Common, codes_UR: Floats, steps_UR: Floats, losses_U: Floats, decrements_U: Floats
) -> Floats:
    """The largest of 1, 1/2, 1/4 ... that lowers each user's loss as much as its slope promises."""
    sizes, is_short = np.ones(len(codes_UR)), np.ones(len(codes_UR), bool)
    for _ in range(MAX_HALVINGS):
        reached = objective.losses(codes_UR - sizes[:, None] * steps_UR)
        is_short = reached > losses_U - 1e-4 * sizes * decrements_U + 1e-12 * (1 + np.abs(losses_U))
        if not is_short.any():
            return sizes
        sizes[is_short] /= 2
    return np.where(is_short, 0.0, sizes)
