"""What wrong scores cost: three convex losses, as one concept.

A loss gives each row (a candidate with its score) a cost, its slope and its curvature by the score. Where the rows of a
group compete, their curvatures belong together: what moves all scores of a group alike then changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from hydra_ray.scorer.linear.groups import Floats, Segments, log_softmax

Derivatives = tuple[Floats, Floats, Floats]
"""Costs, slopes and curvatures, one of each a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How scores are compared with targets. Key: name."""

    name: str
    is_listwise: bool
    """Whether the rows of a group compete; their curvatures are then the group's probabilities."""
    max_curvature: float
    """No row's cost curves more."""
    derivatives: Callable[[Floats, Floats, Segments], Derivatives]
    """Of flat scores and targets whose groups are the segments."""

    def curved(self, values_N: Floats, curvatures_N: Floats, groups: Segments) -> Floats:
        """The matrix of second derivatives by the scores, times a vector."""
        return curvatures_N * (values_N - self._means(values_N, curvatures_N, groups))

    def centred(self, inputs_NR: Floats, curvatures_N: Floats, groups: Segments) -> Floats:
        """Inputs X such that X' diag(curvatures) X is the matrix of second derivatives by a code."""
        return inputs_NR - self._means(inputs_NR, curvatures_N[:, None], groups)

    def _means(self, values: Floats, curvatures: Floats, groups: Segments) -> Floats | float:
        return groups.spread(groups.sums(values * curvatures)) if self.is_listwise else 0.0


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
"""Cross-entropy between a group's target distribution and the softmax of its scores."""
LOGISTIC = Loss(name="logistic", is_listwise=False, max_curvature=0.25, derivatives=_logistic)
"""Cross-entropy between each row's target, from 0 to 1, and the logistic function of its score."""
SQUARED = Loss(name="squared", is_listwise=False, max_curvature=1.0, derivatives=_squared)
"""Half the squared difference of each row's target and score."""
LOSSES = (SOFTMAX, LOGISTIC, SQUARED)
