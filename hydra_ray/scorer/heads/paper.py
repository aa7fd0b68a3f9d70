"""The paper's head, for comparison: a two-layer network for every user (see `hydra_ray.scorer.networks`), fitted to
frozen features.

All users' networks are trained at once by full-batch AdamW, as one batched product, and stored flat, as codes. The
learning rate falls linearly to 0, as published. There is no dropout, since a user's head would then depend on who is
fitted with it.

Shape suffixes: U users, G groups, C candidates of the largest group, N candidates, D features, W hidden units, V
parameters of a network.
"""

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from hydra_ray.config import HeadsConfig
from hydra_ray.errors import HeadMismatchError
from hydra_ray.scorer.linear.groups import Floats, GroupTable, Ints, padded_rows
from hydra_ray.scorer.networks import network_sizes, random_networks, score_rows

SHARED_STEPS = 300
"""Number of full-batch steps of the shared network."""
WEIGHT_DECAY = 0.01
CHUNK_NUMBERS = 1 << 24
"""Number of networks' numbers that are trained at once; gradients and the optimizer's state are three times as many."""


def start_network(table: GroupTable, config: HeadsConfig) -> Floats:
    """Return the network that every user's own starts from (V): a random one, or one fitted to all training users.

    Args:
        table: every group has a target.
    """
    generator = torch.Generator().manual_seed(config.seed)
    start = random_networks(1, table.features_ND.shape[1], config.paper_width, generator)[0].double().numpy()
    if config.paper_start == "random":
        return start
    return train_networks(table.pooled(), start, np.ones(table.num_groups), config, SHARED_STEPS)[0].astype(np.float64)


def train_networks(
    table: GroupTable, start_V: Floats, weights_G: Floats, config: HeadsConfig, num_steps: int
) -> Floats:
    """Train every user's network on the user's groups; return them (U, V). Users without groups keep the start.

    Args:
        table: every group has a target, or for pointwise loss known qualities.
        weights_G: 0 leaves a group out.
    """
    networks = np.tile(start_V.astype(np.float32), (table.num_users, 1))
    has_groups = np.bincount(table.user_of_group()[weights_G > 0], minlength=table.num_users) > 0
    users = np.flatnonzero(has_groups)
    users = users[np.argsort(np.diff(table.user_starts)[users], kind="stable")]
    chunk_users = max(1, CHUNK_NUMBERS // len(start_V))
    for start in range(0, len(users), chunk_users):
        chunk = users[start : start + chunk_users]
        networks[chunk] = _train_chunk(table, chunk, start_V, weights_G, config, num_steps)
    return networks


def network_scores(features_ND: Floats, user_of_candidate: Ints, networks_UV: Floats, width: int) -> Floats:
    """Return each candidate's score by its user's network (N).

    Raises:
        HeadMismatchError: the networks are of another shape.
    """
    num_numbers = sum(network_sizes(features_ND.shape[1], width))
    if networks_UV.shape[1] not in (0, num_numbers):
        raise HeadMismatchError(
            f"paper heads of {networks_UV.shape[1]} numbers, expected {num_numbers} for {features_ND.shape[1]} "
            f"features and {width} hidden units: they are of other settings or of an earlier version; fit them again"
        )
    scores = np.zeros(len(features_ND))
    order = np.argsort(user_of_candidate, kind="stable")
    bounds = np.searchsorted(user_of_candidate[order], np.arange(len(networks_UV) + 1))
    for user in np.flatnonzero(np.diff(bounds)):
        rows = order[bounds[user] : bounds[user + 1]]
        features_URD = torch.from_numpy(features_ND[rows][None].astype(np.float64))
        network_UV = torch.from_numpy(networks_UV[user : user + 1].astype(np.float64))
        scores[rows] = score_rows(features_URD, network_UV, width)[0].numpy()
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
    rows_URD = features.flatten(1, 2)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = config.paper_learning_rate * (1 - step / num_steps)
        scores = score_rows(rows_URD, networks, config.paper_width).reshape(mask.shape)
        if is_pointwise:
            losses = binary_cross_entropy_with_logits(scores, targets, reduction="none")
        else:
            logs = scores.masked_fill(~mask, -1e30).log_softmax(dim=2)
            losses = -torch.where(mask, logs, 0.0) * targets
        loss = (losses * weights).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return networks.detach().numpy()
