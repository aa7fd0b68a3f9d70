from collections.abc import Mapping
from typing import Any

import pytest
from ray.tune.search import Searcher

from hydra_ray.sweep.analysis import AIMS
from hydra_ray.sweep.config import Range
from hydra_ray.sweep.searchers import optuna_searcher

SPACE = {"n": [1, 2, 3, 4], "k": Range(low=1, high=4), "scale": Range(low=0.01, high=10.0, log=True)}
BATCH = 4


def is_possible(point: Mapping[str, Any]) -> bool:
    return point["k"] <= point["n"]


def searched(num_trials: int, is_reversed: bool = False, failing: int = -1) -> list[dict[str, Any]]:
    """The points that a search asks for where quality falls with the distance of scale from 1."""
    searcher = optuna_searcher(SPACE, AIMS, 0, BATCH, is_possible, "settings")
    points: list[dict[str, Any]] = []
    while len(points) < num_trials:
        batch = {
            f"trial-{len(points) + place}": searcher.suggest(f"trial-{len(points) + place}") for place in range(BATCH)
        }
        assert searcher.suggest("one-too-many") is None
        points += [suggestion["settings"] for suggestion in batch.values()]
        for trial_id, suggestion in sorted(batch.items(), reverse=is_reversed):
            settings = suggestion["settings"]
            found = {"quality": 1 / (1 + abs(settings["scale"] - 1)), "generated_tokens": 10 * settings["n"]}
            has_failed = trial_id == f"trial-{failing}"
            searcher.on_trial_complete(trial_id, {"failure": "why"} if has_failed else found)
    return points


def test_only_possible_points_are_suggested():
    points = searched(40)
    assert all(is_possible(point) for point in points)
    assert {point["n"] for point in points} == {1, 2, 3, 4}
    assert all(isinstance(point["k"], int) and 0.01 <= point["scale"] <= 10 for point in points)


def test_a_restarted_search_suggests_the_same_points_in_any_order_of_results():
    assert searched(24) == searched(24) == searched(24, is_reversed=True)


def test_a_trial_that_failed_stops_no_search():
    points = searched(24, failing=2)
    assert points[:BATCH] == searched(BATCH)
    assert len(points) == 24


def test_the_search_follows_what_trials_report():
    late = [point["scale"] for point in searched(60)[40:]]
    assert sum(abs(scale - 1) < 0.5 for scale in late) > len(late) / 2


def test_a_space_without_possible_points_ends_the_search():
    searcher = optuna_searcher(SPACE, AIMS, 0, BATCH, lambda _: False, "settings")
    assert searcher.suggest("trial-0") == Searcher.FINISHED


@pytest.mark.parametrize("values", [[[4], [16]], [None, "a"], [True, 0.5]])
def test_values_of_every_kind_can_be_searched(values: list[Any]):
    searcher = optuna_searcher({"a.b": values}, AIMS, 0, BATCH, lambda point: point["a.b"] in values, "settings")
    assert searcher.suggest("trial-0")["settings"].keys() == {"a.b"}
