from dataclasses import asdict, replace

import numpy as np
import pytest
from group_tables import choosing_users
from numpy.typing import ArrayLike

from hydra_ray.scorer.linear.groups import group_losses, starts_of
from hydra_ray.scorer.linear.newton import Regression
from hydra_ray.scorer.linear.prior import (
    TrainingGroups,
    choose_factors,
    estimate_deviations,
    feature_weights,
    fit_prior,
    read_prior,
    start_variances,
)
from hydra_ray.scorer.linear.routed import RoutedHeads
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS, Widths
from hydra_ray.scorer.linear.support import Support, held_out_scores

SHARED = np.array([1.0, -0.5, 0.0, 0.3, 0.0, 0.8])


def planted(deviations_UD, **settings):
    return choosing_users(SHARED[: deviations_UD.shape[1]] + deviations_UD, **settings)


def random_deviations(num_users, deviation, seed):
    return np.random.default_rng(seed).normal(size=(num_users, 6)) * deviation


def folds(num_users):
    return np.arange(num_users) % NUM_USER_FOLDS


def estimate(table, ranks=(4,), *, is_pseudo: ArrayLike = True, num_learned=2):
    return fit_prior(groups_of(table, folds(table.num_users), is_pseudo), Widths(num_learned), ranks, 0, "base")


def groups_of(table, user_fold_U, is_pseudo):
    return TrainingGroups(
        table=table,
        is_pseudo_G=np.broadcast_to(is_pseudo, table.num_groups),
        fold_G=np.arange(table.num_groups) % 4,
        histories_GH=np.zeros((table.num_groups, 0)),
        user_fold_U=user_fold_U,
        is_validation_U=np.ones(len(user_fold_U), bool),
    )


def new_users_losses(head_prior, table, rank=4, num_folds=6):
    """Return mean losses of new users' groups, by the shared head and by own heads that did not see the group."""
    shared_N = head_prior.shared_scores(
        table.features_ND, np.ones(len(table.features_ND), bool), np.full(len(table.features_ND), -1)
    )
    regression = Regression(table, table.features_ND @ head_prior.basis_DR[:, :rank], shared_N)
    personal_N = held_out_scores(
        regression, head_prior.variances[rank], Support.of_folds(np.arange(table.num_groups) % num_folds)
    )
    return group_losses(table, shared_N).mean(), group_losses(table, personal_N).mean()


@pytest.mark.parametrize("variance", [0.1, 1.0])
def test_prior_variance_is_recovered_within_a_factor_of_two(variance):
    head_prior = estimate(planted(random_deviations(300, variance**0.5, seed=1)), ranks=(6,))
    variances = head_prior.variances[6] * np.linalg.norm(head_prior.basis_DR, axis=0) ** 2
    assert variance / 2 < variances.mean() < variance * 2


def test_estimated_variances_are_those_of_simulated_users_within_two_fifths():
    """400 users of 20 queries each. Most are too small, as Laplace approximations are; the sum is a fifth too small."""
    deviations = np.array([1.0, 0.7, 0.5, 0.3, 0.2, 0.1]) ** 0.5
    table = planted(random_deviations(400, 1.0, seed=2) * deviations, num_groups=20)
    offsets = table.features_ND @ SHARED
    directions, variances = estimate_deviations(table, offsets, start_variances(table, offsets, 2, seed=0))
    found = np.diagonal(directions * variances @ directions.T)
    np.testing.assert_allclose(found, deviations**2, rtol=0.4)
    np.testing.assert_allclose(found.sum(), (deviations**2).sum(), rtol=0.25)


def factors(table, ranks, *, is_validation=True):
    num_users = table.num_users
    return choose_factors(
        table,
        table.features_ND[:, :6] @ SHARED,
        np.full(table.features_ND.shape[1], 0.3),
        np.arange(num_users) % 2,
        np.broadcast_to(is_validation, num_users),
        np.arange(table.num_groups) % 4,
        ranks,
    )


def test_factors_of_several_ranks_are_those_of_each_alone():
    table = planted(random_deviations(60, 1.0, seed=7))
    together = factors(table, [2, 4, 6])
    assert together == {rank: factors(table, [rank])[rank] for rank in (2, 4, 6)}
    assert all(together.values())


