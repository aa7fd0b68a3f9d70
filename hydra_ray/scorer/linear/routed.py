"""Routed heads: E shared heads, mixed for each query by a softmax gate that reads the user's history (arXiv
2610.08330).

For a group with history vector h and a candidate with features x, on top of the shared head's score:

    score(x, h) = shared(x) + sum_e softmax(gate (h - mean) + bias)_e * deviation_e' x

Nothing is fitted per user. They are a baseline for personal heads, and the point that personal codes deviate from: the
user's history predicts where the user's head probably is before any fit.

Shape suffixes: U users, G groups, N candidates, D features, H width of history vectors, Q their principal components, E
heads, F folds of training users and one more for all of them.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints, group_losses, group_probabilities
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS
from hydra_ray.seeds import rng_of

NUM_HEADS = 7
NUM_COMPONENTS = 16
"""Number of principal components of the histories that the gate reads."""
MAX_STEPS = 60
WEIGHT_DECAYS = (0.1, 1.0, 10.0, 100.0)
"""Candidates for the L2 penalty on deviations and gate, chosen on left-out users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedHeads:
    """E heads and the gate that mixes them, cross-fitted over users: entry f of F was fitted without the users of fold
    f, the last entry with all.
    """

    deviations_FED: Floats
    """Difference of each head from the shared one."""
    gate_FEQ: Floats
    gate_bias_FE: Floats
    means_H: Floats
    components_QH: Floats
    """Principal components of the histories, scaled to unit variance over the training groups."""

    def mixtures(self, histories_GH: Floats, user_fold_G: Ints) -> Floats:
        """Return the mixture weights of the heads for each group (G, E); they sum to 1.

        Args:
            histories_GH: mean vector of the records that may be used for each group's query.
            user_fold_G: fold of each group's user if the heads were trained on the user; -1 for new users.
        """
        positions_GQ = (histories_GH - self.means_H) @ self.components_QH.T
        logits_GE = np.einsum("gp,gep->ge", positions_GQ, self.gate_FEQ[user_fold_G]) + self.gate_bias_FE[user_fold_G]
        return softmax(logits_GE, axis=1)

    def added(self, features_ND: Floats, user_fold_N: Ints) -> Floats:
        """Return the increment of each head to each candidate's score by the shared head (N, E).

        Args:
            user_fold_N: as in `mixtures`.
        """
        added_NE = np.zeros((len(features_ND), self.deviations_FED.shape[1]))
        for fold in np.unique(user_fold_N):
            rows = user_fold_N == fold
            added_NE[rows] = features_ND[rows] @ self.deviations_FED[fold].T
        return added_NE


def fit_routed_heads(
    table: GroupTable,
    offsets_N: Floats,
    histories_GH: Floats,
    is_validation_U: Bools,
    user_fold_U: Ints,
    seed: int,
) -> RoutedHeads | None:
    """Fit heads and gate to the training users' groups; return None where they do not lower the validation loss.

    Args:
        table: every group has a target; features have standard deviation about 1 within a group.
        offsets_N: the shared head's cross-fitted scores.
        histories_GH: mean vector of the records that may be used for each group's query, without the record that the
            query was made of: the gate would learn to read the answer.
        is_validation_U: users whose losses choose the penalty, by heads fitted without them, and decide whether the
            heads are kept.
        user_fold_U: fold of each user.
    """
    means = histories_GH.mean(axis=0)
    components = _components(histories_GH - means)
    problem = _Problem(table, offsets_N, (histories_GH - means) @ components.T, seed)
    validation_G, fold_G = is_validation_U[table.user_of_group()], user_fold_U[table.user_of_group()]
    if not validation_G.any() or validation_G.all():
        return None
    losses = {np.inf: group_losses(table, offsets_N)[validation_G].mean()}
    losses |= {decay: problem.loss(problem.fit(~validation_G, decay), validation_G) for decay in WEIGHT_DECAYS}
    best = min(losses, key=lambda decay: losses[decay])
    if best == np.inf:
        return None
    fits = [problem.split(problem.fit(fold_G != fold, best)) for fold in (*range(NUM_USER_FOLDS), -1)]
    deviations, gates, biases = zip(*fits, strict=True)
    return RoutedHeads(
        deviations_FED=np.stack(deviations),
        gate_FEQ=np.stack(gates),
        gate_bias_FE=np.stack(biases),
        means_H=means,
        components_QH=components,
    )


