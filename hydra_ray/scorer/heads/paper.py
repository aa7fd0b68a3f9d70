"""The paper's head, for comparison: a two-layer network for every user, started from a shared one (arXiv 2406.02888,
section 3.4).

    score(x, u) = outward_u' relu(inward_u' x + bias_u)

All users' networks are trained at once by full-batch AdamW, as one batched product. A network is stored flat, as its
user's code: V = D * W + 2 * W numbers for D features and W hidden units.

Shape suffixes: U users, G groups, C candidates of the largest group, N candidates, D features, W hidden units, V
parameters of a network.
"""

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from hydra_ray.config import HeadsConfig
from hydra_ray.scorer.linear.groups import Floats, GroupTable, Ints, padded_rows

SHARED_STEPS = 300
"""Number of full-batch steps of the shared network."""
WEIGHT_DECAY = 0.01
CHUNK_USERS = 256


def start_network(table: GroupTable, config: HeadsConfig) -> Floats:
    """Return the network that every user's own starts from (V): a random one, or one fitted to all training users.

    Args:
        table: every group has a target; features have standard deviation about 1 within a group.
    """
    num_features, width = table.features_ND.shape[1], config.paper_width
    generator = torch.Generator().manual_seed(config.seed)
    inward = torch.randn(num_features * width, generator=generator) * num_features**-0.5
    outward = torch.randn(width, generator=generator) * width**-0.5
    start = torch.cat([inward, torch.zeros(width), outward]).double().numpy()
    if config.paper_start == "random":
        return start
    return train_networks(table.pooled(), start, np.ones(table.num_groups), config, SHARED_STEPS)[0]


def train_networks(
    table: GroupTable, start_V: Floats, weights_G: Floats, config: HeadsConfig, num_steps: int
) -> Floats:
    """Train every user's network on the user's groups; return them (U, V). Users without groups keep the start.

    Args:
        table: every group has a target; features have standard deviation about 1 within a group.
        weights_G: 0 leaves a group out.
    """
    networks = np.tile(start_V, (table.num_users, 1))
    has_groups = np.bincount(table.user_of_group()[weights_G > 0], minlength=table.num_users) > 0
    users = np.flatnonzero(has_groups)
    users = users[np.argsort(np.diff(table.user_starts)[users], kind="stable")]
    for start in range(0, len(users), CHUNK_USERS):
        chunk = users[start : start + CHUNK_USERS]
        networks[chunk] = _train_chunk(table, chunk, start_V, weights_G, config, num_steps)
    return networks


def network_scores(features_ND: Floats, user_of_candidate: Ints, networks_UV: Floats, width: int) -> Floats:
    """Return each candidate's score by its user's network (N)."""
    num_features = features_ND.shape[1]
    scores = np.zeros(len(features_ND))
    order = np.argsort(user_of_candidate, kind="stable")
    bounds = np.searchsorted(user_of_candidate[order], np.arange(len(networks_UV) + 1))
    for user in np.flatnonzero(np.diff(bounds)):
        rows = order[bounds[user] : bounds[user + 1]]
        inward, bias, outward = np.split(networks_UV[user], [num_features * width, (num_features + 1) * width])
        hidden = features_ND[rows] @ inward.reshape(num_features, width) + bias
        scores[rows] = np.maximum(hidden, 0) @ outward
    return scores


def _train_chunk(
    table: GroupTable,
    users: Ints,
    start_V: Floats,
    weights_G: Floats,
    config: HeadsConfig,
    num_steps: int,
) -> Floats:
    rows = padded_rows(table, users)
    mask = torch.from_numpy(rows >= 0)
    features = torch.from_numpy(table.features_ND[rows].astype(np.float32))
    weights_N = weights_G[table.group_of_candidate()]
    weights = torch.from_numpy(np.where(rows >= 0, weights_N[rows], 0).astype(np.float32))
    is_pointwise = config.paper_loss == "pointwise"
    wanted = table.qualities_N if is_pointwise else table.targets_N
    targets = torch.from_numpy(np.where(rows >= 0, np.nan_to_num(wanted[rows]), 0).astype(np.float32))
    # A user's loss is a mean over the user's candidates or groups; users share no parameter, so the gradient of the sum
    # of their losses is each user's own.
    weights = weights / (weights if is_pointwise else targets * weights).sum(dim=(1, 2), keepdim=True)
    networks = torch.from_numpy(np.tile(start_V, (len(users), 1)).astype(np.float32)).requires_grad_()
    optimizer = torch.optim.AdamW([networks], lr=config.paper_learning_rate, weight_decay=WEIGHT_DECAY)
    for _ in range(num_steps):
        scores = _scores(features, networks, config.paper_width)
        if is_pointwise:
            losses = binary_cross_entropy_with_logits(scores, targets, reduction="none")
        else:
            logs = scores.masked_fill(~mask, -1e30).log_softmax(dim=2)
            losses = -torch.where(mask, logs, 0.0) * targets
        loss = (losses * weights).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return networks.detach().double().numpy()


def _scores(features_UGCD: torch.Tensor, networks_UV: torch.Tensor, width: int) -> torch.Tensor:
    num_users, _, _, num_features = features_UGCD.shape
    inward, bias, outward = networks_UV.split([num_features * width, width, width], dim=1)
    hidden = features_UGCD.reshape(num_users, -1, num_features) @ inward.reshape(num_users, num_features, width)
    scores = torch.relu(hidden + bias[:, None]) @ outward[:, :, None]
    return scores.reshape(features_UGCD.shape[:3])
