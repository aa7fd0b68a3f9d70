"""Truncated Newton for the MAP codes of very many users at once, with their Laplace posteriors.

For user u with inputs x_i, offsets o_i (scores by shared heads) and prior a ~ N(0, diag(variances)):

    a_u = argmin_a  sum_i weight_i * loss(o_i + x_i' a, target_i) + 1/2 sum_r a_r^2 / variances_r

The problem is convex, so it has one optimum. All users of a chunk take their Newton steps together, each until its own
code has converged. A step is solved for by conjugate gradients (truncated Newton: Dembo, Eisenstat & Steihaug 1982),
which only multiply with the inputs: in units of the prior's standard deviations every eigenvalue of the Hessian is at
least 1, so a few products replace forming and factorizing it. The Hessian at the optimum is the precision of the
Laplace approximation.

Shape suffixes: U users, P rows of the largest user, N candidates, G groups, R code width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hydra_ray.errors import FeatureError
from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable
from hydra_ray.scorer.linear.losses import SOFTMAX, Loss
from hydra_ray.scorer.linear.objective import Objective, State, chunks_of

MAX_STEPS = 60
MAX_HALVINGS = 40
NEGLIGIBLE = 1e-10
"""Squared gradient norm at convergence. No curvature is below 1: the code is then within 1e-5 prior standard deviations
of the optimum.
"""
ROUNDING = 1e-15
"""Newton decrement, in nats per nat of loss, below which double precision cannot tell a step from none."""
ROUGHNESS = 0.1
"""Largest relative residual norm at which conjugate gradients stop (forcing term); less near the optimum, where the
norm itself is less.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """Per-user diagonal Gaussian over codes: prior or posterior."""

    codes_UR: Floats
    """Means of a prior, modes of a posterior."""
    precisions_UR: Floats
    """Precisions in units of those of the head prior: 1 for a user without examples."""
    variances_R: Floats
    """Variances of the head prior; a dimension of variance 0 is fixed."""

    @classmethod
    def prior(cls, num_users: int, variances_R: Floats) -> "Belief":
        """Return the head prior itself for each user: code 0, precision 1."""
        shape = (num_users, len(variances_R))
        return cls(codes_UR=np.zeros(shape), precisions_UR=np.ones(shape), variances_R=variances_R)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Laplace approximation of the posterior of each user's code."""

    codes_UR: Floats
    precisions_URR: Floats
    """Hessians at the codes, in units of the prior's standard deviations."""
    deviations_R: Floats
    """Standard deviations of the prior."""
    losses_U: Floats
    """Negative log posterior at the codes, up to a constant: losses plus half the squared standardized code."""

    def evidences(self) -> Floats:
        """Return each user's log marginal likelihood (U), by Laplace: -loss - 1/2 log det(precision)."""
        return -self.losses_U - 0.5 * np.linalg.slogdet(self.precisions_URR)[1]

    def covariances(self) -> Floats:
        """Return the posterior covariance of each user's code (U, R, R)."""
        return np.linalg.inv(self.precisions_URR) * np.outer(self.deviations_R, self.deviations_R)


