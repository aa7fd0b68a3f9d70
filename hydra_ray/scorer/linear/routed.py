"""Several shared heads, mixed for each query by a gate that reads the user's history (arXiv 2610.08330): nothing is
fitted per user. They are a rival of own heads, and what own heads start from: a good description of a user says before
any fit where the user's head probably is.

Letters in shape suffixes: U users, G groups, N candidates, D features, H numbers that describe a history, P their
principal components, E heads, K folds of training users and one more for all of them.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints, group_losses, group_probabilities
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS
from hydra_ray.seeds import rng_of

NUM_HEADS = 7
NUM_COMPONENTS = 16
"""Directions in which histories differ most that the gate reads."""
MAX_STEPS = 60
WEIGHT_DECAYS = (0.1, 1.0, 10.0, 100.0)
"""Candidates for the ridge on what the heads differ in, chosen on users left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedHeads:
    """E shared heads and the gate that mixes them, and versions of both that have not seen some training users: row k
    of K was fitted without the users of fold k, the last row with all."""

    deviations_KED: Floats
    """What each head adds to the shared one."""
    gate_KEP: Floats
    gate_bias_KE: Floats
    means_H: Floats
    components_PH: Floats
    """Principal components of the histories, scaled so that those of training users vary by 1 along each."""

    def mixtures(self, histories_GH: Floats, user_fold_G: Ints) -> Floats:
        """Weight (G, E) of each head for each group; a group's sum to 1.

        Args:
            histories_GH: the records that may be used for each group's query.
            user_fold_G: fold of each group's user, if the user taught the heads; -1 for new users.
        """
        positions_GP = (histories_GH - self.means_H) @ self.components_PH.T
        logits_GE = np.einsum("gp,gep->ge", positions_GP, self.gate_KEP[user_fold_G]) + self.gate_bias_KE[user_fold_G]
        return softmax(logits_GE, axis=1)

    def added(self, features_ND: Floats, user_fold_N: Ints) -> Floats:
        """What each head adds to each candidate's score by the shared one (N, E).

        Args:
            user_fold_N: as in `mixtures`.
        """
        added_NE = np.zeros((len(features_ND), self.deviations_KED.shape[1]))
        for fold in np.unique(user_fold_N):
            rows = user_fold_N == fold
            added_NE[rows] = features_ND[rows] @ self.deviations_KED[fold].T
        return added_NE


def fit_routed_heads(
    table: GroupTable,
    offsets_N: Floats,
    histories_GH: Floats,
    is_validation_U: Bools,
    user_fold_U: Ints,
    seed: int,
) -> RoutedHeads | None:
    """The heads and the gate that explain all training users' groups best; None where they explain nothing.

    Args:
        table: every group teaches; features vary by about 1 within a group.
        offsets_N: the shared head's scores, held out.
        histories_GH: the records that may be used for each group's query; a record that a query was made of is not
            among them, or the gate would learn to read the answer.
        is_judge_U: the users whose losses choose the ridge, by heads that they did not teach, and decide whether the
            heads help.
        user_fold_U: each user's fold.
    """
    means = histories_GH.mean(axis=0)
    components = _components(histories_GH - means)
    problem = _Problem(table, offsets_N, (histories_GH - means) @ components.T, seed)
    judges_G, fold_G = is_validation_U[table.user_of_group()], user_fold_U[table.user_of_group()]
    if not judges_G.any() or judges_G.all():
        return None
    losses = {np.inf: group_losses(table, offsets_N)[judges_G].mean()}
    losses |= {decay: problem.loss(problem.fit(~judges_G, decay), judges_G) for decay in WEIGHT_DECAYS}
    best = min(losses, key=lambda decay: losses[decay])
    if best == np.inf:
        return None
    fits = [problem.split(problem.fit(fold_G != fold, best)) for fold in (*range(NUM_USER_FOLDS), -1)]
    deviations, gates, biases = zip(*fits, strict=True)
    return RoutedHeads(
        deviations_KED=np.stack(deviations),
        gate_KEP=np.stack(gates),
        gate_bias_KE=np.stack(biases),
        means_H=means,
        components_PH=components,
    )


