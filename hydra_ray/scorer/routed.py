"""Several shared heads, mixed for each user by a gate that reads the user's history (arXiv 2610.08330): nothing is
fitted per user, so what own heads gain must be more than what a good description of the user gains.

Letters in shape suffixes: U users, N candidates, D features, H numbers that describe a history, P their principal
components, E heads.
"""

from dataclasses import dataclass, replace

import numpy as np

from hydra_ray.scorer.heads import Floats, GroupTable, Ints, padded_rows

NUM_HEADS = 7
NUM_COMPONENTS = 16
"""Directions in which histories differ most that the gate reads."""
NUM_STEPS = 300
LEARNING_RATE = 0.02
WEIGHT_DECAYS = (0.1, 1.0, 10.0)
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
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def scores(self, features_ND: Floats, offsets_N: Floats, histories_UH: Floats, user_N: Ints) -> Floats:
        """Each candidate's score: the shared head's plus the user's mixture of deviations."""
        deviations_UD = self.mixtures(histories_UH) @ self.deviations_ED
        return offsets_N + np.einsum("nd,nd->n", features_ND, deviations_UD[user_N])


def fit_routed_heads(
    table: GroupTable, offsets_N: Floats, histories_UH: Floats, user_fold_U: Ints, seed: int
) -> RoutedHeads:
    """The heads and the gate that explain all training users' groups best.

    Args:
        table: every group teaches; features vary by about 1 within a group.
        offsets_N: the shared head's scores, held out.
        user_fold_U: the first fold of users judges the ridge.
    """
    means = histories_UH.mean(axis=0)
    components = _components(histories_UH - means)
    histories = (histories_UH - means) @ components.T
    judges_G = (user_fold_U == 0)[table.user_of_group()]
    weights_G = np.ones(table.num_groups)
    losses = {
        decay: _train(table, offsets_N, np.where(judges_G, 0, weights_G), histories, decay, seed)[1](judges_G)
        for decay in (WEIGHT_DECAYS if judges_G.any() and not judges_G.all() else WEIGHT_DECAYS[-1:])
    }
    best = min(losses, key=lambda decay: losses[decay])
    (deviations, gate, bias), _ = _train(table, offsets_N, weights_G, histories, best, seed)
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


def _train(table: GroupTable, offsets_N: Floats, weights_G: Floats, histories_UP: Floats, decay: float, seed: int):
    """The fitted arrays, and a function that gives the mean loss of some groups."""
    import torch

    rows = torch.from_numpy(padded_rows(table.pooled(), np.array([0]))[0])
    mask = rows >= 0
    features = torch.from_numpy(table.features_ND).float()[rows]
    offsets = torch.from_numpy(offsets_N).float()[rows]
    targets = torch.where(mask, torch.from_numpy(table.targets_N).float()[rows], 0.0)
    weights = torch.from_numpy(weights_G).float()
    histories = torch.from_numpy(histories_UP).float()
    users = torch.from_numpy(table.user_of_group())
    generator = torch.Generator().manual_seed(seed)
    deviations = (0.01 * torch.randn(NUM_HEADS, features.shape[-1], generator=generator)).requires_grad_()
    gate = (0.1 * torch.randn(NUM_HEADS, histories.shape[1], generator=generator)).requires_grad_()
    bias = torch.zeros(NUM_HEADS, requires_grad=True)

    def group_losses():
        own = torch.softmax(histories @ gate.T + bias, dim=1) @ deviations
        scores = offsets + torch.einsum("gcd,gd->gc", features, own[users])
        logs = scores.masked_fill(~mask, -1e30).log_softmax(dim=1)
        return -(torch.where(mask, logs, 0.0) * targets).sum(1)

    optimizer = torch.optim.Adam([deviations, gate, bias], lr=LEARNING_RATE)
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        ridge = decay * ((deviations**2).sum() + (gate**2).sum())
        ((group_losses() * weights).sum() + ridge).div(weights.sum()).backward()
        optimizer.step()
    fitted = tuple(each.detach().double().numpy() for each in (deviations, gate, bias))
    with torch.no_grad():
        final = group_losses().numpy()
    return fitted, lambda groups_G: float(final[groups_G].mean())
