from dataclasses import replace

import numpy as np
import pytest
from group_tables import choosing_users, objective, random_table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from hydra_ray.errors import FeatureError
from hydra_ray.scorer.linear import objective as objectives
from hydra_ray.scorer.linear.groups import GroupTable, starts_of
from hydra_ray.scorer.linear.losses import LOGISTIC, LOSSES, SQUARED
from hydra_ray.scorer.linear.newton import Belief, Regression

loss_of_name = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
ragged_users = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def rows_table(targets, num_rows):
    """Users with so many rows, each a group of its own."""
    targets = np.asarray(targets, float)
    return GroupTable(
        features_ND=np.zeros((len(targets), 0)),
        targets_N=targets,
        qualities_N=targets,
        group_starts=np.arange(len(targets) + 1),
        user_starts=starts_of(num_rows),
    )


def assert_is_optimum(code, start, arguments):
    """No general optimizer finds a better one: the code is within 1e-4 of the prior's deviations of the optimum."""
    variances = arguments[3]
    reached = objective(code, *arguments)
    for begin in (start, code):
        # In units of the prior's deviations, where no curvature is below 1.
        found = minimize(
            lambda z: objective(z * np.sqrt(variances), *arguments),
            begin / np.sqrt(variances),
            method="BFGS",
            options={"gtol": 1e-9},
        )
        assert reached <= found.fun + 0.5 * 1e-8 * (1 + abs(found.fun))