class Regression:
    """Users' groups, sorted and padded once, to be solved for many priors and weights."""

    def __init__(self, table: GroupTable, inputs_NR: Floats, offsets_N: Floats, loss: Loss = SOFTMAX) -> None:
        """Sort users by size and pad them once.

        Args:
            table: every group has a target; its features are not read.
            inputs_NR: inputs x that the code is multiplied with.
            offsets_N: scores that the code adds to.

        Raises:
            FeatureError: an input, offset or target is NaN or infinite.
        """
        require_finite(inputs_NR, offsets_N, table.targets_N)
        self.table, self.inputs_NR, self.offsets_N, self.loss = table, inputs_NR, offsets_N, loss
        self._chunks = list(chunks_of(table, inputs_NR, offsets_N))

    def codes(self, variances_R: Floats, weights_G: Floats | None = None, start_UR: Floats | None = None) -> Floats:
        """Return the MAP code of every user (U, R).

        Args:
            variances_R: variances of the Gaussian prior; a dimension of variance 0 stays at 0.
            weights_G: weight of each group, 1 if None; 0 leaves a group out.
            start_UR: initial codes, zero if None; a start near the optimum saves steps.
        """
        deviations_R = np.sqrt(variances_R)
        codes_UR = np.zeros((self.table.num_users, len(variances_R)))
        for objective in self._objectives(deviations_R, weights_G):
            users = objective.rows.users
            start = None if start_UR is None else standardized(start_UR[users], deviations_R)
            codes_UR[users] = minimized(objective, start) * deviations_R
        return codes_UR

    def posterior(self, variances_R: Floats, start_UR: Floats | None = None) -> Posterior:
        """Return the MAP code of every user and its Laplace posterior.

        Args:
            variances_R: variances of the Gaussian prior; a dimension of variance 0 stays at 0.
            start_UR: initial codes, zero if None.
        """
        deviations_R = np.sqrt(variances_R)
        codes_UR = self.codes(variances_R, None, start_UR)
        losses_U = np.zeros(len(codes_UR))
        precisions_URR = np.tile(np.eye(len(variances_R)), (len(codes_UR), 1, 1))
        for objective in self._objectives(deviations_R):
            users = objective.rows.users
            state = objective.state(standardized(codes_UR[users], deviations_R))
            losses_U[users] = state.losses_U
            precisions_URR[users] += objective.row_hessians(state)
        return Posterior(codes_UR=codes_UR, precisions_URR=precisions_URR, deviations_R=deviations_R, losses_U=losses_U)

    def quadratics(self, codes_UR: Floats) -> tuple[Floats, Floats]:
        """Return gradient (U, R) and Hessian (U, R, R) of each user's losses at the codes, without the prior term."""
        gradients_UR = np.zeros(codes_UR.shape)
        hessians_URR = np.zeros((*codes_UR.shape, codes_UR.shape[1]))
        for objective in self._objectives(np.ones(codes_UR.shape[1])):
            users = objective.rows.users
            state = objective.state(codes_UR[users])
            gradients_UR[users] = objective.row_gradients(state)
            hessians_URR[users] = objective.row_hessians(state)
        return gradients_UR, hessians_URR

    def updated(self, prior: Belief, weights_G: Floats | None = None) -> Belief:
        """Update each user's Gaussian by the examples: new modes, and precisions from the diagonal of the Hessian
        there.

        A stored head learns from new history in this way, without the old. A user without examples keeps the prior.

        Args:
            weights_G: weight of each group, 1 if None; 0 leaves a group out.
        """
        codes_UR, precisions_UR = (each.astype(np.float64) for each in (prior.codes_UR, prior.precisions_UR))
        deviations_UR = np.sqrt(prior.variances_R / precisions_UR)
        for objective in self._objectives(deviations_UR, weights_G, codes_UR):
            users = objective.rows.users
            added_UR = minimized(objective)
            codes_UR[users] += added_UR * objective.deviations_UR
            precisions_UR[users] *= 1 + objective.row_diagonals(objective.state(added_UR))
        return Belief(codes_UR=codes_UR, precisions_UR=precisions_UR, variances_R=prior.variances_R)

    def _objectives(
        self, deviations: Floats, weights_G: Floats | None = None, means_UR: Floats | None = None
    ) -> Iterator[Objective]:
        """Yield the objective of each chunk of users who have rows.

        Args:
            deviations: standard deviations of the prior, of all users (R) or of each (U, R).
            means_UR: means of the prior, zero if None.
        """
        for rows in self._chunks:
            own = deviations[None] if deviations.ndim == 1 else deviations[rows.users]
            shifted = rows if means_UR is None else rows.shifted(means_UR[rows.users])
            yield Objective.of(shifted, self.loss, own, weights_G)


def require_finite(*arrays: Floats) -> None:
    """Raise an error if a number is NaN or infinite.

    Raises:
        FeatureError: one is; the caller knows where it was read from.
    """
    for values in arrays:
        # One number tells whether all are finite, unless it overflows.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):
                continue
        is_bad = ~np.isfinite(values)
        if is_bad.any():
            place = tuple(np.argwhere(is_bad)[0].tolist())
            raise FeatureError(
                f"{np.count_nonzero(is_bad)} of {values.size} numbers to fit heads on are NaN or infinite, the first, "
                f"{values[place]}, in row {place[0]}; expected finite ones. Look for failed rows in the stage before."
            )


def standardized(codes: Floats, deviations: Floats) -> Floats:
    """Return codes in units of the prior's standard deviations; 0 where that is 0."""
    return np.where(deviations > 0, codes / np.where(deviations > 0, deviations, 1.0), 0.0)


StepFinder = Callable[[Objective, State, Floats], tuple[Floats, Floats]]
"""Function of an objective, its state and its gradients there; returns steps (U, R) and their changes of the scores (U,
P).
"""