def test_only_users_whom_the_base_has_not_seen_validate_the_basis():
    """A feature tells most users' targets, for or against, but is noise for those that the base was not trained on."""
    rng = np.random.default_rng(9)
    table = planted(np.zeros((80, 6)))
    is_unseen = np.arange(80) % 5 == 0
    signs = np.where(is_unseen, 0, rng.choice([-1, 1], 80))[table.user_of_candidate()]
    leaked = signs * 3 * table.targets_N + rng.normal(size=len(table.targets_N))
    leaky = replace(table, features_ND=np.hstack([table.features_ND, leaked[:, None]]))
    assert factors(leaky, [1])[1] > 0
    assert factors(leaky, [1], is_validation=is_unseen)[1] == 0
    assert factors(leaky, [1], is_validation=False)[1] == 0


def test_basis_finds_the_direction_in_which_users_differ():
    direction = np.array([0, 0, 1, -1, 0, 0]) / 2**0.5
    table = planted(np.random.default_rng(2).normal(size=(200, 1)) * direction * 2)
    offsets = table.features_ND @ SHARED
    directions, variances = estimate_deviations(table, offsets, start_variances(table, offsets, 2, seed=0))
    assert abs(directions[:, 0] @ direction) > 0.9
    assert variances[0] > 5 * variances[1]


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_weight_of_each_direction_is_positive(seed):
    table = planted(random_deviations(60, 1.0, seed=seed))
    directions, _ = estimate_deviations(table, table.features_ND @ SHARED, np.full(6, 0.3))
    assert all(column[abs(column).argmax()] > 0 for column in directions.T)


