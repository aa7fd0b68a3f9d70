import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.sweep.config import Range
from hydra_ray.sweep.space import (
    decoded,
    drawn,
    encoded,
    grid_points,
    name_of,
    num_values,
    probe_points,
    random_points,
)

VALUES = st.lists(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers()),
    min_size=1,
    max_size=4,
)


@given(st.dictionaries(st.text(min_size=1), VALUES, min_size=1, max_size=4))
def test_a_grid_has_every_combination_once_in_the_order_of_nested_loops(space: dict[str, list[Any]]):
    expected = [dict(zip(space, point, strict=True)) for point in product(*space.values())]
    assert grid_points(space) == expected


def test_random_points_are_distinct_possible_and_the_same_for_a_seed():
    space = {"n": list(range(6)), "k": list(range(6))}

    def is_possible(point):
        return point["k"] <= point["n"]

    points = random_points(space, 12, 3, is_possible)
    assert points == random_points(space, 12, 3, is_possible)
    assert points != random_points(space, 12, 4, is_possible)
    assert len({name_of(point) for point in points}) == 12
    assert all(is_possible(point) for point in points)


def test_a_space_that_is_used_up_gives_fewer_points():
    points = random_points({"a": [1, 2], "b": [1, 2]}, 50, 0, lambda point: point["a"] != point["b"])
    assert sorted(map(name_of, points)) == [name_of({"a": 1, "b": 2}), name_of({"a": 2, "b": 1})]


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_are_drawn_from_both_ends_and_everything_between(log: bool):
    rng = np.random.default_rng(0)
    numbers = [drawn(Range(low=1, high=5, log=log), rng) for _ in range(400)]
    assert {type(number) for number in numbers} == {int}
    assert set(numbers) == {1, 2, 3, 4, 5}
    assert (numbers.count(1) > 1.5 * numbers.count(5)) == log


def test_logarithms_are_drawn_evenly_where_ratios_count():
    rng = np.random.default_rng(0)
    numbers = np.array([drawn(Range(low=1e-4, high=1.0, log=True), rng) for _ in range(4000)])
    assert np.histogram(np.log10(numbers), bins=4, range=(-4, 0))[0] / 4000 == pytest.approx(0.25, abs=0.03)


@given(VALUES)
def test_every_value_is_found_again_by_its_code(values: list[Any]):
    for value in values:
        code = encoded(value)
        assert code is None or isinstance(code, bool | int | float | str)
        assert name_of({"": encoded(decoded(values, code))}) == name_of({"": code})
        assert decoded(values, code) == value


def test_probed_points_differ_in_one_setting_and_have_all_its_values():
    space = {"a": [1, 2, 3], "b": Range(low=0.5, high=2.0), "c": ["x"]}
    found = list(probe_points(space, 2, 0))
    assert [key for key, _ in found] == ["a", "b", "c"] * 2
    for key, points in found:
        others = {name_of({other: value for other, value in point.items() if other != key}) for point in points}
        assert len(others) == 1
        assert [point[key] for point in points] == {"a": [1, 2, 3], "b": [0.5, 2.0], "c": ["x"]}[key]


def test_sizes_of_a_space():
    assert num_values([1, 2]) == 2
    assert num_values(Range(low=3, high=7)) == 5
    assert num_values(Range(low=3, high=7.5)) == math.inf