def routed_scores(shared_N: Floats, added_NE: Floats, mixtures_NE: Floats) -> Floats:
    """Each candidate's score by the routed heads.

    Args:
        added_NE: what each head adds to the shared head's score.
        mixtures_NE: the weights of the heads.
    """
    return shared_N + (added_NE * mixtures_NE).sum(axis=1)


def rescaled(heads: RoutedHeads, scales_D: Floats) -> RoutedHeads:
    """The same heads for features that were not divided by `scales_D`."""
    return replace(heads, deviations_KED=heads.deviations_KED / scales_D)


def _components(centred_GH: Floats) -> Floats:
    _, values, rows = np.linalg.svd(centred_GH, full_matrices=False)
    values = values / max(len(centred_GH) - 1, 1) ** 0.5
    kept = values[:NUM_COMPONENTS] > 1e-6
    return rows[:NUM_COMPONENTS][kept] / values[:NUM_COMPONENTS][kept, None]


class _Problem:
    """The loss of heads and gate, all in one vector, on one table."""

    def __init__(self, table: GroupTable, offsets_N: Floats, histories_GP: Floats, seed: int) -> None:
        self._table, self._offsets_N, self._histories_GP = table, offsets_N, histories_GP
        self._features_ND = table.features_ND.astype(np.float32)
        self._group_N = table.group_of_candidate()
        rng, num_components = rng_of(seed, "routed heads"), histories_GP.shape[1]
        self._shapes = ((NUM_HEADS, table.features_ND.shape[1]), (NUM_HEADS, num_components), (NUM_HEADS,))
        deviations, gate = (rng.normal(size=shape) * 0.1 for shape in self._shapes[:2])
        self._start = np.concatenate([0.1 * deviations.ravel(), gate.ravel(), np.zeros(NUM_HEADS)])

    def split(self, vector: Floats) -> tuple[Floats, Floats, Floats]:
        """Deviations, gate and its bias."""
        ends = np.cumsum([np.prod(shape) for shape in self._shapes]).astype(int)
        deviations, gate, bias = np.split(vector, ends[:-1])
        return deviations.reshape(self._shapes[0]), gate.reshape(self._shapes[1]), bias

    def loss(self, vector: Floats, groups_G: Bools) -> float:
        """The mean loss of some groups."""
        return float(group_losses(self._table, self._scores(vector)[0])[groups_G].mean())

    def fit(self, teaches_G: Bools, decay: float) -> Floats:
        """The vector with a low ridge loss of some groups."""
        found = minimize(
            self._derivatives,
            self._start,
            (teaches_G, decay),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": MAX_STEPS, "ftol": 1e-6},
        )
        return found.x

    def _scores(self, vector: Floats) -> tuple[Floats, Floats, Floats]:
        """Scores, what each head adds to a candidate, and the groups' mixtures."""
        deviations, gate, bias = self.split(vector)
        mixtures_GE = softmax(self._histories_GP @ gate.T + bias, axis=1)
        added_NE = self._features_ND @ deviations.T.astype(np.float32)
        return routed_scores(self._offsets_N, added_NE, mixtures_GE[self._group_N]), added_NE, mixtures_GE

    def _derivatives(self, vector: Floats, teaches_G: Bools, decay: float) -> tuple[float, Floats]:
        table, num_biases = self._table, NUM_HEADS
        scores_N, added_NE, mixtures_GE = self._scores(vector)
        residuals_N = (group_probabilities(table, scores_N) - table.targets_N) * teaches_G[self._group_N]
        by_head_NE = (residuals_N[:, None] * mixtures_GE[self._group_N]).astype(np.float32)
        by_mixture_GE = np.add.reduceat(residuals_N[:, None] * added_NE, table.group_starts[:-1])
        by_logit_GE = mixtures_GE * (by_mixture_GE - (mixtures_GE * by_mixture_GE).sum(axis=1, keepdims=True))
        gradient = [by_head_NE.T @ self._features_ND, by_logit_GE.T @ self._histories_GP, by_logit_GE.sum(axis=0)]
        ridged = vector * (np.arange(len(vector)) < len(vector) - num_biases)
        loss = group_losses(table, scores_N) @ teaches_G + decay * (ridged**2).sum()
        return float(loss), np.concatenate([each.ravel() for each in gradient]) + 2 * decay * ridged
