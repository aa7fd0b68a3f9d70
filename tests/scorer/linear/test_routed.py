from dataclasses import replace

import numpy as np
import pytest
from group_tables import choosing_users, random_table
from scipy.optimize import check_grad

from hydra_ray.scorer.linear import routed
from hydra_ray.scorer.linear.groups import group_losses
from hydra_ray.scorer.linear.routed import fit_routed_heads, rescaled
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS

SHARED = np.array([1.0, -0.5, 0.0, 0.3])
KINDS = np.array([[1.5, 0.0, 0.0, 0.0], [0.0, 1.5, -1.0, 0.0], [-1.5, 0.0, 1.0, 0.0]])
"""Difference of each kind of users from the shared weights."""
MARKS = np.random.default_rng(9).normal(size=(3, 12)) * 2
"""The middle of the histories of each kind."""


def kinds_of_users(num_users, seed, *, is_visible=True):
    """Users of three kinds, the shared head's scores, and the groups' histories, which tell the kind or are noise."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(3, size=num_users)
    table = choosing_users(SHARED + KINDS[kinds], num_groups=5, seed=seed)
    histories = rng.normal(size=(num_users, 12)) + (MARKS[kinds] if is_visible else 0)
    return table, table.features_ND @ (SHARED + KINDS.mean(axis=0)), histories[table.user_of_group()]


def validation_users(num_users):
    return np.arange(num_users) % 5 == 0


def folds(num_users):
    return np.arange(num_users) % NUM_USER_FOLDS


def fit(users, is_validation):
    table, offsets, histories = users
    return fit_routed_heads(table, offsets, histories, is_validation, folds(len(is_validation)), seed=0)


def scores_of(heads, table, offsets, histories, fold=-1):
    """Return scores of users of one fold; without heads the shared head's."""
    if heads is None:
        return offsets
    mixtures = heads.mixtures(histories, np.full(table.num_groups, fold))
    added = heads.added(table.features_ND, np.full(len(offsets), fold))
    return offsets + (added * mixtures[table.group_of_candidate()]).sum(axis=1)


def new_users_losses(heads, seed, *, is_visible=True, fold=-1):
    """Return the losses of the shared head, and of the routed ones."""
    table, offsets, histories = kinds_of_users(150, seed, is_visible=is_visible)
    scores = scores_of(heads, table, offsets, histories, fold)
    return group_losses(table, offsets).mean(), group_losses(table, scores).mean()


@pytest.fixture(scope="module")
def fitted():
    return fit(kinds_of_users(150, 0), validation_users(150))


def test_a_mixture_sums_to_one(fitted):
    histories = np.random.default_rng(1).normal(size=(20, 12)) * 100
    mixtures = fitted.mixtures(histories, np.arange(20) % 6 - 1)
    assert mixtures.shape == (20, routed.NUM_HEADS)
    assert (mixtures >= 0).all()
    np.testing.assert_allclose(mixtures.sum(axis=1), 1)


@pytest.mark.parametrize("fold", [-1, 0, 4])
def test_kinds_that_histories_tell_are_found_in_new_users(fitted, fold):
    shared, own = new_users_losses(fitted, seed=2, fold=fold)
    table, _, _ = kinds_of_users(150, 2)
    kinds = np.random.default_rng(2).integers(3, size=150)
    true_N = np.einsum("nd,nd->n", table.features_ND, (SHARED + KINDS[kinds])[table.user_of_candidate()])
    possible = shared - group_losses(table, true_N).mean()
    assert possible > 0.2
    assert shared - own > 0.8 * possible


@pytest.mark.parametrize("num_users", [30, 150])
def test_histories_that_say_nothing_leave_the_shared_head(num_users):
    users = kinds_of_users(num_users, 0, is_visible=False)
    shared, own = new_users_losses(fit(users, validation_users(num_users)), seed=2, is_visible=False)
    assert own < shared + 0.02


