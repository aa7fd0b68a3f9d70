import numpy as np
import pytest
from group_tables import objective, random_table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from hydra_ray.scorer import objective as objectives
from hydra_ray.scorer.heads import GroupTable
from hydra_ray.scorer.newton import Regression


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
    st.floats(1e-3, 10),
    st.booleans(),
)
def test_codes_are_those_of_a_general_optimizer_on_ragged_users(group_counts, seed, variance, is_soft):
    rng = np.random.default_rng(seed)
    table = random_table(rng, group_counts, is_soft=is_soft)
    offsets = rng.normal(size=len(table.features_ND)) * 2
    variances = variance * rng.uniform(0.5, 2, 3)
    weights = rng.integers(0, 2, table.num_groups).astype(float)
    codes = Regression(table, table.features_ND, offsets).codes(variances, weights)
    for user in range(table.num_users):
        arguments = (table, user, offsets, variances, weights)
        best = minimize(objective, np.zeros(3), args=arguments, method="BFGS", options={"gtol": 1e-9})
        assert objective(codes[user], *arguments) <= best.fun + 1e-6


def test_two_candidates_and_no_offset_are_logistic_regression_on_their_difference():
    rng = np.random.default_rng(0)
    num_groups, variance = 200, 0.7
    first, second = rng.normal(size=(2, num_groups, 4))
    is_first = rng.random(num_groups) < 1 / (1 + np.exp(-(first - second) @ [1, -2, 0.5, 0]))
    table = GroupTable(
        features_ND=np.stack([first, second], axis=1).reshape(-1, 4),
        targets_N=np.stack([is_first, ~is_first], axis=1).astype(float).ravel(),
        qualities_N=np.stack([is_first, ~is_first], axis=1).astype(float).ravel(),
        group_starts=np.arange(0, 2 * num_groups + 1, 2),
        user_starts=np.array([0, num_groups]),
    )
    codes = Regression(table, table.features_ND, np.zeros(2 * num_groups)).codes(np.full(4, variance))
    oracle = LogisticRegression(C=variance, fit_intercept=False, tol=1e-10).fit(first - second, is_first)
    np.testing.assert_allclose(codes[0], oracle.coef_[0], atol=1e-4)


def test_covariance_is_the_inverse_of_the_objective_s_curvature():
    rng = np.random.default_rng(1)
    table = random_table(rng, [4])
    offsets, variances = rng.normal(size=len(table.features_ND)), np.array([0.5, 1.0, 2.0])
    fit = Regression(table, table.features_ND, offsets).posterior(variances)
    step, code = 1e-4, fit.codes_UR[0]

    def value(shift):
        return objective(code + shift, table, 0, offsets, variances, np.ones(4))

    axes = np.eye(3) * step
    hessian = [
        [(value(a + b) - value(a - b) - value(b - a) + value(-a - b)) / (4 * step**2) for b in axes] for a in axes
    ]
    np.testing.assert_allclose(fit.covariances()[0] @ hessian, np.eye(3), atol=1e-4)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 1000))
def test_users_do_not_influence_each_other(group_counts, seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng, group_counts)
    offsets, variances = rng.normal(size=len(table.features_ND)), np.ones(3)
    together = Regression(table, table.features_ND, offsets).codes(variances)
    for user in range(table.num_users):
        is_own = table.user_of_group() == user
        alone = table.select(is_own)
        own_offsets = offsets[is_own[table.group_of_candidate()]]
        codes = Regression(alone, alone.features_ND, own_offsets).codes(variances)
        np.testing.assert_allclose(codes[user], together[user], atol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    table = random_table(rng, [3, 0, 7, 1, 2, 5])
    offsets = np.zeros(len(table.features_ND))
    whole = Regression(table, table.features_ND, offsets).posterior(np.ones(3))
    monkeypatch.setattr(objectives, "CHUNK_ELEMENTS", 40)
    parts = Regression(table, table.features_ND, offsets).posterior(np.ones(3))
    np.testing.assert_allclose(parts.codes_UR, whole.codes_UR, atol=1e-8)
    np.testing.assert_allclose(parts.evidences(), whole.evidences(), atol=1e-8)


def test_nothing_to_learn_from_and_no_variance_keep_the_code_at_zero():
    rng = np.random.default_rng(3)
    table = random_table(rng, [0, 4])
    offsets = rng.normal(size=len(table.features_ND))
    codes = Regression(table, table.features_ND, offsets).codes(np.array([0.0, 1.0, 0.0]))
    assert not codes[0].any()
    assert codes[1, 1] != 0
    assert not codes[1, [0, 2]].any()


def test_constant_duplicated_and_huge_features_are_harmless():
    rng = np.random.default_rng(4)
    table = random_table(rng, [6])
    column = table.features_ND[:, :1]
    inputs = np.hstack([np.ones_like(column), column, column, 1e4 * column])
    codes = Regression(table, inputs, np.zeros(len(inputs))).codes(np.ones(4))
    assert np.isfinite(codes).all()
    assert abs(codes[0, 0]) < 1e-8
    np.testing.assert_allclose(codes[0, 1], codes[0, 2], atol=1e-8)


@pytest.mark.parametrize("distance", [0.1, 3.0, 100.0])
def test_where_the_search_starts_does_not_change_what_it_finds(distance):
    rng = np.random.default_rng(6)
    table = random_table(rng, [4, 0, 2])
    regression = Regression(table, table.features_ND, rng.normal(size=len(table.features_ND)))
    variances, start = np.array([0.5, 2.0, 0.0]), rng.normal(size=(3, 3)) * distance
    np.testing.assert_allclose(regression.codes(variances, start_UR=start), regression.codes(variances), atol=1e-5)
