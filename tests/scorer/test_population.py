import numpy as np
import pytest

from hydra_ray.errors import TrainingError
from hydra_ray.scorer.heads import GroupTable, group_losses, starts_of
from hydra_ray.scorer.population import (
    estimate_deviations,
    fit_population,
    fit_shared_head,
    held_out_scores,
    read_population,
)

SHARED = np.array([1.0, -0.5, 0.0, 0.3, 0.0, 0.8])


def planted(num_users, deviations_UD, *, num_groups=8, num_candidates=4, seed=0):
    """Users who choose by softmax of their own weights."""
    rng = np.random.default_rng(seed)
    width = deviations_UD.shape[1]
    features = rng.normal(size=(num_users, num_groups, num_candidates, width))
    scores = np.einsum("ugcd,ud->ugc", features, SHARED[:width] + deviations_UD)
    choices = (scores + rng.gumbel(size=scores.shape)).argmax(axis=2)
    return GroupTable(
        features_ND=features.reshape(-1, width),
        targets_N=np.eye(num_candidates)[choices].ravel(),
        group_starts=np.arange(num_users * num_groups + 1) * num_candidates,
        user_starts=np.arange(num_users + 1) * num_groups,
    )


def estimate(table, ranks=(4,)):
    return fit_population(
        table,
        num_learned=2,
        is_judge_U=np.ones(table.num_users, bool),
        fold_G=np.arange(table.num_groups) % 4,
        ranks=ranks,
        num_folds=5,
        seed=0,
        base_fingerprint="base",
    )


@pytest.mark.parametrize("variance", [0.1, 1.0])
def test_prior_variance_is_recovered_within_a_factor_of_two(variance):
    deviations = np.random.default_rng(1).normal(size=(300, 6)) * variance**0.5
    population = estimate(planted(300, deviations), ranks=(6,))
    variances = population.variances[6] * np.linalg.norm(population.basis_DR, axis=0) ** 2
    assert variance / 2 < variances.mean() < variance * 2


def test_basis_finds_the_direction_in_which_users_differ():
    direction = np.array([0, 0, 1, -1, 0, 0]) / 2**0.5
    deviations = np.random.default_rng(2).normal(size=(200, 1)) * direction * 2
    table = planted(200, deviations)
    shared = fit_shared_head(table, 2, np.ones(200, bool), num_folds=5, seed=0)
    directions, variances = estimate_deviations(table, shared.held_out_N, 2, seed=0)
    assert abs(directions[:, 0] @ direction) > 0.9
    assert variances[0] > 5 * variances[1]


@pytest.mark.parametrize("num_users", [20, 200])
def test_users_who_do_not_differ_stay_at_the_shared_head(num_users):
    table = planted(num_users, np.zeros((num_users, 6)), num_groups=6)
    population = estimate(table)
    inputs, offsets = table.features_ND @ population.basis_DR, table.features_ND @ population.weights_D
    personal = held_out_scores(table, inputs, offsets, population.variances[4], np.arange(table.num_groups) % 6)
    loss, shared_loss = group_losses(table, personal).mean(), group_losses(table, offsets).mean()
    assert loss < shared_loss + 0.02


@pytest.mark.parametrize(("num_users", "gain"), [(24, 0.02), (200, 0.1)])
def test_few_training_users_give_a_prior_that_helps_new_users(num_users, gain):
    population = estimate(planted(num_users, np.random.default_rng(3).normal(size=(num_users, 6)) * 1.2, num_groups=6))
    table = planted(100, np.random.default_rng(4).normal(size=(100, 6)) * 1.2, num_groups=6, seed=5)
    inputs, offsets = table.features_ND @ population.basis_DR, table.features_ND @ population.weights_D
    personal = held_out_scores(table, inputs, offsets, population.variances[4], np.arange(table.num_groups) % 6)
    assert group_losses(table, personal).mean() < group_losses(table, offsets).mean() - gain


def test_ridge_shrinks_where_features_are_noise():
    rng = np.random.default_rng(6)
    table = planted(20, np.zeros((20, 6)), num_groups=4)
    noisy = GroupTable(
        features_ND=np.hstack([rng.normal(size=(len(table.features_ND), 32)), table.features_ND]),
        targets_N=table.targets_N,
        group_starts=table.group_starts,
        user_starts=table.user_starts,
    )
    shared = fit_shared_head(noisy, 32, np.ones(20, bool), num_folds=5, seed=0)
    assert np.abs(shared.weights_D[:32]).mean() < 0.1 * np.abs(shared.weights_D[32:]).max()


def test_only_users_whom_the_base_has_not_seen_judge_the_ridge():
    # The first feature is what an overfitted base makes: perfect for users it was trained on, noise for the others.
    rng = np.random.default_rng(7)
    table = planted(40, np.zeros((40, 6)), num_groups=5)
    is_unseen = np.arange(40) % 4 == 0
    leaked = np.where(is_unseen[table.user_of_candidate()], rng.normal(size=len(table.targets_N)), table.targets_N)
    leaky = GroupTable(
        features_ND=np.hstack([leaked[:, None], table.features_ND]),
        targets_N=table.targets_N,
        group_starts=table.group_starts,
        user_starts=table.user_starts,
    )
    judged = fit_shared_head(leaky, 1, is_unseen, num_folds=5, seed=0)
    trusting = fit_shared_head(leaky, 1, np.ones(40, bool), num_folds=5, seed=0)
    assert abs(judged.weights_D[0]) < 0.2 * abs(trusting.weights_D[0])


def test_weights_are_in_the_units_of_the_stored_features():
    table = planted(60, np.zeros((60, 6)))
    scale = np.array([1, 10, 0.1, 1, 1, 5])
    plain = estimate(table, ranks=())
    scaled = estimate(table.scaled(1 / scale), ranks=())
    np.testing.assert_allclose(scaled.weights_D * scale, plain.weights_D, rtol=1e-4, atol=1e-6)


def test_nothing_to_learn_from_is_an_error_that_says_so():
    empty = GroupTable(
        features_ND=np.zeros((0, 6)), targets_N=np.zeros(0), group_starts=starts_of([]), user_starts=starts_of([0, 0])
    )
    with pytest.raises(TrainingError, match="nothing to fit"):
        estimate(empty)


def test_stored_population_reads_back(tmp_path):
    population = estimate(planted(30, np.zeros((30, 6))), ranks=(2, 9))
    population.write(str(tmp_path / "population"), "fingerprint")
    found = read_population(str(tmp_path / "population"))
    np.testing.assert_array_equal(found.basis_DR, population.basis_DR)
    assert found.variances.keys() == {2, 6}
    assert found.base_fingerprint == "base"
