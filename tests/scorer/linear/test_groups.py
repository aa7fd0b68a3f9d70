from itertools import pairwise

import numpy as np
import pytest
from group_tables import objective, random_table
from scipy.special import softmax

from hydra_ray.scorer.linear.groups import (
    TARGET_SHARPNESS,
    Segments,
    group_losses,
    group_probabilities,
    target_distribution,
)


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


def test_the_best_share_everything_where_grades_do_not_count():
    assert target_distribution([0.0, 1.0, 1.0, 0.0], has_soft_targets=False) == [0.0, 0.5, 0.5, 0.0]
    assert target_distribution([0.1, 0.5, 0.4, 0.5], has_soft_targets=False) == [0.0, 0.5, 0.0, 0.5]


@pytest.mark.parametrize("qualities", [[0.1, 0.5, 0.4, 0.1], [0.0, 1.0], [-3.0, -1.0, 0.0]])
def test_graded_targets_are_a_softmax_of_the_qualities(qualities):
    expected = softmax(TARGET_SHARPNESS * np.array(qualities))
    np.testing.assert_allclose(target_distribution(qualities, has_soft_targets=True), expected)


@pytest.mark.parametrize("qualities", [[], [1.0], [0.5, 0.5], [0.0, 1.0, None]])
@pytest.mark.parametrize("has_soft_targets", [False, True])
def test_groups_without_a_known_difference_teach_nothing(qualities, has_soft_targets):
    assert target_distribution(qualities, has_soft_targets=has_soft_targets) is None


def test_probabilities_are_a_softmax_within_each_group():
    rng = np.random.default_rng(9)
    table = random_table(rng, [2, 0, 3])
    scores = rng.normal(size=len(table.features_ND)) * 30
    expected = [softmax(scores[start:end]) for start, end in pairwise(table.group_starts)]
    np.testing.assert_allclose(group_probabilities(table, scores), np.concatenate(expected))


def test_groups_handed_to_other_users_stay_whole():
    rng = np.random.default_rng(10)
    table = random_table(rng, [2, 0, 3])
    handed = table.reassigned_to(np.array([2, 0, 2, 0, 2]), 4)
    assert np.diff(handed.user_starts).tolist() == [2, 0, 3, 0]
    bounds = list(pairwise(table.group_starts))
    for place, group in enumerate([1, 3, 0, 2, 4]):
        own = slice(*handed.group_starts[place : place + 2])
        np.testing.assert_array_equal(handed.features_ND[own], table.features_ND[slice(*bounds[group])])
        np.testing.assert_array_equal(handed.targets_N[own], table.targets_N[slice(*bounds[group])])


@pytest.mark.parametrize("size", [1, 2, 4, 8, 9, 15])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_segments_of_one_length_are_reduced_to_the_same_bits_as_others(size, shape):
    rng = np.random.default_rng(size)
    values, shares = rng.normal(size=(5 * size, *shape)) * 1e3, rng.random(5 * size)
    even, others = Segments.even(5 * size, size), Segments.of(np.arange(5 * size) % size == 0)
    np.testing.assert_array_equal(even.sums(values), others.sums(values))
    np.testing.assert_array_equal(even.maxima(values), others.maxima(values))
    np.testing.assert_array_equal(even.spread(even.sums(values)), others.spread(others.sums(values)))
    rows = values.reshape(5 * size, -1)
    np.testing.assert_array_equal(even.centred(rows, shares), others.centred(rows, shares))


@pytest.mark.parametrize("lengths", [[2, 2, 2, 2], [3, 1, 2, 4]])
def test_segments_of_a_piece_are_those_within_it(lengths):
    ends = np.cumsum(lengths)
    starts = ends - lengths
    whole = Segments.even(8, 2) if set(lengths) == {2} else Segments.of(np.isin(np.arange(10), starts))
    values = np.random.default_rng(1).normal(size=ends[-1])
    piece = slice(starts[1], ends[2])
    found = whole.between(piece.start, piece.stop)
    np.testing.assert_array_equal(found.sums(values[piece]), whole.sums(values)[1:3])
    np.testing.assert_array_equal(found.spread(np.array([5.0, 6.0])), np.repeat([5.0, 6.0], lengths[1:3]))