def conjugate_steps(objective: Objective, state: State, gradients_UR: Floats) -> tuple[Floats, Floats]:
    """Solve for Newton steps by conjugate gradients: roughly far from the optimum, nearly exactly close to it."""
    inverses_UR = 1 / (1 + objective.bounds_UR)
    residuals_UR, directions_UR = gradients_UR.copy(), gradients_UR * inverses_UR
    norms_U = np.vecdot(residuals_UR, directions_UR)
    enough_U = 0.1 * NEGLIGIBLE / np.maximum(np.vecdot(gradients_UR, gradients_UR), NEGLIGIBLE)
    goals_U = norms_U * np.minimum(np.maximum(norms_U, enough_U), ROUGHNESS**2)
    steps_UR, changes_UP = np.zeros_like(gradients_UR), np.zeros_like(state.scores_UP)
    for _ in range(2 * gradients_UR.shape[1] + 20):
        is_open_U = norms_U > goals_U
        if not is_open_U.any():
            break
        added_UP = objective.score_changes(directions_UR)
        products_UR = objective.row_products(added_UP, state) + directions_UR
        lengths_U1 = _ratios(norms_U, np.vecdot(directions_UR, products_UR), is_open_U)
        steps_UR += lengths_U1 * directions_UR
        changes_UP += lengths_U1 * added_UP
        residuals_UR -= lengths_U1 * products_UR
        preconditioned_UR = residuals_UR * inverses_UR
        reached_U = np.vecdot(residuals_UR, preconditioned_UR)
        directions_UR = preconditioned_UR + _ratios(reached_U, norms_U, is_open_U) * directions_UR
        norms_U = reached_U
    return steps_UR, changes_UP


def _ratios(above_U: Floats, below_U: Floats, is_open_U: Bools) -> Floats:
    return np.divide(above_U, below_U, out=np.zeros(len(above_U)), where=is_open_U)[:, None]


def minimized(
    objective: Objective,
    start_UR: Floats | None = None,
    find_steps: StepFinder = conjugate_steps,
    tolerance: float = 0.0,
) -> Floats:
    """Minimize the objective; return each user's code (U, R) in units of the prior's standard deviations from its mean.

    Args:
        start_UR: initial codes, zero if None.
        tolerance: Newton decrement, in nats, at which a user's step is the last.
    """
    num_users, _, width = objective.rows.inputs_UPR.shape
    found_UR = np.zeros((num_users, width)) if start_UR is None else start_UR.copy()
    state, places = objective.state(found_UR), np.arange(num_users)
    is_open_U = np.ones(num_users, bool)
    for _ in range(MAX_STEPS):
        gradients_UR = objective.row_gradients(state) + state.codes_UR
        is_open_U &= np.vecdot(gradients_UR, gradients_UR) > NEGLIGIBLE
        if not is_open_U.any():
            break
        gradients_UR[~is_open_U] = 0.0
        steps_UR, changes_UP = find_steps(objective, state, gradients_UR)
        decrements_U = np.vecdot(gradients_UR, steps_UR)
        state, is_stuck_U = _backtracked(objective, state, steps_UR, changes_UP, decrements_U)
        is_open_U &= (decrements_U > tolerance + ROUNDING * (1 + np.abs(state.losses_U))) & ~is_stuck_U
        if 0 < 2 * is_open_U.sum() <= len(is_open_U):
            found_UR[places] = state.codes_UR
            kept = np.flatnonzero(is_open_U)
            places, objective, state, is_open_U = places[kept], objective.take(kept), state.take(kept), is_open_U[kept]
    found_UR[places] = state.codes_UR
    return found_UR


def _backtracked(
    objective: Objective, state: State, steps_UR: Floats, changes_UP: Floats, decrements_U: Floats
) -> tuple[State, Bools]:
    """Backtrack each user's step by 1, 1/2, 1/4 ... until the loss falls by 1e-4 of what its slope predicts (Armijo).

    Returns:
        The state reached, and a mask of the users whose loss no such step lowers.
    """

    def reach(sizes_U: Floats) -> tuple[State, Bools]:
        sizes_U1 = sizes_U[:, None]
        reached = objective.state(state.codes_UR - sizes_U1 * steps_UR, state.scores_UP - sizes_U1 * changes_UP)
        promised_U = state.losses_U - 1e-4 * sizes_U * decrements_U
        return reached, reached.losses_U > promised_U + 1e-12 * (1 + np.abs(state.losses_U))

    sizes_U = np.ones(len(steps_UR))
    reached, is_short_U = reach(sizes_U)
    for _ in range(MAX_HALVINGS):
        if not is_short_U.any():
            break
        sizes_U[is_short_U] /= 2
        reached, is_short_U = reach(sizes_U)
    return reached, is_short_U
