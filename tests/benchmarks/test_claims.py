import numpy as np
import pytest
from claims import Claim, below_p_value, corrected, difference, not_worse_p_value, pooled_difference, unchanged
from scipy import stats

from hydra_ray.config import ReportConfig

BOOTSTRAP = ReportConfig(num_resamples=500)


def noise(num_users: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, num_users)


def test_where_nothing_changed_the_limits_are_clopper_and_pearsons():
    same_U = noise(93)
    found = difference(same_U, same_U, np.ones(93), BOOTSTRAP)
    bound = 1 - 0.025 ** (1 / 93)  # their closed form for none of 93
    assert found.is_unchanged
    assert (found.figure.low, found.figure.value, found.figure.high) == pytest.approx((-bound, 0, bound))
    assert unchanged(93, 0.9).high == pytest.approx(1 - 0.05 ** (1 / 93))


def test_a_difference_counts_users_and_weighs_their_queries():
    found = difference(np.array([1.0, 0, 0.5]), np.array([0.0, 0.5, 0.5]), np.array([1.0, 2, 1]), BOOTSTRAP)
    assert (found.num_better, found.num_worse, found.num_users) == (1, 1, 3)
    assert found.figure.value == pytest.approx(0)
    assert not found.is_unchanged


def test_pooled_users_have_the_same_weight_and_stay_in_their_sets():
    pairs = [(noise(30, 1), noise(30, 2)), (noise(200, 3), noise(200, 4))]
    found = pooled_difference(pairs, BOOTSTRAP)
    changes = [first - second for first, second in pairs]
    assert found.figure.value == pytest.approx(np.concatenate(changes).mean())
    assert found.num_users == 230
    variance = sum(each.var() * len(each) for each in changes) / 230**2  # of a mean that is stratified by set
    assert found.figure.low is not None
    assert found.figure.value - found.figure.low == pytest.approx(1.96 * variance**0.5, rel=0.15)
    same = pooled_difference([(first, first) for first, _ in pairs], BOOTSTRAP)
    assert same.figure == unchanged(230, 0.95)


def test_not_being_worse_is_tested_against_the_margin():
    first_U, second_U = noise(50, 1), noise(50, 2)
    expected = stats.ttest_rel(first_U + 0.01, second_U, alternative="greater").pvalue
    assert not_worse_p_value(first_U, second_U, 0.01) == pytest.approx(expected)
    # Of users a hundredth of whom are worse, the chance that none of 400 is.
    assert not_worse_p_value(np.ones(400), np.ones(400), 0.01) == pytest.approx(0.99**400)


def test_a_bound_is_tested_by_resamples():
    assert below_p_value(np.linspace(0, 1, 99), 0.5) == pytest.approx(0.5, abs=0.02)
    assert below_p_value(np.ones(99), 0.5) == 0.01


def test_claims_are_corrected_together():
    claims = [Claim(text=str(each), shown="", p_value=each) for each in (0.04, 0.01, 0.03)]
    assert corrected(claims) == pytest.approx([0.06, 0.03, 0.06])
