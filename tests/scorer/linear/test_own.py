from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from test_prior import SHARED, planted, random_deviations

from hydra_ray.scorer.linear import own
from hydra_ray.scorer.linear.newton import Belief, Regression
from hydra_ray.scorer.linear.own import OwnPrior, OwnShape, aged, fit_own_prior, shape_losses, shapes_of
from hydra_ray.scorer.linear.support import Support, held_out_scores

START = np.full(6, 0.5)


def planted_prior(num_users: int, seed: int, num_groups: int = 12) -> OwnPrior:
    """What is estimated of users who differ along two of six inputs."""
    deviations = random_deviations(num_users, 1.0, seed=seed) * np.array([2.0, 1.0, 0, 0, 0, 0])
    table = planted(deviations, num_groups=num_groups, seed=seed)
    return fit_own_prior(table, table.features_ND @ SHARED, START)


def test_each_step_is_expectation_maximization_on_every_users_own_approximation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(own, "NUM_APPROXIMATIONS", 2)
    monkeypatch.setattr(own, "NUM_STEPS", 3)
    table = planted(random_deviations(5, 1.0, seed=2), num_groups=4)
    found = fit_own_prior(table, np.zeros(len(table.targets_N)), START)
    size = len(table.targets_N) // table.num_groups
    features = table.features_ND.reshape(5, 4, size, 6)
    targets = table.targets_N.reshape(5, 4, size)
    covariance, codes = np.diag(START), np.zeros((5, 6))
    for _ in range(2):
        hessians, slopes, inverse = [], [], np.linalg.inv(covariance)
        for user in range(5):

            def cost(code: np.ndarray, user: int = user, inverse: np.ndarray = inverse) -> float:
                logs = log_softmax(features[user] @ code, axis=1)
                return 0.5 * code @ inverse @ code - (targets[user] * logs).sum()

            codes[user] = minimize(cost, np.zeros(6), method="BFGS", options={"gtol": 1e-8}).x
            chances = softmax(features[user] @ codes[user], axis=1)
            gradient = sum(x.T @ (p - y) for x, p, y in zip(features[user], chances, targets[user], strict=True))
            hessian = sum(x.T @ (np.diag(p) - np.outer(p, p)) @ x for x, p in zip(features[user], chances, strict=True))
            hessians.append(hessian)
            slopes.append(hessian @ codes[user] - gradient)
        for _ in range(3):
            total = 3.0 * np.diag(START)
            for user in range(5):
                posterior = np.linalg.inv(hessians[user] + np.linalg.inv(covariance))
                codes[user] = posterior @ slopes[user]
                total = total + posterior + np.outer(codes[user], codes[user])
            covariance = total / (5 + 3.0)
    rebuilt = found.directions_DR * found.variances_R @ found.directions_DR.T
    assert rebuilt == pytest.approx(covariance, abs=1e-3)


def test_the_directions_in_which_users_differ_are_found():
    prior = planted_prior(200, seed=1, num_groups=40)
    assert (prior.directions_DR[:2, :2] ** 2).sum() > 1.9
    assert prior.variances_R[1] > 3 * prior.variances_R[2]
    assert 2.0 < prior.variances_R[0] < 8.0


def test_codes_are_those_of_the_prior_in_its_own_units():
    prior = planted_prior(60, seed=2)
    table = planted(random_deviations(10, 1.0, seed=5), num_groups=9)
    shape = OwnShape(rank=3, factor=0.5, half_life=np.inf)
    scaled = Regression(table, table.features_ND @ prior.basis(shape), np.zeros(len(table.targets_N)))
    plain = Regression(table, table.features_ND @ prior.directions_DR[:, :3], np.zeros(len(table.targets_N)))
    expected = plain.codes(0.5 * prior.variances_R[:3]) / np.sqrt(0.5 * prior.variances_R[:3])
    assert scaled.codes(np.ones(3)) == pytest.approx(expected, abs=1e-4)


def test_losses_of_shapes_are_means_by_user_of_records_that_are_asked():
    prior = planted_prior(60, seed=2)
    table = planted(random_deviations(4, 1.0, seed=5), num_groups=6)
    support = Support.of_folds(np.arange(table.num_groups) % 3)
    support = replace(support, block_G=np.where(np.arange(table.num_groups) < 6, -1, support.block_G))
    shape = OwnShape(rank=2, factor=1.0, half_life=np.inf)
    offsets = np.zeros(len(table.targets_N))
    losses = shape_losses(table, offsets, support, prior, [shape])[:, 0]
    scores = held_out_scores(Regression(table, table.features_ND @ prior.basis(shape), offsets), np.ones(2), support)
    size = len(scores) // table.num_groups
    costs = -(table.targets_N * np.log(softmax(scores.reshape(-1, size), axis=1)).ravel()).reshape(4, 6, size)
    assert np.isnan(losses[0])
    assert losses[1:] == pytest.approx(costs.sum(axis=2).mean(axis=1)[1:])


def test_shapes_have_half_lives_only_where_records_have_dates():
    assert {shape.half_life for shape in shapes_of(84, is_dated=False)} == {np.inf}
    assert len({shape.half_life for shape in shapes_of(84, is_dated=True)}) > 1
    assert {shape.rank for shape in shapes_of(6, is_dated=False)} == {4, 6}


def test_new_records_update_a_code_to_nearly_that_of_all_records():
    table = planted(random_deviations(20, 1.0, seed=7), num_groups=40)
    offsets = np.zeros(len(table.targets_N))
    regression, variances = Regression(table, table.features_ND, offsets), np.ones(6)
    is_early_G = np.arange(table.num_groups) % 40 < 30
    early = regression.updated(Belief.prior(20, variances), is_early_G.astype(float))
    both = regression.updated(early, (~is_early_G).astype(float)).codes_UR
    at_once = regression.updated(Belief.prior(20, variances)).codes_UR
    assert np.abs(both - at_once).mean() < 0.35 * np.abs(early.codes_UR - at_once).mean()


def test_a_code_that_ages_returns_to_the_prior():
    belief = Belief(codes_UR=np.full((2, 3), 1.5), precisions_UR=np.full((2, 3), 4.0), variances_R=np.ones(3))
    half = aged(belief, np.array([0, 10]), 10.0)
    assert half.codes_UR[0] == pytest.approx(1.5)
    # Half of the evidence is left: precision 1 + 3/2, mode 1.5 * 4 / 2 / 2.5.
    assert half.precisions_UR[1] == pytest.approx(2.5)
    assert half.codes_UR[1] == pytest.approx(1.2)
    assert np.abs(aged(belief, np.array([1000, 1000]), 10.0).codes_UR).max() < 1e-9
    assert aged(belief, np.array([5, 5]), np.inf).codes_UR == pytest.approx(belief.codes_UR)
