import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hydra_ray.evaluate.significance import holm, paired_test

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_holms_correction_is_that_of_a_case_by_hand() -> None:
    # Ascending .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04, the last raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@settings(max_examples=60)
@given(p_values, st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_stepping_down_rejects(values: list[float], level: float) -> None:
    rejected = set()
    for step, place in enumerate(sorted(range(len(values)), key=lambda each: values[each])):
        # Division as multiplication: the two round differently at the very bound.
        if values[place] * (len(values) - step) > level:
            break
        rejected.add(place)
    assert {place for place, value in enumerate(holm(values)) if value <= level} == rejected


@settings(max_examples=60)
@given(p_values)
def test_holm_keeps_the_order_and_lowers_nothing(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(value <= each <= 1 for value, each in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@pytest.mark.parametrize(("only_first", "only_second"), [(12, 3), (3, 12), (5, 5), (0, 1), (9, 0)])
def test_right_and_wrong_are_tested_by_the_binomial_of_the_discordant_users(only_first: int, only_second: int) -> None:
    first_U = np.array([1] * only_first + [0] * only_second + [1] * 20 + [0] * 7, dtype=float)
    second_U = np.array([0] * only_first + [1] * only_second + [1] * 20 + [0] * 7, dtype=float)
    found = paired_test(first_U, second_U)
    total = only_first + only_second
    tail = sum(stats.binom.pmf(each, total, 0.5) for each in range(min(only_first, only_second) + 1))
    assert found.test == "exact McNemar"
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))


def test_graded_quality_is_tested_by_the_t_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    first_U, second_U = rng.uniform(size=30), rng.uniform(size=30)
    difference_U = first_U - second_U
    t = difference_U.mean() / (difference_U.std(ddof=1) / np.sqrt(30))
    found = paired_test(first_U, second_U)
    assert found.test == "paired t"
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), df=29))


@pytest.mark.parametrize("values", [[0.0, 1.0, 1.0], [0.2, 0.4, 0.9], [0.3]])
def test_equal_systems_do_not_differ(values: list[float]) -> None:
    assert paired_test(np.array(values), np.array(values)).p_value == 1


def test_the_same_gain_for_everybody_is_certain() -> None:
    second_U = np.array([0.25, 0.5, 0.625])
    assert paired_test(second_U + 0.25, second_U).p_value == 0


def test_one_user_proves_nothing() -> None:
    assert paired_test(np.array([0.9]), np.array([0.1])).p_value == 1
    assert paired_test(np.array([1.0]), np.array([0.0])).p_value == 1
