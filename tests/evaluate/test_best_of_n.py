import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import rankdata

from hydra_ray.config import ReportConfig
from hydra_ray.evaluate.best_of_n import HEADS, BestOfN, ScoredPool, expected_qualities

POINTS = (1, 2, 4, 8, 16, 32, 64, 128)
QUALITIES = st.floats(0, 1).map(lambda value: round(value, 3))


def pool_of(qualities: list[float], *scores: list[float]) -> ScoredPool:
    """The pool whose heads give these scores, the last of them to all heads that are left."""
    by_head = dict(zip(HEADS, [*scores, *[scores[-1]] * (len(HEADS) - len(scores))], strict=True))
    return ScoredPool(
        qualities=np.array(qualities),
        rankings={head: np.argsort(-np.array(given), kind="stable") for head, given in by_head.items()},
        spreads={head: float(np.std(given)) for head, given in by_head.items()},
    )


def best_of(qualities: list[float], scores: list[float], num_drafts: int) -> float:
    """The mean quality of the draft with the highest score over every set of `num_drafts`; of equals the first."""
    sets = list(combinations(range(len(qualities)), min(num_drafts, len(qualities))))
    return sum(qualities[max(each, key=lambda place: (scores[place], -place))] for each in sets) / len(sets)


def figures_of(*users: list[ScoredPool]) -> dict[str, Any]:
    best = BestOfN()
    for pools in users:
        best.add(pools)
    found = best.figures(ReportConfig(num_resamples=50))
    assert found is not None
    return found


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    num_drafts = draw(st.integers(1, 10))
    scores = st.lists(st.integers(-3, 3).map(float), min_size=num_drafts, max_size=num_drafts)
    return draw(st.lists(QUALITIES, min_size=num_drafts, max_size=num_drafts)), draw(scores)


@settings(max_examples=40, deadline=None)
@given(pools())
def test_expectations_are_means_over_all_sets_of_drafts(pool: tuple[list[float], list[float]]) -> None:
    qualities, scores = pool
    found_KP = expected_qualities(pool_of(qualities, scores))
    for point, size in enumerate((*POINTS, len(qualities))):
        assert found_KP[:-1, point] == pytest.approx(best_of(qualities, scores, size))
        assert found_KP[-1, point] == pytest.approx(best_of(qualities, qualities, size))


def test_of_equal_scores_the_earlier_draft_is_chosen() -> None:
    found_KP = expected_qualities(pool_of([0.2, 0.8, 0.5], [1.0, 1.0, 1.0]))
    assert found_KP[0, -1] == 0.2
    assert found_KP[0, 1] == pytest.approx((0.2 + 0.2 + 0.8) / 3)


def test_a_large_pool_stays_exact() -> None:
    qualities = np.random.default_rng(0).random(3000)
    found_KP = expected_qualities(pool_of(list(qualities), list(-qualities)))
    assert found_KP[:, 0] == pytest.approx([qualities.mean()] * 4)
    assert found_KP[:, -1] == pytest.approx([qualities.min()] * 3 + [qualities.max()])
    assert (np.diff(found_KP[0]) < 0).all()


