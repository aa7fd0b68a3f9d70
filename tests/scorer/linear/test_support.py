from dataclasses import replace

import numpy as np
import pytest
from test_prior import planted, random_deviations

from hydra_ray.scorer.linear.newton import Regression
from hydra_ray.scorer.linear.support import NUM_BLOCKS, Support, dated_support, held_out_scores, undated_support

ITEMS = [f"item {number % 20}" for number in range(30)]
DATES = [int(each) for each in np.random.default_rng(3).permutation(30)]


def test_equal_items_are_asked_together_without_each_other():
    support = undated_support([[item] for item in ITEMS], np.random.default_rng(0))
    assert set(support.blocks) == set(range(NUM_BLOCKS))
    for place, block in enumerate(support.block_G):
        used = [ITEMS[other] for other in np.flatnonzero(support.has_KG[block])]
        assert ITEMS[place] not in used
    assert (support.weights(0, 1.0) == support.has_KG[0]).all()


def test_dated_records_are_asked_from_earlier_ones_of_other_items():
    support = dated_support([[item] for item in ITEMS], DATES)
    oldest = int(np.argmin(DATES))
    assert support.block_G[oldest] == -1
    for block in support.blocks:
        asked, used = np.flatnonzero(support.block_G == block), np.flatnonzero(support.has_KG[block])
        assert max(DATES[each] for each in used) < min(DATES[each] for each in asked)
        assert not {ITEMS[each] for each in used} & {ITEMS[each] for each in asked}
        earlier = [each for each in range(30) if DATES[each] < min(DATES[other] for other in asked)]
        assert set(used) == {each for each in earlier if ITEMS[each] not in {ITEMS[other] for other in asked}}
        for each in used:
            between = sum(DATES[each] < DATES[other] < min(DATES[a] for a in asked) for other in range(30))
            assert support.weights(block, 10.0)[each] == pytest.approx(0.5 ** (between / 10))


@pytest.mark.parametrize("is_dated", [False, True])
def test_pairs_are_asked_without_any_that_shares_an_item(is_dated: bool):
    rng = np.random.default_rng(5)
    pairs = [[str(each) for each in rng.choice(25, 2, replace=False)] for _ in range(30)]
    support = dated_support(pairs, DATES) if is_dated else undated_support(pairs, rng)
    num_used = 0
    for block in support.blocks:
        asked = {item for place in np.flatnonzero(support.block_G == block) for item in pairs[place]}
        used = np.flatnonzero(support.has_KG[block])
        assert not asked & {item for place in used for item in pairs[place]}
        left = {place for place, pair in enumerate(pairs) if not asked & {*pair}}
        if is_dated:
            left = {place for place in left if support.block_G[place] < block}
        assert set(used.tolist()) == left
        num_used += len(used)
    assert num_used


def test_one_record_alone_is_asked_from_nothing():
    support = undated_support([["only"]], np.random.default_rng(0))
    assert not support.has_KG[support.block_G[0], 0]
    assert dated_support([["only"]], [1]).blocks == []


def test_held_out_scores_never_saw_the_group_they_score():
    table = planted(random_deviations(8, 1.0, seed=6), num_groups=5)
    support = Support.of_folds(np.arange(table.num_groups) % 5)
    is_held_out_N = (support.block_G == 2)[table.group_of_candidate()]
    other = replace(table, targets_N=np.where(is_held_out_N, table.targets_N[::-1], table.targets_N))
    scores, others = (
        held_out_scores(Regression(each, table.features_ND, np.zeros(len(table.targets_N))), np.ones(6), support)
        for each in (table, other)
    )
    np.testing.assert_allclose(others[is_held_out_N], scores[is_held_out_N], atol=1e-10)
    assert np.abs(others[~is_held_out_N] - scores[~is_held_out_N]).max() > 0.01
