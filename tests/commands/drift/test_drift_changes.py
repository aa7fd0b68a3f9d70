"""Changes against the start, held against plain loops over users."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from hydra_ray.commands.drift.changes import MIN_USERS, UserMeans, changes_since
from hydra_ray.commands.drift.record_losses import Summed


def means(values: dict[str, float], num: int = 3) -> UserMeans:
    return UserMeans(
        Summed(user_id=name, num=num, sums_S=num * np.array([value, 2 * value])) for name, value in values.items()
    )


def drawn(names: range, shift: float, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {f"u{name}": float(rng.normal() + shift) for name in names}


def test_figures_of_a_user_in_several_runs_are_one_mean_over_records():
    users = UserMeans([])
    users.add(Summed(user_id="ann", num=1, sums_S=np.array([4.0])))
    users.add(Summed(user_id="ann", num=3, sums_S=np.array([0.0])))
    assert (users.num_users, users.num) == (1, 4)
    assert users.mean("ann") == pytest.approx([1.0])
    assert users.mean("bob") is None


def test_the_same_users_are_compared_with_themselves():
    first, later = drawn(range(40), 0.0, 0), drawn(range(40), 0.5, 1)
    change, doubled = changes_since(means(first), means(later))
    gaps = np.array([later[name] - first[name] for name in later])
    assert change.value == pytest.approx(gaps.mean())
    assert doubled.value == pytest.approx(2 * gaps.mean())
    expected = bootstrap((gaps,), np.mean, n_resamples=9999, method="percentile", rng=0).confidence_interval
    assert change.low == pytest.approx(expected.low, abs=0.03)
    assert change.high == pytest.approx(expected.high, abs=0.03)


def test_who_is_new_is_compared_with_the_mean_of_the_start():
    first, later = drawn(range(50), 0.0, 2), drawn(range(30, 90), 0.3, 3)
    change, _ = changes_since(means(first), means(later))
    mean = np.mean([*first.values()])
    assert change.value == pytest.approx(np.mean([value - first.get(name, mean) for name, value in later.items()]))
    rng, names = np.random.default_rng(4), sorted({*first, *later})
    resampled = []
    for _ in range(4000):
        sample = [names[place] for place in rng.integers(len(names), size=len(names))]
        mean = np.mean([first[name] for name in sample if name in first])
        resampled.append(np.mean([later[name] - first.get(name, mean) for name in sample if name in later]))
    assert (change.low, change.high) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.03)


def test_which_users_are_active_makes_no_change():
    first = drawn(range(60), 0.0, 5)
    worst = dict(sorted(first.items(), key=lambda each: each[1])[-25:])
    change, _ = changes_since(means(first), means(worst))
    assert (change.value, change.low, change.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_figures_have_changes_only_where_both_have_enough_users():
    start = means(drawn(range(MIN_USERS), 0.0, 6))
    enough, few = means(drawn(range(MIN_USERS), 1.0, 7)), means(drawn(range(MIN_USERS - 1), 1.0, 8))
    assert [each.change is None for each in enough.figures(["a", "b"], start)] == [False, False]
    assert [each.change is None for each in few.figures(["a", "b"], start)] == [True, True]
    assert [each.change is None for each in enough.figures(["a", "b"], few)] == [True, True]
    assert [each.change is None for each in start.figures(["a", "b"])] == [True, True]
    assert means({}).figures(["a", "b"], start) == ()
