"""Users' two-layer networks, the heads of the publication (arXiv 2406.02888, section 3.4), and their random start.

    score(x, u) = z_1 - z_0,    z = tanh(x' I_u + b_u) O_u + c_u

z_1 and z_0 are the log odds of the labels 1 and 0. A network is stored flat: V = D * W + 3 * W + 2 numbers for D
features and W hidden units, those of I, b, O and c.

Shape suffixes: U users, R rows of features of each user, D features, W hidden units, V numbers of a network.
"""

import torch

NUM_LABELS = 2


def network_sizes(num_features: int, width: int) -> list[int]:
    """Return how many of a network's numbers are those of I, b, O and c."""
    return [num_features * width, width, width * NUM_LABELS, NUM_LABELS]


def random_networks(num_users: int, num_features: int, width: int, generator: torch.Generator | None) -> torch.Tensor:
    """Return random networks (U, V), uniform as in the released code, whose bounds are 1 / sqrt(D W) for I and b and
    1 / sqrt(2 W) for O and c: scores begin near 0."""
    inward, bias, outward, offsets = network_sizes(num_features, width)
    bounds = torch.tensor([(num_features * width) ** -0.5, (NUM_LABELS * width) ** -0.5])
    numbers = torch.rand(num_users, inward + bias + outward + offsets, generator=generator) * 2 - 1
    return numbers * bounds.repeat_interleave(torch.tensor([inward + bias, outward + offsets]))


def score_rows(features_URD: torch.Tensor, networks_UV: torch.Tensor, width: int, dropout: float = 0.0) -> torch.Tensor:
    """Return the scores of each user's rows by the user's network (U, R).

    Args:
        dropout: share of features and of hidden units that are left out at random, while a network is trained.
    """
    num_users, _, num_features = features_URD.shape
    inward, bias, outward, offsets = networks_UV.split(network_sizes(num_features, width), dim=1)
    rows = torch.nn.functional.dropout(features_URD, dropout)
    hidden = torch.tanh(rows @ inward.reshape(num_users, num_features, width) + bias[:, None])
    hidden = torch.nn.functional.dropout(hidden, dropout)
    logits = hidden @ outward.reshape(num_users, width, NUM_LABELS) + offsets[:, None]
    return logits[..., 1] - logits[..., 0]
