from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.sweep.analysis import Figures, best_result, importances, pareto_front

SPACE = {"strong": [0, 1, 2], "weak": [0, 1], "none": [0, 1, 2, 3]}
RESULTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def figures(quality: float, tokens: int) -> Figures:
    return Figures(settings={"strong": 0, "weak": 0, "none": 0}, quality=quality, generated_tokens=tokens)


@given(RESULTS)
def test_the_front_is_what_no_other_result_dominates(pairs: list[tuple[int, int]]):
    expected = [
        at
        for at, (quality, tokens) in enumerate(pairs)
        if not any(
            other >= quality and fewer <= tokens and (other, fewer) != (quality, tokens) for other, fewer in pairs
        )
    ]
    assert pareto_front([figures(*pair) for pair in pairs], SPACE) == expected


@given(RESULTS)
def test_the_best_result_is_on_the_front(pairs: list[tuple[int, int]]):
    found = [figures(*pair) for pair in pairs]
    best = best_result(found)
    assert found[best].quality == max(quality for quality, _ in pairs)
    assert best in pareto_front(found, SPACE)


def test_importance_follows_the_variance_that_a_setting_explains():
    # Main effects of this function have the variances 9 * 2/3, 1/4 and 0.
    results = [
        Figures(
            settings=dict(zip(SPACE, point, strict=True)), quality=0.03 * point[0] + 0.01 * point[1], generated_tokens=1
        )
        for point in product(*SPACE.values())
    ]
    found = importances(results, SPACE, 0)
    assert list(found) == ["strong", "weak", "none"]
    expected = np.array([6, 0.25, 0]) / 6.25
    assert list(found.values()) == pytest.approx(expected, abs=0.02)
    assert found == importances(results, SPACE, 0)


def test_nothing_is_important_where_nothing_changes():
    assert importances([figures(0.5, 1), figures(0.5, 2)], SPACE, 0) == dict.fromkeys(SPACE, 0.0)
