"""Several shared heads, mixed for each user by a gate that reads the user's history (arXiv 2610.08330): nothing is
fitted per user, so what own heads gain must be more than what a good description of the user gains.

Letters in shape suffixes: U users, N candidates, D features, H numbers that describe a history, P their principal
components, E heads.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from hydra_ray.scorer.heads import Bools, Floats, GroupTable, Ints, group_losses, group_probabilities
from hydra_ray.seeds import rng_of

NUM_HEADS = 7
NUM_COMPONENTS = 16
"""Directions in which histories differ most that the gate reads."""
MAX_STEPS = 60
WEIGHT_DECAYS = (0.1, 1.0, 10.0, 100.0)
"""Candidates for the ridge on what the heads differ in, chosen on users left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedHeads:
    """E shared heads and the gate that mixes them."""

    deviations_ED: Floats
    """What each head adds to the shared one."""
    gate_EP: Floats
    gate_bias_E: Floats
    means_H: Floats
    components_PH: Floats
    """Principal components of the histories, scaled so that training users vary by 1 along each."""

    def mixtures(self, histories_UH: Floats) -> Floats:
        """Weight (U, E) of each head for each user; a user's sum to 1."""
        logits = (histories_UH - self.means_H) @ self.components_PH.T @ self.gate_EP.T + self.gate_bias_E
        return softmax(logits, axis=1)

    def scores(self, features_ND: Floats, offsets_N: Floats, histories_UH: Floats, user_N: Ints) -> Floats:
        """Each candidate's score: the shared head's plus the user's mixture of deviations."""
        deviations_UD = self.mixtures(histories_UH) @ self.deviations_ED
        return offsets_N + np.einsum("nd,nd->n", features_ND, deviations_UD[user_N])


def fit_routed_heads(
    table: GroupTable, offsets_N: Floats, histories_UH: Floats, is_judge_U: Bools, seed: int
) -> RoutedHeads:
    """The heads and the gate that explain all training users' groups best.

    Args:
        table: every group teaches; features vary by about 1 within a group.
        offsets_N: the shared head's scores, held out.
        is_judge_U: the users whose losses choose the ridge, by heads that they did not teach, and decide whether the
            heads help; if not, they add nothing.
    """
    means = histories_UH.mean(axis=0)
    components = _components(histories_UH - means)
    problem = _Problem(table, offsets_N, (histories_UH - means) @ components.T, seed)
    judges_G = is_judge_U[table.user_of_group()]
    everybody = np.ones(table.num_groups)
    losses = {np.inf: group_losses(table, offsets_N)[judges_G].mean()} if judges_G.any() else {}
    if judges_G.any() and not judges_G.all():
        losses |= {decay: problem.loss(problem.fit(everybody - judges_G, decay), judges_G) for decay in WEIGHT_DECAYS}
    best = min(losses, key=lambda decay: losses[decay], default=np.inf)
    deviations, gate, bias = problem.split(problem.fit(everybody, best) if best < np.inf else problem.nothing())
    return RoutedHeads(
        deviations_ED=deviations,
        gate_EP=gate,
        gate_bias_E=bias,
        means_H=means,
        components_PH=components,
    )


def rescaled(heads: RoutedHeads, scales_D: Floats) -> RoutedHeads:
    """The same heads for features that were not divided by `scales_D`."""
    return replace(heads, deviations_ED=heads.deviations_ED / scales_D)


def _components(centred_UH: Floats) -> Floats:
    _, values, rows = np.linalg.svd(centred_UH, full_matrices=False)
    values = values / max(len(centred_UH) - 1, 1) ** 0.5
    kept = values[:NUM_COMPONENTS] > 1e-6
    return rows[:NUM_COMPONENTS][kept] / values[:NUM_COMPONENTS][kept, None]


class _Problem:
    """The loss of heads and gate, all in one vector, on one table."""

    def __init__(self, table: GroupTable, offsets_N: Floats, histories_UP: Floats, seed: int) -> None:
        self._table, self._offsets_N, self._histories_UP = table, offsets_N, histories_UP
        self._features_ND = table.features_ND.astype(np.float32)
        self._user_G, self._user_N = table.user_of_group(), table.user_of_candidate()
        rng, num_components = rng_of(seed, "routed heads"), histories_UP.shape[1]
        self._shapes = ((NUM_HEADS, table.features_ND.shape[1]), (NUM_HEADS, num_components), (NUM_HEADS,))
        deviations, gate = (rng.normal(size=shape) * 0.1 for shape in self._shapes[:2])
        self._start = np.concatenate([0.1 * deviations.ravel(), gate.ravel(), np.zeros(NUM_HEADS)])

    def nothing(self) -> Floats:
        """Heads that add nothing to the shared one."""
        return np.zeros_like(self._start)

    def split(self, vector: Floats) -> tuple[Floats, Floats, Floats]:
        """Deviations, gate and its bias."""
        ends = np.cumsum([np.prod(shape) for shape in self._shapes]).astype(int)
        deviations, gate, bias = np.split(vector, ends[:-1])
        return deviations.reshape(self._shapes[0]), gate.reshape(self._shapes[1]), bias

    def loss(self, vector: Floats, groups_G: Bools) -> float:
        """The mean loss of some groups."""
        return float(group_losses(self._table, self._scores(vector)[0])[groups_G].mean())

    def fit(self, weights_G: Floats, decay: float) -> Floats:
        """The vector with a low ridge loss.

        Args:
            weights_G: how much each group counts.
        """
        found = minimize(
            self._derivatives,
            self._start,
            (weights_G, decay),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": MAX_STEPS, "ftol": 1e-6},
        )
        return found.x

    def _scores(self, vector: Floats) -> tuple[Floats, Floats, Floats]:
        """Scores, what each head adds to a candidate, and the users' mixtures."""
        deviations, gate, bias = self.split(vector)
        mixtures_UE = softmax(self._histories_UP @ gate.T + bias, axis=1)
        added_NE = self._features_ND @ deviations.T.astype(np.float32)
        return self._offsets_N + (added_NE * mixtures_UE[self._user_N]).sum(axis=1), added_NE, mixtures_UE

    def _derivatives(self, vector: Floats, weights_G: Floats, decay: float) -> tuple[float, Floats]:
        table, num_biases = self._table, NUM_HEADS
        scores_N, added_NE, mixtures_UE = self._scores(vector)
        weights_N = weights_G[table.group_of_candidate()]
        residuals_N = (group_probabilities(table, scores_N) - table.targets_N) * weights_N
        by_head_NE = (residuals_N[:, None] * mixtures_UE[self._user_N]).astype(np.float32)
        by_mixture_UE = np.zeros_like(mixtures_UE)
        by_group_GE = np.add.reduceat(residuals_N[:, None] * added_NE, table.group_starts[:-1])
        np.add.at(by_mixture_UE, self._user_G, by_group_GE)
        by_logit_UE = mixtures_UE * (by_mixture_UE - (mixtures_UE * by_mixture_UE).sum(axis=1, keepdims=True))
        gradient = [by_head_NE.T @ self._features_ND, by_logit_UE.T @ self._histories_UP, by_logit_UE.sum(axis=0)]
        ridged = vector * (np.arange(len(vector)) < len(vector) - num_biases)
        loss = group_losses(table, scores_N) @ weights_G + decay * (ridged**2).sum()
        return float(loss), np.concatenate([each.ravel() for each in gradient]) + 2 * decay * ridged