def routed_scores(shared_N: Floats, added_NE: Floats, mixtures_NE: Floats) -> Floats:
    """Return each candidate's score by the routed heads: shared + sum_e added_e * mixture_e (N).

    Args:
        added_NE: increment of each head to the shared head's score.
        mixtures_NE: weights of the heads.
    """
    return shared_N + (added_NE * mixtures_NE).sum(axis=1)


def rescaled(heads: RoutedHeads, scales_D: Floats) -> RoutedHeads:
    """Return the same heads for features that are not divided by `scales_D`."""
    return replace(heads, deviations_FED=heads.deviations_FED / scales_D)


def _components(centred_GH: Floats) -> Floats:
    _, values, rows = np.linalg.svd(centred_GH, full_matrices=False)
    values = values / max(len(centred_GH) - 1, 1) ** 0.5
    kept = values[:NUM_COMPONENTS] > 1e-6
    return rows[:NUM_COMPONENTS][kept] / values[:NUM_COMPONENTS][kept, None]


class _Problem:
    """Penalized loss of heads and gate, all in one parameter vector, on one table."""

    def __init__(self, table: GroupTable, offsets_N: Floats, histories_GQ: Floats, seed: int) -> None:
        self._table, self._offsets_N, self._histories_GQ = table, offsets_N, histories_GQ
        self._features_ND = table.features_ND.astype(np.float32)
        self._group_N = table.group_of_candidate()
        rng, num_components = rng_of(seed, "routed heads"), histories_GQ.shape[1]
        self._shapes = ((NUM_HEADS, table.features_ND.shape[1]), (NUM_HEADS, num_components), (NUM_HEADS,))
        deviations, gate = (rng.normal(size=shape) * 0.1 for shape in self._shapes[:2])
        self._start = np.concatenate([0.1 * deviations.ravel(), gate.ravel(), np.zeros(NUM_HEADS)])

    def split(self, vector: Floats) -> tuple[Floats, Floats, Floats]:
        """Split a parameter vector into deviations, gate and gate bias."""
        ends = np.cumsum([np.prod(shape) for shape in self._shapes]).astype(int)
        deviations, gate, bias = np.split(vector, ends[:-1])
        return deviations.reshape(self._shapes[0]), gate.reshape(self._shapes[1]), bias

    def loss(self, vector: Floats, groups_G: Bools) -> float:
        """Return the mean loss of the groups of the mask."""
        return float(group_losses(self._table, self._scores(vector)[0])[groups_G].mean())

    def fit(self, training_G: Bools, decay: float) -> Floats:
        """Minimize the loss of the groups of the mask plus decay * |deviations and gate|^2 by L-BFGS."""
        from scipy.optimize import minimize  # loads much, and where heads are only read nobody needs it

        found = minimize(
            self._derivatives,
            self._start,
            (training_G, decay),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": MAX_STEPS, "ftol": 1e-6},
        )
        return found.x

    def _scores(self, vector: Floats) -> tuple[Floats, Floats, Floats]:
        """Return scores (N), increment of each head (N, E) and mixture weights of the groups (G, E)."""
        deviations, gate, bias = self.split(vector)
        mixtures_GE = softmax(self._histories_GQ @ gate.T + bias, axis=1)
        added_NE = self._features_ND @ deviations.T.astype(np.float32)
        return routed_scores(self._offsets_N, added_NE, mixtures_GE[self._group_N]), added_NE, mixtures_GE

    def _derivatives(self, vector: Floats, training_G: Bools, decay: float) -> tuple[float, Floats]:
        table, num_biases = self._table, NUM_HEADS
        scores_N, added_NE, mixtures_GE = self._scores(vector)
        residuals_N = (group_probabilities(table, scores_N) - table.targets_N) * training_G[self._group_N]
        by_head_NE = (residuals_N[:, None] * mixtures_GE[self._group_N]).astype(np.float32)
        by_mixture_GE = np.add.reduceat(residuals_N[:, None] * added_NE, table.group_starts[:-1])
        by_logit_GE = mixtures_GE * (by_mixture_GE - (mixtures_GE * by_mixture_GE).sum(axis=1, keepdims=True))
        gradient = [by_head_NE.T @ self._features_ND, by_logit_GE.T @ self._histories_GQ, by_logit_GE.sum(axis=0)]
        ridged = vector * (np.arange(len(vector)) < len(vector) - num_biases)
        loss = group_losses(table, scores_N) @ training_G + decay * (ridged**2).sum()
        return float(loss), np.concatenate([each.ravel() for each in gradient]) + 2 * decay * ridged
