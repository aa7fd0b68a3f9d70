from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from group_tables import choosing_users, objective
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from hydra_ray.errors import TrainingError
from hydra_ray.scorer.linear import shared
from hydra_ray.scorer.linear.groups import GroupTable, starts_of
from hydra_ray.scorer.linear.newton import Regression
from hydra_ray.scorer.linear.shared import (
    NUM_USER_FOLDS,
    PSEUDO_WEIGHTS,
    RIDGE_VARIANCES,
    Widths,
    fit_shared_heads,
    search,
)

WEIGHTS = np.array([1.0, -0.5, 0.0, 0.3, 0.0, 0.8])


def same_weights(num_users):
    return np.tile(WEIGHTS, (num_users, 1))


def folds(num_users):
    return np.arange(num_users) % NUM_USER_FOLDS


def fit(table, is_pseudo=True, num_learned=2, is_validation=True, num_prefitted=0):
    return fit_shared_heads(
        table,
        np.broadcast_to(is_pseudo, table.num_groups),
        folds(table.num_users),
        Widths(num_learned, num_prefitted),
        np.broadcast_to(is_validation, table.num_users),
        seed=0,
    )


def ridge_optimum(table, variance, weights_G):
    """By a general optimizer from a plain loop over all groups."""
    pooled, offsets = table.pooled(), np.zeros(len(table.features_ND))
    width = table.features_ND.shape[1]
    return minimize(
        objective, np.zeros(width), args=(pooled, 0, offsets, np.zeros(width) + variance, weights_G), method="BFGS"
    ).x


def only_ridge(monkeypatch, variance):
    """One choice, so that nothing is chosen by anybody's targets."""
    monkeypatch.setattr(shared, "RIDGE_VARIANCES", (variance,))
    monkeypatch.setattr(shared, "_START", shared._START._replace(learned_variance=variance, plain_variance=variance))


def test_shared_head_of_pairs_is_logistic_regression_on_all_users_differences(monkeypatch):
    only_ridge(monkeypatch, 0.3)
    table = choosing_users(same_weights(40), num_groups=5, num_candidates=2)
    differences = table.features_ND[::2] - table.features_ND[1::2]
    oracle = LogisticRegression(C=0.3, fit_intercept=False, tol=1e-10).fit(differences, table.targets_N[::2] > 0)
    np.testing.assert_allclose(fit(table)[0].weights_D, oracle.coef_[0], atol=1e-4)


def test_prefitted_features_have_a_ridge_of_their_own(monkeypatch):
    only_ridge(monkeypatch, 0.1)
    table = choosing_users(same_weights(12), num_groups=4)
    monkeypatch.setattr(shared, "PREFITTED_VARIANCES", (3.0,))
    monkeypatch.setattr(shared, "_START", shared._START._replace(prefitted_variance=3.0))
    variances = np.array([0.1] * 4 + [3.0] * 2)
    expected = ridge_optimum(table, variances, np.ones(table.num_groups))
    np.testing.assert_allclose(fit(table, num_prefitted=2)[1].weights_D, expected, atol=1e-3)


def test_left_out_rows_are_optima_without_the_fold(monkeypatch):
    only_ridge(monkeypatch, 0.1)
    table = choosing_users(same_weights(12), num_groups=4)
    head = fit(table)[1]
    for fold in range(NUM_USER_FOLDS):
        weights_G = (folds(12)[table.user_of_group()] != fold).astype(float)
        np.testing.assert_allclose(head.left_out_FD[fold], ridge_optimum(table, 0.1, weights_G), atol=1e-3)


def test_a_left_out_row_never_saw_its_fold(monkeypatch):
    only_ridge(monkeypatch, 0.1)
    table = choosing_users(same_weights(20), num_groups=4)
    is_pseudo = np.arange(table.num_groups) % 4 < 3
    fold = 3
    is_fold_N = (folds(20) == fold)[table.user_of_candidate()]
    other = replace(table, targets_N=np.where(is_fold_N, table.targets_N[::-1], table.targets_N))
    monkeypatch.setattr(shared, "PSEUDO_WEIGHTS", (1.0,))
    for before, after in zip(fit(table, is_pseudo), fit(other, is_pseudo), strict=True):
        np.testing.assert_allclose(after.left_out_FD[fold], before.left_out_FD[fold], atol=1e-4)
        rest = np.arange(NUM_USER_FOLDS) != fold
        assert np.abs(after.left_out_FD[rest] - before.left_out_FD[rest]).max(axis=1).min() > 0.01


def test_users_are_scored_by_the_row_of_their_fold_and_new_ones_by_the_whole():
    head = shared.SharedHead(weights_D=np.array([1.0]), left_out_FD=np.array([[10.0], [20.0]]))
    assert head.scores(np.full((3, 1), 2.0), np.array([-1, 0, 1])).tolist() == [2.0, 20.0, 40.0]


