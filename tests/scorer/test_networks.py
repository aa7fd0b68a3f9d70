import math

import pytest
import torch
from torch import nn

from hydra_ray.scorer.networks import network_sizes, random_networks, score_rows

pytestmark = pytest.mark.usefixtures("one_torch_thread")
NUM_USERS, NUM_FEATURES, WIDTH = 3, 5, 4


def plain_network(network_V: torch.Tensor) -> nn.Sequential:
    """The same network of torch's own layers."""
    inward, bias, outward, offsets = network_V.split(network_sizes(NUM_FEATURES, WIDTH))
    layers = nn.Sequential(nn.Linear(NUM_FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2))
    layers[0].weight.data, layers[0].bias.data = inward.reshape(NUM_FEATURES, WIDTH).T, bias
    layers[2].weight.data, layers[2].bias.data = outward.reshape(WIDTH, 2).T, offsets
    return layers


def test_each_users_rows_are_scored_by_the_users_network_of_two_layers():
    networks = torch.randn(NUM_USERS, sum(network_sizes(NUM_FEATURES, WIDTH)))
    features = torch.randn(NUM_USERS, 7, NUM_FEATURES)
    found = score_rows(features, networks, WIDTH)
    for user in range(NUM_USERS):
        chances = plain_network(networks[user])(features[user]).softmax(dim=1)
        torch.testing.assert_close(found[user].sigmoid(), chances[:, 1])


def test_the_random_start_has_the_bounds_of_the_released_code():
    def released(*shape: int) -> float:
        """The bound of torch's own start of a weight, which counts all dimensions but the first two."""
        weight = torch.empty(shape)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        return weight.abs().max().item()

    width = 40
    networks = random_networks(200, width, width, torch.Generator().manual_seed(0))
    parts = networks.split(network_sizes(width, width), dim=1)
    inward, outward = released(200, width, width), released(200, width, 2)
    for part, bound in zip(parts, (inward, inward, outward, outward), strict=True):
        assert part.abs().max().item() == pytest.approx(bound, rel=0.02)
        assert part.mean().item() == pytest.approx(0, abs=0.1 * bound)
    assert not torch.equal(networks[0], networks[1])


def test_dropout_leaves_out_hidden_units_and_scales_the_others():
    torch.manual_seed(0)
    sizes = network_sizes(NUM_FEATURES, WIDTH)
    saturated, counted = torch.full((sum(sizes[:2]),), 10.0), torch.tensor([0.0, 1.0] * WIDTH + [0.0, 0.0])
    network = torch.cat([saturated, counted])[None]  # all hidden units are 1, and the label 1 alone counts them
    scores = score_rows(torch.ones(1, 400, NUM_FEATURES), network, WIDTH, dropout=0.5)
    assert set(scores.round().flatten().tolist()) == {0.0, 2.0, 4.0, 6.0, 8.0}
    assert set(score_rows(torch.ones(1, 9, NUM_FEATURES), network, WIDTH).round().flatten().tolist()) == {4.0}