def test_two_directions_that_few_groups_of_many_features_show_are_found():
    """80 users of 7 groups, 48 features: each direction has to grow from what 80 users show of it."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(48, 2)))[0]
    shared, deviations = rng.normal(size=48) * 0.3, rng.normal(size=(160, 2)) @ basis.T * 2.5
    taught, new = (
        choosing_users(shared + each, num_groups=7, seed=seed)
        for seed, each in enumerate((deviations[:80], deviations[80:]))
    )
    offsets, new_offsets = taught.features_ND @ shared, new.features_ND @ shared
    directions, variances = estimate_deviations(taught, offsets, start_variances(taught, offsets, 0, seed=0))
    assert variances[1] > 5 * variances[2]
    regression = Regression(new, new.features_ND @ directions[:, :2], new_offsets)
    personal = group_losses(
        new, held_out_scores(regression, variances[:2], Support.of_folds(np.arange(new.num_groups) % 7))
    ).mean()
    assert personal < 0.7 * group_losses(new, new_offsets).mean()


@pytest.mark.parametrize("num_users", [20, 200])
def test_users_who_do_not_differ_stay_at_the_shared_head(num_users):
    nobody_differs = np.zeros((num_users, 6))
    head_prior = estimate(planted(nobody_differs, num_groups=6))
    shared, personal = new_users_losses(head_prior, planted(nobody_differs, num_groups=6, seed=1))
    assert personal < shared + 0.02


@pytest.mark.parametrize(("num_users", "gain"), [(24, 0.02), (200, 0.1)])
def test_few_training_users_give_a_prior_that_helps_new_users(num_users, gain):
    head_prior = estimate(planted(random_deviations(num_users, 1.2, seed=3), num_groups=6))
    table = planted(random_deviations(100, 1.2, seed=4), num_groups=6, seed=5)
    shared, personal = new_users_losses(head_prior, table)
    assert personal < shared - gain


def test_each_kind_of_query_is_scored_by_its_own_head():
    table = planted(np.zeros((20, 6)), num_groups=6)
    is_pseudo = np.arange(table.num_groups) % 6 < 3
    flipped = np.where(is_pseudo[table.group_of_candidate()][:, None], -table.features_ND, table.features_ND)
    head_prior = estimate(replace(table, features_ND=flipped), is_pseudo=is_pseudo)
    features = np.random.default_rng(0).normal(size=(4, 6))
    found = head_prior.shared_scores(features, np.array([True, False, True, False]), np.array([-1, -1, 2, 2]))
    expected = [
        features[0] @ head_prior.pseudo_head.weights_D,
        features[1] @ head_prior.query_head.weights_D,
        features[2] @ head_prior.pseudo_head.left_out_FD[2],
        features[3] @ head_prior.query_head.left_out_FD[2],
    ]
    np.testing.assert_allclose(found, expected)
    assert head_prior.pseudo_head.weights_D @ SHARED < 0 < head_prior.query_head.weights_D @ SHARED


def test_weights_are_in_the_units_of_the_stored_features():
    table = planted(np.zeros((60, 6)))
    scale = np.array([1, 10, 0.1, 1, 1, 5])
    plain, scaled = (estimate(each, ranks=()).query_head for each in (table, table.scaled(1 / scale)))
    np.testing.assert_allclose(scaled.weights_D * scale, plain.weights_D, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scaled.left_out_FD * scale, plain.left_out_FD, rtol=1e-4, atol=1e-6)


def test_feature_weights_are_those_of_plain_features_that_vary_by_one_within_a_query():
    table = planted(np.zeros((60, 6)))
    scaled = table.scaled(np.array([1, 10, 0.1, 1, 1, 5]))
    names = ["vote", "share", "overlap", "length"]
    weights = feature_weights(estimate(table, ranks=()), names)
    assert [name for name, _ in weights] == names
    np.testing.assert_allclose(
        [weight for _, weight in weights],
        [weight for _, weight in feature_weights(estimate(scaled, ranks=()), names)],
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose([weight for _, weight in weights], SHARED[2:], atol=0.25)


def test_no_plain_features_have_no_weights():
    assert feature_weights(estimate(planted(np.zeros((20, 6))), num_learned=6), []) == []


@pytest.mark.parametrize("is_told", [True, False])
def test_codes_hold_what_histories_do_not_tell(is_told):
    """Users of two kinds far apart, who differ little within a kind."""
    rng = np.random.default_rng(11)
    kinds = rng.integers(2, size=200)
    far = np.array([[2.0, 0, 0, 0, 0, 0], [-2.0, 0, 0, 0, 0, 0]])[kinds]
    table = planted(far + 0.3 * rng.normal(size=(200, 6)), num_groups=6)
    told = (kinds[:, None] if is_told else rng.integers(2, size=(200, 1))) + 0.1 * rng.normal(size=(200, 3))
    groups = replace(groups_of(table, folds(200), True), histories_GH=told[table.user_of_group()])
    head_prior = fit_prior(groups, Widths(2), (4,), 0, "base")
    assert (head_prior.routed is not None) == is_told
    assert (head_prior.variances[4].sum() < 1.5) == is_told


def test_users_without_groups_change_nothing():
    table = planted(random_deviations(20, 1.0, seed=7), num_groups=4)
    counts = np.repeat(np.diff(table.user_starts), 2) * np.tile([0, 1], 20)
    spaced = fit_prior(
        groups_of(replace(table, user_starts=starts_of(counts)), np.repeat(folds(20), 2), True),
        Widths(2),
        (4,),
        0,
        "base",
    )
    dense = estimate(table)
    np.testing.assert_allclose(spaced.query_head.weights_D, dense.query_head.weights_D)
    np.testing.assert_allclose(spaced.variances[4], dense.variances[4])


@pytest.mark.parametrize("num_learned", [0, 2, 6])
def test_one_training_user_is_enough(num_learned):
    head_prior = estimate(planted(np.zeros((1, 6))), num_learned=num_learned)
    assert np.isfinite(head_prior.variances[4]).all()
    assert head_prior.query_head.weights_D.any()


@pytest.mark.parametrize("has_routed", [False, True])
def test_a_stored_prior_reads_back(tmp_path, has_routed):
    rng = np.random.default_rng(8)
    routed = RoutedHeads(
        deviations_FED=rng.normal(size=(6, 7, 6)),
        gate_FEQ=rng.normal(size=(6, 7, 2)),
        gate_bias_FE=rng.normal(size=(6, 7)),
        means_H=rng.normal(size=5),
        components_QH=rng.normal(size=(2, 5)),
    )
    head_prior = replace(estimate(planted(np.zeros((30, 6))), ranks=(2, 9)), routed=routed if has_routed else None)
    head_prior.write(str(tmp_path / "population"), "fingerprint")
    found = read_prior(str(tmp_path / "population"))
    np.testing.assert_array_equal(found.basis_DR, head_prior.basis_DR)
    for head, expected in ((found.query_head, head_prior.query_head), (found.pseudo_head, head_prior.pseudo_head)):
        np.testing.assert_array_equal(head.weights_D, expected.weights_D)
        np.testing.assert_array_equal(head.left_out_FD, expected.left_out_FD)
    assert found.variances.keys() == {2, 6}
    assert found.base_fingerprint == "base"
    if has_routed:
        assert found.routed is not None
        for name, expected in asdict(routed).items():
            np.testing.assert_array_equal(getattr(found.routed, name), expected)
    else:
        assert found.routed is None
