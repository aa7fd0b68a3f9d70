import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from hydra_ray.evaluate import intervals
from hydra_ray.evaluate.intervals import compare, interval, quantile_groups, resampled_means, resampled_sums, terciles


def plain_means(values_U: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    sums_UX = np.stack([np.ones_like(values_U), values_U], axis=1)
    _, resampled_RX = resampled_sums(lambda start, stop: sums_UX[start:stop], len(values_U), num_resamples, seed)
    return resampled_RX[:, 1] / resampled_RX[:, 0]


def test_the_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    values_U = np.random.default_rng(0).gamma(2.0, size=60)
    got = interval(values_U.mean(), plain_means(values_U, 20_000, seed=1), 0.95, 60)
    theirs = bootstrap(
        (values_U,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert got.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert got.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(400):
        values_U = rng.normal(1.0, 2.0, size=50)
        got = interval(values_U.mean(), plain_means(values_U, 400, seed), 0.9, 50)
        assert got.low is not None
        assert got.high is not None
        hits += got.low <= 1.0 <= got.high
    assert 0.85 <= hits / 400 <= 0.94


def test_users_in_many_blocks_are_resampled_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values_U = np.random.default_rng(4).normal(size=500)
    whole = plain_means(values_U, 4000, seed=5)
    monkeypatch.setattr(intervals, "_WEIGHTS_OF_BLOCK", 4000 * 7)
    split = plain_means(values_U, 4000, seed=6)
    assert split.std() == pytest.approx(whole.std(), rel=0.06)
    assert np.quantile(split, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(whole, [0.025, 0.5, 0.975]), abs=0.01)


@pytest.mark.parametrize("in_memory", [1, 70, 1000, 10_000_000])
def test_resamples_are_the_same_however_many_are_in_memory(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    values_U = np.random.default_rng(4).normal(size=100)
    monkeypatch.setattr(intervals, "_WEIGHTS_OF_BLOCK", 300 * 70)
    expected = plain_means(values_U, 300, seed=5)
    monkeypatch.setattr(intervals, "_WEIGHTS_IN_MEMORY", in_memory)
    assert plain_means(values_U, 300, seed=5) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 60))
def test_every_resample_has_as_many_users_as_there_are(num_users: int, num_resamples: int, of_block: int) -> None:
    ones_UX = np.ones((num_users, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "_WEIGHTS_OF_BLOCK", of_block)
        observed_X, resampled_RX = resampled_sums(lambda start, stop: ones_UX[start:stop], num_users, num_resamples, 0)
    assert observed_X == [num_users]
    assert (resampled_RX == num_users).all()


def test_the_same_seed_gives_the_same_resamples() -> None:
    values_U = np.arange(30.0)
    assert (plain_means(values_U, 50, seed=7) == plain_means(values_U, 50, seed=7)).all()
    assert (plain_means(values_U, 50, seed=7) != plain_means(values_U, 50, seed=8)).any()


def test_one_user_has_no_interval() -> None:
    assert interval(0.5, np.full(10, 0.5), 0.95, num_users=1).low is None


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_wins_ties_and_losses_are_counted_user_by_user(pairs: list[tuple[int, int]]) -> None:
    first_U = np.array([first for first, _ in pairs], dtype=float)
    second_U = np.array([second for _, second in pairs], dtype=float)
    higher, lower = compare(first_U, second_U, True), compare(first_U, second_U, False)
    assert higher.win == lower.loss == sum(first > second for first, second in pairs)
    assert higher.tie == lower.tie == sum(first == second for first, second in pairs)
    assert higher.win + higher.tie + higher.loss == len(pairs)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_terciles_split_users_by_history_and_keep_equals_together(lengths: list[int]) -> None:
    history_U = np.array(lengths)
    groups = terciles(history_U)
    assert sum(members.astype(int) for members in groups.values()).tolist() == [1] * len(lengths)
    bounds = [(history_U[members].min(), history_U[members].max()) for members in groups.values()]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(bounds))
    if len(set(lengths)) == len(lengths) >= 3:
        sizes = [int(members.sum()) for members in groups.values()]
        assert max(sizes) - min(sizes) <= 1


@settings(max_examples=60)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 7))
def test_quantile_groups_are_of_a_size_where_lengths_differ(lengths: list[int], num_groups: int) -> None:
    groups = quantile_groups(np.array(lengths), num_groups)
    assert len(groups) == num_groups
    assert sum(members.astype(int) for members in groups).tolist() == [1] * len(lengths)
    sizes = [int(members.sum()) for members in quantile_groups(np.arange(len(lengths)), num_groups)]
    assert max(sizes) - min(sizes) <= 1


def test_means_weigh_users_by_their_queries_in_every_resample() -> None:
    rng = np.random.default_rng(8)
    weights_U, values_UX = rng.integers(1, 5, 30).astype(float), rng.uniform(size=(30, 2))
    means, resampled = resampled_means(weights_U, values_UX, 3000, seed=9)
    assert means == pytest.approx(np.average(values_UX, axis=0, weights=weights_U))
    draws = [
        np.average(values_UX[chosen], axis=0, weights=weights_U[chosen])
        for chosen in rng.integers(0, 30, size=(3000, 30))
    ]
    assert resampled.std(axis=0) == pytest.approx(np.std(draws, axis=0), rel=0.08)
