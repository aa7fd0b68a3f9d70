from itertools import pairwise

import numpy as np
import pytest
from group_tables import cost_of_group
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.scorer.linear.groups import GroupTable, starts_of
from hydra_ray.scorer.linear.losses import LOSSES

STEP = 1e-5
loss_of_name = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def rows_of(seed, lengths, spread):
    """Scores, targets and groups; every group's targets add up to 1."""
    rng, starts = np.random.default_rng(seed), starts_of(lengths)
    targets = np.concatenate([rng.dirichlet(np.ones(length)) for length in lengths])
    table = GroupTable(
        features_ND=np.zeros((starts[-1], 0)),
        targets_N=targets,
        qualities_N=targets,
        group_starts=starts,
        user_starts=starts_of([len(lengths)]),
    )
    return rng.normal(size=starts[-1]) * spread, targets, table.segments()


def finite_differences(function, scores):
    """Derivatives of a vector of values, a column for each score."""
    return np.stack(
        [(function(scores + step) - function(scores - step)) / (2 * STEP) for step in np.eye(len(scores)) * STEP],
        axis=1,
    )


@loss_of_name
@given(
    seed=st.integers(0, 10**6), lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4), spread=st.floats(0.1, 30)
)
def test_costs_slopes_and_curvatures_are_each_other_s_derivatives(loss, seed, lengths, spread):
    scores, targets, groups = rows_of(seed, lengths, spread)
    costs, slopes, curvatures = loss.derivatives(scores, targets, groups)
    bounds = list(pairwise(np.append(groups.starts, len(scores))))
    expected = [cost_of_group(scores[start:end], targets[start:end], loss.name) for start, end in bounds]
    np.testing.assert_allclose(groups.sums(costs), expected, atol=1e-9)
    total = finite_differences(lambda at: loss.derivatives(at, targets, groups)[0].sum(keepdims=True), scores)
    np.testing.assert_allclose(slopes, total[0], atol=1e-4)
    second = finite_differences(lambda at: loss.derivatives(at, targets, groups)[1], scores)
    products = np.stack([loss.hessian_product(axis, curvatures, groups) for axis in np.eye(len(scores))], axis=1)
    np.testing.assert_allclose(products, second, atol=1e-6)
    assert np.diagonal(second).max() <= loss.max_curvature + 1e-6


@loss_of_name
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_centred_inputs_squared_are_the_second_derivatives_by_a_code(loss, seed, lengths):
    scores, targets, groups = rows_of(seed, lengths, 2.0)
    inputs = np.random.default_rng(seed).normal(size=(len(scores), 3))
    curvatures = loss.derivatives(scores, targets, groups)[2]
    centred = loss.centred(inputs, curvatures, groups)
    expected = inputs.T @ np.stack([loss.hessian_product(column, curvatures, groups) for column in inputs.T], axis=1)
    np.testing.assert_allclose(centred.T @ (curvatures[:, None] * centred), expected, atol=1e-10)


@loss_of_name
def test_extreme_scores_have_finite_derivatives(loss):
    scores = np.array([1e4, -1e4, 0.0, 1e4, -1e4])
    _, targets, groups = rows_of(0, [3, 2], 1.0)
    for derivative in loss.derivatives(scores, targets, groups):
        assert np.isfinite(derivative).all()
