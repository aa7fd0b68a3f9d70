"""Three convex losses of scores: softmax cross-entropy within groups, logistic, squared.

A loss returns for each row (a candidate with its score s) the cost, its first derivative (slope) and its diagonal
second derivative (curvature). For the softmax the Hessian by a group's scores is diag(p) - p p'; it is applied by
centring on the group's mean under p, since a shift of all scores of a group changes nothing.

Shape suffixes: N rows, R code width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from hydra_ray.scorer.linear.groups import Floats, Segments, log_softmax

Derivatives = tuple[Floats, Floats, Floats]
"""Cost, slope and curvature of each row, three arrays (N)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Convex loss of scores against targets. Key: name."""

    name: str
    is_listwise: bool
    """Whether the rows of a group compete; their curvatures are then the softmax probabilities of the group."""
    max_curvature: float
    """Upper bound of the second derivative of a row's cost by its score."""
    derivatives: Callable[[Floats, Floats, Segments], Derivatives]
    """Function of flat scores, targets and the segments of their groups."""

    def hessian_product(self, values_N: Floats, curvatures_N: Floats, groups: Segments) -> Floats:
        """Return the Hessian by the scores times a vector (N)."""
        if not self.is_listwise:
            return curvatures_N * values_N
        return curvatures_N * (values_N - groups.spread(groups.sums(values_N * curvatures_N)))

    def centred(self, inputs_NR: Floats, curvatures_N: Floats, groups: Segments) -> Floats:
        """Return inputs X (N, R) such that X' diag(curvatures) X is the Hessian by a code."""
        return groups.centred(inputs_NR, curvatures_N) if self.is_listwise else inputs_NR


def _softmax(scores_N: Floats, targets_N: Floats, groups: Segments) -> Derivatives:
    logs_N = log_softmax(scores_N, groups)
    probabilities_N = np.exp(logs_N)
    return -targets_N * logs_N, probabilities_N - targets_N, probabilities_N


def _logistic(scores_N: Floats, targets_N: Floats, _: Segments) -> Derivatives:
    probabilities_N = expit(scores_N)
    costs_N = np.maximum(scores_N, 0) + np.log1p(np.exp(-np.abs(scores_N))) - targets_N * scores_N
    return costs_N, probabilities_N - targets_N, probabilities_N * (1 - probabilities_N)


def _squared(scores_N: Floats, targets_N: Floats, _: Segments) -> Derivatives:
    residuals_N = scores_N - targets_N
    return 0.5 * residuals_N**2, residuals_N, np.ones_like(residuals_N)


SOFTMAX = Loss(name="softmax", is_listwise=True, max_curvature=0.25, derivatives=_softmax)
"""Cross-entropy of a group's target distribution t: -sum_c t_c log softmax(s)_c."""
LOGISTIC = Loss(name="logistic", is_listwise=False, max_curvature=0.25, derivatives=_logistic)
"""Binary cross-entropy of each row's target t in [0, 1]: log(1 + e^s) - t s."""
SQUARED = Loss(name="squared", is_listwise=False, max_curvature=1.0, derivatives=_squared)
"""Half the squared error of each row: (s - t)^2 / 2."""
LOSSES = (SOFTMAX, LOGISTIC, SQUARED)