def test_signals_of_base_users_alone_are_ignored_with_validation_users():
    """One feature tells the target of users that the base was trained on, and nothing of all others."""
    table, offsets, histories = kinds_of_users(150, 7, is_visible=False)
    is_unseen = np.arange(150) % 4 == 0
    noise = np.random.default_rng(8).normal(size=len(table.targets_N))
    leaked = np.where(is_unseen[table.user_of_candidate()], noise, table.targets_N)
    leaky = replace(table, features_ND=np.hstack([table.features_ND, leaked[:, None]]))
    validated, trusting = (fit((leaky, offsets, histories), who) for who in (is_unseen, validation_users(150)))
    assert trusting is not None
    assert np.abs(trusting.deviations_FED[..., -1]).max() > 0.1
    assert validated is None or (
        np.abs(validated.deviations_FED[..., -1]).max() < 0.2 * np.abs(trusting.deviations_FED[..., -1]).max()
    )


def test_a_fold_s_heads_have_not_seen_its_users(fitted):
    table, offsets, histories = kinds_of_users(150, 0)
    of_fold = np.isin(table.user_of_group(), np.flatnonzero(folds(150) == 3))
    changed_N = of_fold[table.group_of_candidate()]
    other = replace(table, targets_N=np.where(changed_N, table.targets_N[::-1], table.targets_N))
    # The validation users are the users of fold 0, so that what the others answer changes no ridge.
    again = fit((other, offsets, histories), validation_users(150))
    assert again is not None
    for name in ("deviations_FED", "gate_FEQ", "gate_bias_FE"):
        before, after = getattr(fitted, name), getattr(again, name)
        np.testing.assert_array_equal(before[3], after[3])
        assert all(np.abs(before[fold] - after[fold]).max() > 1e-3 for fold in (0, 1, 2, 4, -1))


def test_nothing_is_fitted_per_user(fitted):
    table, offsets, histories = kinds_of_users(20, 3)
    histories[7] = histories[4]
    other = replace(table, targets_N=table.targets_N[::-1], qualities_N=table.qualities_N[::-1])
    scores, others = (scores_of(fitted, each, offsets, histories) for each in (table, other))
    np.testing.assert_array_equal(scores, others)
    mixtures = fitted.mixtures(histories, np.full(table.num_groups, -1))
    np.testing.assert_array_equal(mixtures[7], mixtures[4])
    fields = (fitted.deviations_FED[-1], fitted.gate_FEQ[-1], fitted.gate_bias_FE[-1], fitted.components_QH)
    assert max(field.size for field in fields) <= routed.NUM_HEADS * 12 + 12 * 12


def test_the_derivative_is_that_of_the_loss():
    rng = np.random.default_rng(4)
    table = random_table(rng, [2, 0, 3, 1], is_soft=True)
    table = replace(table, features_ND=table.features_ND.astype(np.float32).astype(np.float64))
    problem = routed._Problem(
        table, rng.normal(size=len(table.features_ND)), rng.normal(size=(table.num_groups, 2)), seed=0
    )
    vector, weights = rng.normal(size=problem._start.size), rng.random(table.num_groups) > 0.3
    error = check_grad(
        lambda x: problem._derivatives(x, weights, 0.3)[0],
        lambda x: problem._derivatives(x, weights, 0.3)[1],
        vector,
        epsilon=1e-3,
    )
    assert error < 0.02 * np.linalg.norm(problem._derivatives(vector, weights, 0.3)[1])


def test_heads_serve_features_in_their_own_units(fitted):
    table, offsets, histories = kinds_of_users(20, 5)
    scales = np.array([1.0, 10.0, 0.1, 3.0])
    rescaled_table = replace(table, features_ND=table.features_ND * scales)
    np.testing.assert_allclose(
        scores_of(rescaled(fitted, scales), rescaled_table, offsets, histories),
        scores_of(fitted, table, offsets, histories),
    )


@pytest.mark.parametrize("num_users", [1, 2, 20])
def test_without_validation_users_or_without_others_the_shared_head_scores(num_users):
    table, offsets, histories = kinds_of_users(num_users, 6)
    for is_validation in (True, False):
        heads = fit((table, offsets, histories), np.full(num_users, is_validation))
        assert heads is None
        np.testing.assert_allclose(scores_of(heads, table, offsets, histories), offsets)


def test_two_users_are_enough_for_validation():
    users = kinds_of_users(2, 6)
    assert np.isfinite(scores_of(fit(users, np.array([True, False])), *users)).all()
