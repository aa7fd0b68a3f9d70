import math

import numpy as np
import pytest
from group_tables import choosing_users, random_table

from hydra_ray.config import HeadsConfig
from hydra_ray.errors import HeadMismatchError
from hydra_ray.scorer.heads.paper import network_scores, start_network, train_networks
from hydra_ray.scorer.linear.groups import group_losses

pytestmark = pytest.mark.usefixtures("one_torch_thread")
NUM_FEATURES, WIDTH = 3, 4
NUM_NUMBERS = NUM_FEATURES * WIDTH + WIDTH + 2 * WIDTH + 2


def heads(**settings):
    return HeadsConfig(kinds=("paper",), paper_width=WIDTH, **settings)


def network(seed=0):
    return np.random.default_rng(seed).normal(size=NUM_NUMBERS)


def plain_score(features, network_V):
    inward = network_V[: NUM_FEATURES * WIDTH].reshape(NUM_FEATURES, WIDTH)
    bias, outward, offsets = np.split(network_V[NUM_FEATURES * WIDTH :], [WIDTH, 3 * WIDTH])
    hidden = [
        math.tanh(sum(features[d] * inward[d, unit] for d in range(NUM_FEATURES)) + bias[unit]) for unit in range(WIDTH)
    ]
    wrong, right = (
        sum(hidden[unit] * outward[2 * unit + label] for unit in range(WIDTH)) + offsets[label] for label in (0, 1)
    )
    return right - wrong


def plain_loss(table, network_V, loss):
    """The mean over all candidates, or over all groups, as a plain loop."""
    scores = np.array([plain_score(features, network_V) for features in table.features_ND])
    if loss == "query":
        return group_losses(table, scores).mean()
    losses = []
    for score, quality in zip(scores, table.qualities_N, strict=True):
        probability = 1 / (1 + math.exp(-score))
        losses.append(-quality * math.log(probability) - (1 - quality) * math.log(1 - probability))
    return sum(losses) / len(losses)


def first_step(table, start_V, loss, rate=1e-3):
    """Return the weights after a step of Adam: each moves by `rate` against the sign of its slope, after its decay."""
    epsilon, slopes = 1e-5, np.zeros(NUM_NUMBERS)
    for place in range(NUM_NUMBERS):
        shift = np.eye(NUM_NUMBERS)[place] * epsilon
        rise = plain_loss(table, start_V + shift, loss) - plain_loss(table, start_V - shift, loss)
        slopes[place] = rise / (2 * epsilon)
    return np.where(np.abs(slopes) > 1e-5, start_V * (1 - rate * 0.01) - rate * np.sign(slopes), np.nan)


@pytest.mark.parametrize("loss", ["query", "pointwise"])
def test_a_step_of_training_follows_the_slope_of_the_plainly_computed_loss(loss):
    table = random_table(np.random.default_rng(0), [5], is_soft=True)
    config = heads(paper_loss=loss, paper_learning_rate=1e-3)
    found = train_networks(table, network(), np.ones(table.num_groups), config, num_steps=1)[0]
    expected = first_step(table, network(), loss)
    is_sloped = ~np.isnan(expected)
    assert is_sloped.sum() > NUM_NUMBERS / 2
    np.testing.assert_allclose(found[is_sloped], expected[is_sloped], atol=2e-5)


@pytest.mark.parametrize("loss", ["query", "pointwise"])
def test_training_lowers_the_loss_it_is_told_to(loss):
    table = choosing_users(np.tile([2.0, -1.0, 0.0], (1, 1)), num_groups=30)
    found = train_networks(table, network(), np.ones(30), heads(paper_loss=loss), num_steps=100)[0]
    assert plain_loss(table, found, loss) < 0.7 * plain_loss(table, network(), loss)


def test_users_are_trained_alone_and_those_without_groups_stay_at_the_start():
    table = random_table(np.random.default_rng(1), [3, 0, 1, 2])
    config = heads(paper_loss="pointwise")
    together = train_networks(table, network(), np.ones(table.num_groups), config, num_steps=5)
    for user in range(4):
        alone = table.select(table.user_of_group() == user)
        own = train_networks(alone, network(), np.ones(alone.num_groups), config, num_steps=5)[user]
        np.testing.assert_allclose(own, together[user], atol=1e-5)
    np.testing.assert_array_equal(together[1], network().astype(np.float32))


def test_a_group_of_weight_0_teaches_nothing():
    table = random_table(np.random.default_rng(2), [4])
    kept = np.array([1.0, 0.0, 1.0, 1.0])
    selected = table.select(kept > 0)
    for loss in ("query", "pointwise"):
        config = heads(paper_loss=loss)
        weighted = train_networks(table, network(), kept, config, num_steps=5)
        expected = train_networks(selected, network(), np.ones(3), config, num_steps=5)
        # A shift of all of a query's scores changes nothing there, so that what adds one is left to rounding.
        numbers = slice(None) if loss == "pointwise" else slice(-2)
        np.testing.assert_allclose(weighted[:, numbers], expected[:, numbers], atol=1e-5)


def test_scores_are_those_of_each_user_s_own_network():
    table = random_table(np.random.default_rng(3), [2, 0, 3])
    networks = np.stack([network(user) for user in range(3)])
    users = table.user_of_candidate()
    found = network_scores(table.features_ND, users, networks, WIDTH)
    expected = [plain_score(x, networks[user]) for x, user in zip(table.features_ND, users, strict=True)]
    np.testing.assert_allclose(found, expected)
    with pytest.raises(HeadMismatchError, match=f"paper heads of 9 numbers, expected {NUM_NUMBERS} for 3 features and"):
        network_scores(table.features_ND, users, np.zeros((3, 9)), WIDTH)


def test_the_learning_rate_falls_linearly_to_nothing():
    table = random_table(np.random.default_rng(4), [5])
    config = heads(paper_learning_rate=1e-3)
    after = [train_networks(table, network(), np.ones(5), config, num_steps=steps)[0] for steps in (1, 100)]
    # Where slopes keep their signs, Adam moves a number by the sum of the rates: 1, .99, .98 ... of the first.
    assert np.abs(after[0] - network()).max() == pytest.approx(1e-3, rel=0.05)
    assert np.abs(after[1] - network()).max() == pytest.approx(1e-3 * 50.5, rel=0.1)


def test_a_random_start_depends_on_the_seed_alone_and_a_shared_one_on_the_users():
    tables = [choosing_users(np.tile([2.0, -1.0, 0.0], (20, 1)), seed=seed) for seed in (0, 1)]
    starts = {
        kind: [start_network(table, heads(paper_start=kind)) for table in tables] for kind in ("random", "shared")
    }
    np.testing.assert_array_equal(*starts["random"])
    assert np.abs(starts["shared"][0] - starts["shared"][1]).max() > 0.01
    assert not np.array_equal(starts["random"][0], start_network(tables[0], heads(paper_start="random", seed=1)))
    shared, random = (plain_loss(tables[0], starts[kind][0], "query") for kind in ("shared", "random"))
    assert shared < random - 0.2
