"""One code shared by all users: the regression of `newton`, with very many rows and a wide code.

Shape suffixes: U users, N candidates, G groups, R code width, P rows.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from hydra_ray.scorer.linear.groups import Floats, GroupTable
from hydra_ray.scorer.linear.losses import SOFTMAX, Loss
from hydra_ray.scorer.linear.newton import minimized, require_finite, standardized
from hydra_ray.scorer.linear.objective import Objective, State, pooled_rows

TOLERANCE = 1e-8
"""Newton decrement, in nats, at which a step is the last."""


class PooledRegression:
    """MAP estimate of one code from all users' groups.

    There is a single Hessian, so Newton's steps are solved for directly.
    """

    def __init__(self, table: GroupTable, inputs_NR: Floats, offsets_N: Floats, loss: Loss = SOFTMAX) -> None:
        """Check the inputs once; parameters as in `Regression`."""
        require_finite(inputs_NR, offsets_N, table.targets_N)
        self._rows, self._loss = pooled_rows(table, inputs_NR, offsets_N), loss
        self._row_starts = table.group_starts[table.user_starts]

    def code(self, variances_R: Floats, weights_G: Floats, start_R: Floats, tolerance: float = TOLERANCE) -> Floats:
        """Return the MAP code (R) of all groups.

        Args:
            tolerance: Newton decrement, in nats, at which a step is the last.
        """
        deviations_R = np.sqrt(variances_R)
        objective = Objective.of(self._rows, self._loss, deviations_R[None], weights_G)
        start = standardized(start_R[None], deviations_R)
        return minimized(objective, start, self._direct_steps, tolerance)[0] * deviations_R

    def codes_without(self, variances_R: Floats, weights_G: Floats, code_R: Floats) -> Floats:
        """Return about the leave-one-user-out code of each user (U, R): one Newton step from the code of all.

        Args:
            code_R: the code of all users for the same variances and weights, or one near it.
        """
        deviations_R, identity = np.sqrt(variances_R), np.eye(len(code_R))
        objective = Objective.of(self._rows, self._loss, deviations_R[None], weights_G)
        state = objective.state(standardized(code_R[None], deviations_R))
        parts = list(self._parts(objective, state))
        gradients = np.concatenate([part.row_gradients(own) for part, own in parts])
        hessians = np.concatenate([part.row_hessians(own) for part, own in parts])
        rest_UR = gradients.sum(axis=0) - gradients + state.codes_UR
        rest_URR = hessians.sum(axis=0) - hessians + identity
        return (state.codes_UR - np.linalg.solve(rest_URR, rest_UR[:, :, None])[:, :, 0]) * deviations_R

    def _direct_steps(self, objective: Objective, state: State, gradients_1R: Floats) -> tuple[Floats, Floats]:
        hessian_RR = np.eye(gradients_1R.shape[1])
        for part, own in self._parts(objective, state):
            hessian_RR += part.row_hessians(own)[0]
        steps_1R = np.linalg.solve(hessian_RR, gradients_1R[0])[None]
        return steps_1R, objective.score_changes(steps_1R)

    def _parts(self, objective: Objective, state: State) -> Iterator[tuple[Objective, State]]:
        """Yield each user's part of the objective; one at a time, since a Hessian takes copies of the inputs."""
        for start, end in pairwise(self._row_starts):
            own = replace(
                state,
                scores_UP=state.scores_UP[:, start:end],
                slopes_UP=state.slopes_UP[:, start:end],
                curvatures_UP=state.curvatures_UP[:, start:end],
            )
            yield objective.between(start, end), own