def candidates_of_the_grid(table, is_pseudo):
    """All heads that the search may find, by pseudo weight."""
    regression = Regression(table.pooled(), table.features_ND, np.zeros(len(table.features_ND)))
    return {
        weight: [
            regression.codes(np.full(6, variance), np.where(is_pseudo, weight, 1.0))[0] for variance in RIDGE_VARIANCES
        ]
        for weight in PSEUDO_WEIGHTS
    }


def nearest_weight(table, is_pseudo):
    head = fit(table, is_pseudo, num_learned=0)[0].weights_D
    grid = candidates_of_the_grid(table, is_pseudo)
    distances = {weight: min(np.abs(each - head).max() for each in heads) for weight, heads in grid.items()}
    nearest = min(distances, key=lambda weight: distances[weight])
    assert distances[nearest] < 1e-3
    return nearest


def test_misleading_pseudo_queries_do_not_count_for_queries():
    table = choosing_users(same_weights(40), num_groups=6)
    is_pseudo = np.arange(table.num_groups) % 6 < 3
    opposite = choosing_users(-same_weights(40), num_groups=6)
    is_pseudo_N = is_pseudo[table.group_of_candidate()]
    mixed = replace(
        table,
        features_ND=np.where(is_pseudo_N[:, None], opposite.features_ND, table.features_ND),
        targets_N=np.where(is_pseudo_N, opposite.targets_N, table.targets_N),
    )
    assert nearest_weight(mixed, is_pseudo) == 0.0
    query_head, pseudo_head = fit(mixed, is_pseudo)
    assert query_head.weights_D @ WEIGHTS > 0 > pseudo_head.weights_D @ WEIGHTS


def test_plentiful_pseudo_queries_that_are_like_queries_count_as_much():
    table = choosing_users(same_weights(60), num_groups=8, seed=3)
    is_pseudo = np.arange(table.num_groups) % 8 < 7
    assert nearest_weight(table, is_pseudo) == 1.0


@pytest.mark.parametrize("is_pseudo", [False, True])
def test_one_kind_of_queries_has_one_head(is_pseudo):
    query_head, pseudo_head = fit(choosing_users(same_weights(20)), is_pseudo)
    assert query_head is pseudo_head
    assert query_head.weights_D @ WEIGHTS > 0


@pytest.mark.parametrize("num_learned", [0, 6])
def test_features_may_be_all_plain_or_all_learned(num_learned):
    assert fit(choosing_users(same_weights(20)), num_learned=num_learned)[0].weights_D @ WEIGHTS > 0


def test_one_training_user_is_scored_by_nobody_s_head():
    table = choosing_users(same_weights(1))
    head = fit(table)[0]
    assert head.weights_D.any()
    assert not head.left_out_FD[0].any()
    np.testing.assert_allclose(head.left_out_FD[1:], np.tile(head.weights_D, (NUM_USER_FOLDS - 1, 1)), atol=1e-4)


def test_ridge_shrinks_where_features_are_noise():
    rng = np.random.default_rng(6)
    table = choosing_users(same_weights(20), num_groups=4)
    noisy = replace(table, features_ND=np.hstack([rng.normal(size=(len(table.features_ND), 32)), table.features_ND]))
    weights = fit(noisy, num_learned=32)[0].weights_D
    assert np.abs(weights[:32]).mean() < 0.1 * np.abs(weights[32:]).max()


@pytest.mark.parametrize("is_pseudo", [True, False])
def test_only_users_whom_the_base_has_not_seen_validate_the_ridge(is_pseudo):
    # The first feature is what an overfitted base makes: perfect for users it was trained on, noise for the others.
    rng = np.random.default_rng(7)
    table = choosing_users(same_weights(40), num_groups=5)
    is_unseen = np.arange(40) % 4 == 0
    leaked = np.where(is_unseen[table.user_of_candidate()], rng.normal(size=len(table.targets_N)), table.targets_N)
    leaky = replace(table, features_ND=np.hstack([leaked[:, None], table.features_ND]))
    validated, trusting = (fit(leaky, is_pseudo, num_learned=1, is_validation=who)[0] for who in (is_unseen, True))
    assert abs(validated.weights_D[0]) < 0.2 * abs(trusting.weights_D[0])


def test_nothing_to_learn_from_is_an_error_that_says_so():
    empty = GroupTable(
        features_ND=np.zeros((0, 6)),
        targets_N=np.zeros(0),
        qualities_N=np.zeros(0),
        group_starts=starts_of([]),
        user_starts=starts_of([0, 0]),
    )
    with pytest.raises(TrainingError, match="nothing to fit"):
        fit(empty)


def test_search_changes_one_value_at_a_time_and_asks_for_each_choice_once():
    Choice = namedtuple("Choice", ("x", "y", "fixed"))
    asked = []

    def cost(choice):
        asked.append(choice)
        return (choice.x - 3) ** 2 + 0.1 * (choice.y - choice.x) ** 2 + choice.fixed

    found = search(cost, Choice(1, 1, 5), {"x": (1, 2, 3), "y": (1, 2, 3), "fixed": (0,)})
    assert found == (3, 3, 5)
    assert len(asked) == len(set(asked))
    assert all(choice.fixed == 5 for choice in asked)
