import numpy as np
from group_tables import random_table

from hydra_ray.scorer.linear.newton import Regression
from hydra_ray.scorer.linear.pooled import PooledRegression


def test_a_common_code_is_that_of_one_user_who_has_all_groups():
    rng = np.random.default_rng(7)
    table = random_table(rng, [4, 0, 7, 1])
    offsets, weights = rng.normal(size=len(table.features_ND)), rng.random(table.num_groups)
    variances = np.array([0.5, 2.0, 0.0])
    common = PooledRegression(table, table.features_ND, offsets).code(variances, weights, rng.normal(size=3))
    pooled = Regression(table.pooled(), table.features_ND, offsets).codes(variances, weights)
    np.testing.assert_allclose(common, pooled[0], atol=1e-5)


def test_codes_without_a_user_are_close_to_those_fitted_without_the_user():
    rng = np.random.default_rng(8)
    table = random_table(rng, [20, 25, 0, 15])
    regression = PooledRegression(table, table.features_ND, np.zeros(len(table.features_ND)))
    variances, weights = np.array([0.5, 2.0, 0.1]), rng.random(table.num_groups)
    code = regression.code(variances, weights, np.zeros(3))
    without = regression.codes_without(variances, weights, code)
    for user in range(table.num_users):
        fitted = regression.code(variances, weights * (table.user_of_group() != user), code)
        np.testing.assert_allclose(without[user], fitted, atol=0.05)
        assert np.abs(without[user] - fitted).max() <= 0.3 * np.abs(code - fitted).max() + 1e-9
