import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from hydra_ray.scorer import heads
from hydra_ray.scorer.heads import GroupTable, fit_codes, group_losses, starts_of, target_distribution


def random_table(rng, group_counts, max_candidates=5, num_features=3, *, is_soft=False):
    lengths = rng.integers(2, max_candidates + 1, sum(group_counts))
    targets = [
        rng.dirichlet(np.ones(length)) if is_soft else np.eye(length)[rng.integers(length)] for length in lengths
    ]
    return GroupTable(
        features_ND=rng.normal(size=(lengths.sum(), num_features)),
        targets_N=np.concatenate([np.zeros(0), *targets]),
        group_starts=starts_of(lengths),
        user_starts=starts_of(group_counts),
    )


def objective(code, table, user, offsets, variances, weights):
    """The penalized loss of one user, written as a plain loop."""
    total = 0.5 * (code**2 / variances).sum()
    for group in range(table.user_starts[user], table.user_starts[user + 1]):
        rows = slice(table.group_starts[group], table.group_starts[group + 1])
        scores = offsets[rows] + table.features_ND[rows] @ code
        log_probabilities = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
        total -= weights[group] * (table.targets_N[rows] * log_probabilities).sum()
    return total


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
    codes = fit_codes(table, table.features_ND, offsets, variances, weights).codes_UR
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
        group_starts=np.arange(0, 2 * num_groups + 1, 2),
        user_starts=np.array([0, num_groups]),
    )
    fit = fit_codes(table, table.features_ND, np.zeros(2 * num_groups), np.full(4, variance))
    oracle = LogisticRegression(C=variance, fit_intercept=False, tol=1e-10).fit(first - second, is_first)
    np.testing.assert_allclose(fit.codes_UR[0], oracle.coef_[0], atol=1e-4)


def test_covariance_is_the_inverse_of_the_objective_s_curvature():
    rng = np.random.default_rng(1)
    table = random_table(rng, [4])
    offsets, variances = rng.normal(size=len(table.features_ND)), np.array([0.5, 1.0, 2.0])
    fit = fit_codes(table, table.features_ND, offsets, variances)
    step, code = 1e-4, fit.codes_UR[0]

    def value(shift):
        return objective(code + shift, table, 0, offsets, variances, np.ones(4))

    axes = np.eye(3) * step
    hessian = [
        [(value(a + b) - value(a - b) - value(b - a) + value(-a - b)) / (4 * step**2) for b in axes] for a in axes
    ]
    np.testing.assert_allclose(fit.covariances_URR[0] @ hessian, np.eye(3), atol=1e-4)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 1000))
def test_users_do_not_influence_each_other(group_counts, seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng, group_counts)
    offsets, variances = rng.normal(size=len(table.features_ND)), np.ones(3)
    together = fit_codes(table, table.features_ND, offsets, variances).codes_UR
    for user in range(table.num_users):
        is_own = table.user_of_group() == user
        alone = table.select(is_own)
        own_offsets = offsets[is_own[table.group_of_candidate()]]
        codes = fit_codes(alone, alone.features_ND, own_offsets, variances).codes_UR
        np.testing.assert_allclose(codes[user], together[user], atol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    table = random_table(rng, [3, 0, 7, 1, 2, 5])
    offsets = np.zeros(len(table.features_ND))
    whole = fit_codes(table, table.features_ND, offsets, np.ones(3))
    monkeypatch.setattr(heads, "CHUNK_ELEMENTS", 100)
    parts = fit_codes(table, table.features_ND, offsets, np.ones(3))
    np.testing.assert_allclose(parts.codes_UR, whole.codes_UR, atol=1e-8)
    np.testing.assert_allclose(parts.evidences_U, whole.evidences_U, atol=1e-8)


def test_nothing_to_learn_from_and_no_variance_keep_the_code_at_zero():
    rng = np.random.default_rng(3)
    table = random_table(rng, [0, 4])
    offsets = rng.normal(size=len(table.features_ND))
    fit = fit_codes(table, table.features_ND, offsets, np.array([0.0, 1.0, 0.0]))
    assert not fit.codes_UR[0].any()
    assert fit.codes_UR[1, 1] != 0
    assert not fit.codes_UR[1, [0, 2]].any()


def test_constant_duplicated_and_huge_features_are_harmless():
    rng = np.random.default_rng(4)
    table = random_table(rng, [6])
    column = table.features_ND[:, :1]
    inputs = np.hstack([np.ones_like(column), column, column, 1e4 * column])
    fit = fit_codes(table, inputs, np.zeros(len(inputs)), np.ones(4))
    assert np.isfinite(fit.codes_UR).all()
    assert abs(fit.codes_UR[0, 0]) < 1e-8
    np.testing.assert_allclose(fit.codes_UR[0, 1], fit.codes_UR[0, 2], atol=1e-8)


def test_group_losses_are_cross_entropies():
    rng = np.random.default_rng(5)
    table = random_table(rng, [2, 3], is_soft=True)
    scores = rng.normal(size=len(table.features_ND)) * 50
    expected = [
        objective(np.zeros(3), table.select(np.arange(5) == group).pooled(), 0, scores[rows], np.ones(3), np.ones(1))
        for group, rows in enumerate(
            slice(*bounds) for bounds in zip(table.group_starts[:-1], table.group_starts[1:], strict=True)
        )
    ]
    np.testing.assert_allclose(group_losses(table, scores), expected)


def test_targets_share_everything_among_the_best_of_two_qualities():
    assert target_distribution([0.0, 1.0, 1.0, 0.0]) == [0.0, 0.5, 0.5, 0.0]


def test_targets_of_many_qualities_rank_as_the_qualities_do():
    targets = target_distribution([0.1, 0.5, 0.4, 0.1])
    assert targets is not None
    assert sum(targets) == pytest.approx(1)
    assert targets[1] > targets[2] > targets[0] == targets[3] > 0


@pytest.mark.parametrize("qualities", [[], [1.0], [0.5, 0.5], [0.0, 1.0, None]])
def test_groups_without_a_known_difference_teach_nothing(qualities):
    assert target_distribution(qualities) is None