def test_figures_are_means_over_queries_and_shares_of_queries_and_users() -> None:
    rng = np.random.default_rng(1)
    users = [
        [([*rng.random(size)], [*rng.random(size)]) for size in rng.integers(1, 7, size=rng.integers(1, 4))]
        for _ in range(25)
    ]
    found = figures_of(*([pool_of(*each) for each in queries] for queries in users))
    all_queries = [each for queries in users for each in queries]
    most = max(len(qualities) for qualities, _ in all_queries)
    assert (found["num_users"], found["num_queries"], found["most_drafts"]) == (25, len(all_queries), most)
    assert found["mean_drafts"] == pytest.approx(np.mean([len(qualities) for qualities, _ in all_queries]))
    assert [point["num_drafts"] for point in found["points"]] == [1, 2, 4, 6]
    for point in found["points"]:
        size = point["num_drafts"]
        change = [[best_of(*each, size) - best_of(*each, 1) for each in queries] for queries in users]
        by_query = [value for values in change for value in values]
        quality = np.mean([best_of(*each, size) for each in all_queries])
        for head in HEADS:
            assert point["quality"][head]["value"] == pytest.approx(quality)
            assert point["hacked_queries"][head]["value"] == pytest.approx(np.mean(np.array(by_query) < -1e-9))
            worse = np.mean([np.mean(values) < -1e-9 for values in change])
            assert point["worse_users"][head]["value"] == pytest.approx(worse)
            assert point["quality"][head]["low"] <= point["quality"][head]["value"] <= point["quality"][head]["high"]
        assert point["oracle"]["value"] == pytest.approx(
            np.mean([best_of(each[0], each[0], size) for each in all_queries])
        )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_intervals_are_of_users() -> None:
    rng = np.random.default_rng(2)
    users = [[pool_of([*rng.random(4)], [*rng.random(4)])] for _ in range(60)]
    best = BestOfN()
    for each in users:
        best.add(each)
    found = best.figures(ReportConfig(num_resamples=5000))
    assert found is not None
    values = [expected_qualities(each)[0, -1] for (each,) in users]
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=3).confidence_interval
    figure = found["points"][-1]["quality"]["personal"]
    assert figure["low"] == pytest.approx(theirs.low, abs=0.05 * (theirs.high - theirs.low))
    assert figure["high"] == pytest.approx(theirs.high, abs=0.05 * (theirs.high - theirs.low))


@settings(max_examples=40, deadline=None)
@given(st.lists(QUALITIES, min_size=2, max_size=8, unique=True), st.randoms(use_true_random=False))
def test_a_query_is_hacked_at_two_drafts_where_quality_falls_with_the_scores_rank(
    qualities: list[float], chance: Any
) -> None:
    scores = [float(place) for place in range(len(qualities))]
    chance.shuffle(scores)
    found = figures_of([pool_of(qualities, scores)])
    hacked = found["points"][1]["hacked_queries"]["personal"]["value"]
    correlation = np.corrcoef(rankdata(scores), qualities)[0, 1]
    assert abs(correlation) < 1e-6 or hacked == (correlation < 0)


def test_users_are_collapsed_whose_scores_hardly_differ_by_the_head_in_question() -> None:
    users = [[pool_of([0.1, 0.9], [0.0, 1.0 if number else 0.05], [0.0, 1.0])] for number in range(4)]
    found = figures_of(*users, [pool_of([0.5], [3.0])])
    shares = {head: figure["value"] for head, figure in found["collapsed_users"].items()}
    assert shares == {"personal": 0.25, "shared": 0.0, "routed": 0.0}  # the one draft's user is told nothing apart


def test_scores_that_are_all_equal_are_collapsed() -> None:
    found = figures_of(*([pool_of([0.1, 0.9], [1.0, 1.0])] for _ in range(3)))
    assert found["collapsed_users"]["personal"]["value"] == 1


def test_heads_are_followed_apart() -> None:
    point = figures_of([pool_of([0.1, 0.9], [1.0, 0.0], [0.0, 1.0])])["points"][-1]
    assert {head: figure["value"] for head, figure in point["quality"].items()} == {
        "personal": 0.1,
        "shared": 0.9,
        "routed": 0.9,
    }
    assert point["hacked_queries"]["personal"] == {"value": 1.0, "low": None, "high": None}
    assert point["worse_users"]["shared"]["value"] == 0


def test_without_two_drafts_of_a_query_there_is_no_curve() -> None:
    best = BestOfN()
    assert best.figures(ReportConfig()) is None
    best.add([])
    best.add([pool_of([0.5], [1.0])])
    assert best.figures(ReportConfig()) is None