@loss_of_name
@settings(max_examples=20)
@given(
    group_counts=ragged_users,
    seed=st.integers(0, 2**32 - 1),
    variance=st.floats(1e-3, 10),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_codes_are_those_of_a_general_optimizer_on_ragged_users(loss, group_counts, seed, variance, scale):
    rng = np.random.default_rng(seed)
    table = random_table(rng, group_counts, is_soft=bool(seed % 2))
    table = replace(table, features_ND=table.features_ND * np.array([1.0, scale, 1 / scale]))
    offsets = rng.normal(size=len(table.features_ND)) * 2
    variances = variance * rng.uniform(0.5, 2, 3)
    weights = rng.integers(0, 2, table.num_groups).astype(float)
    codes = Regression(table, table.features_ND, offsets, loss).codes(variances, weights)
    for user in range(table.num_users):
        assert_is_optimum(codes[user], np.zeros(3), (table, user, offsets, variances, weights, loss.name))


@loss_of_name
@settings(max_examples=20)
@given(group_counts=ragged_users, seed=st.integers(0, 2**32 - 1))
def test_beliefs_move_to_the_optimum_around_each_user_s_own_prior(loss, group_counts, seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng, group_counts)
    offsets, variances = rng.normal(size=len(table.features_ND)), rng.uniform(0.5, 2, 3)
    shape = (table.num_users, 3)
    prior = Belief(codes_UR=rng.normal(size=shape), precisions_UR=1 + rng.random(shape) * 20, variances_R=variances)
    found = Regression(table, table.features_ND, offsets, loss).updated(prior)
    for user in range(table.num_users):
        own, mean = variances / prior.precisions_UR[user], prior.codes_UR[user]
        arguments = (table, user, offsets, own, np.ones(table.num_groups), loss.name, mean)
        assert_is_optimum(found.codes_UR[user], mean, arguments)


@settings(max_examples=30)
@given(
    num_rows=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    exponents=st.lists(st.integers(-6, 6), min_size=4, max_size=4),
    kind=st.sampled_from(["mixed", "all 0", "all 1"]),
)
def test_rows_scored_alone_are_logistic_regression(num_rows, seed, exponents, kind):
    """Whatever the scales, with a constant and a duplicated feature, and users of one class."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(sum(num_rows), 3))
    inputs = np.column_stack([features, features[:, :1], np.ones(len(features))]) * 10.0 ** np.array([*exponents, 0])
    targets = {"mixed": rng.random(len(features)) < expit(features.sum(axis=1)), "all 0": 0, "all 1": 1}[kind]
    table = rows_table(np.broadcast_to(targets, len(features)), num_rows)
    # Prior deviations of about the inverse scales, so that users can be told apart at any scale.
    deviations = rng.uniform(0.3, 2, 5) / 10.0 ** np.array([*exponents, 0])
    codes = Regression(table, inputs, np.zeros(len(inputs)), LOGISTIC).codes(deviations**2)
    for user, (start, end) in enumerate(zip(table.user_starts[:-1], table.user_starts[1:], strict=True)):
        np.testing.assert_allclose(
            codes[user] / deviations,
            sklearn_code(inputs[start:end] * deviations, table.targets_N[start:end]),
            atol=1e-4,
        )


def sklearn_code(inputs, targets):
    """scikit-learn needs both classes: each row stands there as either, weighted by its target."""
    if not len(inputs):
        return np.zeros(inputs.shape[1])
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    both = np.repeat([True, False], len(inputs))
    return model.fit(np.vstack([inputs, inputs]), both, np.concatenate([targets, 1 - targets])).coef_[0]


def test_two_candidates_and_no_offset_are_logistic_regression_on_their_difference():
    rng = np.random.default_rng(0)
    num_groups, variance = 200, 0.7
    first, second = rng.normal(size=(2, num_groups, 4))
    is_first = rng.random(num_groups) < expit((first - second) @ [1, -2, 0.5, 0])
    targets = np.stack([is_first, ~is_first], axis=1).astype(float).ravel()
    table = GroupTable(
        features_ND=np.stack([first, second], axis=1).reshape(-1, 4),
        targets_N=targets,
        qualities_N=targets,
        group_starts=np.arange(0, 2 * num_groups + 1, 2),
        user_starts=np.array([0, num_groups]),
    )
    codes = Regression(table, table.features_ND, np.zeros(2 * num_groups)).codes(np.full(4, variance))
    oracle = LogisticRegression(C=variance, fit_intercept=False, tol=1e-10).fit(first - second, is_first)
    np.testing.assert_allclose(codes[0], oracle.coef_[0], atol=1e-4)


def test_squared_losses_are_ridge_regression():
    rng = np.random.default_rng(5)
    inputs, targets, variances = rng.normal(size=(30, 3)), rng.normal(size=30), np.array([0.1, 1.0, 10.0])
    codes = Regression(rows_table(targets, [30]), inputs, np.full(30, 0.5), SQUARED).codes(variances)
    expected = np.linalg.solve(inputs.T @ inputs + np.diag(1 / variances), inputs.T @ (targets - 0.5))
    np.testing.assert_allclose(codes[0], expected, atol=1e-6)


def test_covariance_is_the_inverse_of_the_objective_s_curvature():
    rng = np.random.default_rng(1)
    table = random_table(rng, [4])
    offsets, variances = rng.normal(size=len(table.features_ND)), np.array([0.5, 1.0, 2.0])
    regression = Regression(table, table.features_ND, offsets)
    fit = regression.posterior(variances)
    step, code = 1e-4, fit.codes_UR[0]

    def value(shift):
        return objective(code + shift, table, 0, offsets, variances, np.ones(4))

    axes = np.eye(3) * step
    hessian = np.array(
        [[(value(a + b) - value(a - b) - value(b - a) + value(-a - b)) / (4 * step**2) for b in axes] for a in axes]
    )
    np.testing.assert_allclose(fit.covariances()[0] @ hessian, np.eye(3), atol=1e-4)
    belief = regression.updated(Belief.prior(1, variances))
    np.testing.assert_allclose(belief.codes_UR, fit.codes_UR, atol=1e-6)
    np.testing.assert_allclose(belief.precisions_UR[0] / variances, np.diagonal(hessian), rtol=1e-4)


@loss_of_name
@settings(max_examples=20)
@given(group_counts=st.lists(st.integers(0, 9), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_users_do_not_influence_each_other(loss, group_counts, seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng, group_counts)
    offsets, variances = rng.normal(size=len(table.features_ND)), np.ones(3)
    together = Regression(table, table.features_ND, offsets, loss).codes(variances)
    for user in range(table.num_users):
        is_own = table.user_of_group() == user
        alone = table.select(is_own)
        own_offsets = offsets[is_own[table.group_of_candidate()]]
        codes = Regression(alone, alone.features_ND, own_offsets, loss).codes(variances)
        np.testing.assert_allclose(codes[user], together[user], atol=1e-9)


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    table = random_table(rng, [3, 0, 7, 1, 2, 5])
    offsets = np.zeros(len(table.features_ND))
    whole = Regression(table, table.features_ND, offsets).posterior(np.ones(3))
    monkeypatch.setattr(objectives, "CHUNK_ELEMENTS", 40)
    parts = Regression(table, table.features_ND, offsets).posterior(np.ones(3))
    np.testing.assert_allclose(parts.codes_UR, whole.codes_UR, atol=1e-9)
    np.testing.assert_allclose(parts.evidences(), whole.evidences(), atol=1e-9)


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["inputs", "offsets", "targets"])
def test_what_is_no_finite_number_is_refused(value, place):
    table = random_table(np.random.default_rng(9), [3])
    arrays = {"inputs": table.features_ND.copy(), "offsets": np.zeros(len(table.targets_N)), "targets": table.targets_N}
    arrays[place][4] = value
    with pytest.raises(FeatureError, match=f"{value}, in row 4"):
        Regression(replace(table, targets_N=arrays["targets"]), arrays["inputs"], arrays["offsets"])


def test_finite_numbers_whose_sum_is_not_are_accepted():
    table = random_table(np.random.default_rng(9), [3])
    Regression(table, np.full((len(table.targets_N), 1), 3e38, np.float32), np.zeros(len(table.targets_N)))


def test_without_new_examples_a_belief_stays_as_it_was():
    rng = np.random.default_rng(10)
    prior = Belief(codes_UR=rng.normal(size=(2, 3)), precisions_UR=1 + rng.random((2, 3)), variances_R=np.ones(3))
    table = random_table(rng, [0, 2])
    found = Regression(table, table.features_ND, np.zeros(len(table.targets_N))).updated(prior)
    np.testing.assert_array_equal(found.codes_UR[0], prior.codes_UR[0])
    np.testing.assert_array_equal(found.precisions_UR[0], prior.precisions_UR[0])
    assert (found.precisions_UR[1] > prior.precisions_UR[1]).all()


def test_orthogonal_inputs_and_squared_losses_lose_nothing_by_updating():
    rng = np.random.default_rng(11)
    halves = [np.linalg.qr(rng.normal(size=(12, 3)))[0] * [1.0, 3.0, 0.5] for _ in range(2)]
    targets, variances = rng.normal(size=24), np.array([0.2, 1.0, 5.0])
    belief = Belief.prior(1, variances)
    for inputs, own in zip(halves, np.split(targets, 2), strict=True):
        belief = Regression(rows_table(own, [12]), inputs, np.zeros(12), SQUARED).updated(belief)
    whole = Regression(rows_table(targets, [24]), np.vstack(halves), np.zeros(24), SQUARED)
    everything = whole.updated(Belief.prior(1, variances))
    np.testing.assert_allclose(belief.codes_UR, everything.codes_UR, atol=1e-6)
    np.testing.assert_allclose(belief.precisions_UR, everything.precisions_UR)


@loss_of_name
def test_updating_is_nearly_fitting_everything_and_far_better_than_forgetting(loss):
    """Measured: 3 to 5 % of the mean squared distance to the fit on everything that fitting the new alone leaves."""
    rng, num_users, num_groups, variance = np.random.default_rng(12), 200, 10, 0.3
    table = choosing_users(rng.normal(size=(num_users, 8)) * variance**0.5, num_groups=2 * num_groups)
    is_new_G, offsets = np.arange(table.num_groups) % (2 * num_groups) >= num_groups, np.zeros(len(table.targets_N))
    prior = Belief.prior(num_users, np.full(8, variance))

    def regression(is_kept_G):
        own = table.select(is_kept_G)
        return Regression(own, own.features_ND, offsets[: len(own.targets_N)], loss)

    stored = regression(~is_new_G).updated(prior)
    stored = replace(
        stored,
        codes_UR=stored.codes_UR.astype(np.float32),
        precisions_UR=stored.precisions_UR.astype(np.float16),
    )
    updated, new_alone = (regression(is_new_G).updated(each).codes_UR for each in (stored, prior))
    everything = regression(np.ones(table.num_groups, bool)).codes(np.full(8, variance))
    distances = [np.mean((codes - everything) ** 2) for codes in (updated, new_alone)]
    assert distances[0] < 0.1 * distances[1]
