"""Own heads fitted on all records of a user: the prior, the search of its shape, and updates.

With t(l, i) the score that label l of item i has for everybody, and psi(l, i) inputs that read none of the user's other
records, user u scores

    s_u(l, i) = t(l, i) + psi(l, i)' B a_u            a_u ~ N(0, 1)
    a_u(S) = argmax  sum_{j in S} w_j log softmax(s_u)[y_j] - 1/2 |a_u|^2

B is a basis of deviations, estimated from other users (empirical Bayes) and scaled by the prior's standard deviations:
the leading eigenvectors of the covariance of users' deviations, which expectation maximization finds on each user's
quadratic approximation of the losses, made anew at the users' modes a few times.

S is the support (`hydra_ray.scorer.linear.support`).

Shape suffixes: U users, G records, N candidates (a label of a record), D inputs, R rank, M shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from hydra_ray.scorer.linear.groups import Floats, GroupTable, Ints, group_losses
from hydra_ray.scorer.linear.newton import Belief, Regression
from hydra_ray.scorer.linear.support import Support, decay, held_out_scores

RANKS = (4, 12, 24, 48)
"""Candidates for the number of directions in which users differ."""
FACTORS = (0.1, 0.3, 0.5, 1.0, 2.0)
"""Candidates for the factor on the estimated prior variances."""
HALF_LIVES = (np.inf, 40.0, 20.0, 10.0)
"""Candidates for the age, in records, at which a dated record counts half."""
NUM_APPROXIMATIONS, NUM_STEPS = 3, 15
"""Number of quadratic approximations, and of steps of expectation maximization on each. Variances still grow after the
last one: to stop early is to shrink, and how far is then chosen on held-out users."""
MAX_SEARCH_USERS = 100
"""Number of users of a fold on whom candidate values are compared."""
PRIOR_USERS = 3.0
"""Pseudo-count, in users, of the covariance that expectation maximization starts from."""


class OwnShape(NamedTuple):
    """Values that are chosen by the loss on held-out records of held-out users."""

    rank: int
    factor: float
    half_life: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrior:
    """Directions in which users differ, and the variance of their codes along each, the largest first."""

    directions_DR: Floats
    variances_R: Floats

    def basis(self, shape: OwnShape) -> Floats:
        """Return the basis of a shape (D, R), scaled so that codes have prior variance 1."""
        variances_R = shape.factor * self.variances_R[: shape.rank]
        return self.directions_DR[:, : shape.rank] * np.sqrt(variances_R)


def fit_own_prior(table: GroupTable, offsets_N: Floats, start_D: Floats) -> OwnPrior:
    """Estimate how users deviate from the scores that labels have for everybody.

    Args:
        table: records with the inputs psi; each has a target.
        offsets_N: scores t.
        start_D: variances of the deviations to start from. They must not be small: from there what users have in
            common is not found.
    """
    table = table.without_empty_users()
    regression = Regression(table, table.features_ND, offsets_N)
    covariance_DD = np.diag(start_D)
    for _ in range(NUM_APPROXIMATIONS if table.num_users else 0):
        codes_UD = _modes(regression, covariance_DD)
        gradients_UD, hessians_UDD = regression.quadratics(codes_UD)
        slopes_UD = np.einsum("ude,ue->ud", hessians_UDD, codes_UD) - gradients_UD
        for _ in range(NUM_STEPS):
            covariances_UDD = np.linalg.inv(hessians_UDD + np.linalg.inv(covariance_DD))
            codes_UD = np.einsum("ude,ue->ud", covariances_UDD, slopes_UD)
            moments_DD = codes_UD.T @ codes_UD + covariances_UDD.sum(axis=0)
            covariance_DD = (moments_DD + PRIOR_USERS * np.diag(start_D)) / (table.num_users + PRIOR_USERS)
    return _leading(covariance_DD)


def _modes(regression: Regression, covariance_DD: Floats) -> Floats:
    """Return the mode of each user's deviations (U, D) under a Gaussian prior of any covariance."""
    values_D, directions_DD = np.linalg.eigh(covariance_DD)
    basis_DD = directions_DD * np.sqrt(np.maximum(values_D, 0))
    rotated = Regression(regression.table, regression.inputs_NR @ basis_DD, regression.offsets_N)
    return rotated.codes(np.ones(len(values_D))) @ basis_DD.T


def _leading(covariance_DD: Floats) -> OwnPrior:
    """Return the leading eigenvectors, the largest weight of each positive: eigenvectors have no sign of their own."""
    values_D, directions_DD = np.linalg.eigh((covariance_DD + covariance_DD.T) / 2)
    directions_DR = directions_DD[:, ::-1][:, : max(RANKS)]
    largest_R = directions_DR[np.abs(directions_DR).argmax(axis=0), np.arange(directions_DR.shape[1])]
    variances_R = np.maximum(values_D[::-1][: max(RANKS)], 0)
    return OwnPrior(directions_DR=directions_DR * np.sign(largest_R), variances_R=variances_R)


def shapes_of(num_inputs: int, *, is_dated: bool) -> list[OwnShape]:
    """Return the candidates for the shape, ranks above the number of inputs once."""
    ranks = sorted({min(rank, num_inputs) for rank in RANKS})
    half_lives = HALF_LIVES if is_dated else HALF_LIVES[:1]
    return [OwnShape(rank, factor, half_life) for rank in ranks for half_life in half_lives for factor in FACTORS]


def shape_losses(
    table: GroupTable, offsets_N: Floats, support: Support, prior: OwnPrior, shapes: Sequence[OwnShape]
) -> Floats:
    """Return each user's mean held-out loss by shape (U, M), in nats; NaN for users of whom nothing is asked.

    Args:
        table: records of users on whom the prior was not estimated.
    """
    is_asked_G = support.block_G >= 0
    user_G = table.user_of_group()
    num_asked_U = np.bincount(user_G[is_asked_G], minlength=table.num_users)
    losses_UM = np.empty((table.num_users, len(shapes)))
    for place, shape in enumerate(shapes):
        inputs_NR = table.features_ND @ prior.basis(shape)
        regression = Regression(table, inputs_NR, offsets_N)
        scores_N = held_out_scores(regression, np.ones(shape.rank), support, shape.half_life)
        losses_G = group_losses(table, scores_N) * is_asked_G
        sums_U = np.bincount(user_G, losses_G, minlength=table.num_users)
        losses_UM[:, place] = np.divide(sums_U, num_asked_U, out=np.full(len(sums_U), np.nan), where=num_asked_U > 0)
    return losses_UM


def aged(belief: Belief, num_records_U: Ints, half_life: float) -> Belief:
    """Return what a code is worth when its user has so many records more: the evidence on it counts less.

    The evidence is what the precision exceeds that of the head prior by; the mode follows as of a Gaussian.
    """
    left_U1 = decay(num_records_U.astype(np.float64), half_life)[:, None]
    precisions_UR = 1 + (belief.precisions_UR - 1) * left_U1
    codes_UR = belief.codes_UR * belief.precisions_UR * left_U1 / precisions_UR
    return replace(belief, codes_UR=codes_UR, precisions_UR=precisions_UR)
