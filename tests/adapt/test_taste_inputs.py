import numpy as np
import pytest

from hydra_ray.adapt.taste_inputs import Taste
from hydra_ray.lamp.choices import Choice
from hydra_ray.rows import Record

VECTORS = {"long robot": np.array([1.0, 0.0]), "robot": np.array([0.8, 0.6]), "horse": np.array([0.0, 1.0])}
SCORES = {"long robot": np.array([1.0]), "robot": np.array([0.0]), "horse": np.array([0.0])}


def _record(chosen: str, *rejected: str) -> Record:
    return Record(record_id="r", input=Choice(asked="", candidates=(*rejected, chosen)).text, output=chosen)


def test_inputs_are_as_worked_out_by_hand():
    taste = Taste.of([_record("robot", "horse"), _record("horse", "long robot")], SCORES, VECTORS)
    shown = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    found = taste.inputs(np.array([0, 1, 2]), ["long robot"] * 3, np.ones(3), VECTORS, shown)
    length = np.log1p(0.1)
    lengths = np.log1p(np.array([0.05, 0.05, 0.1]))  # robot, horse, long robot
    cosines, kernel = np.array([0.8, 0.0, 1.0]), np.exp((np.array([0.8, 0.0, 1.0]) - 1) / 0.1)
    surprise = 1 / (1 + np.exp(-1.0))  # of the horse, whose rival scores 1 higher
    first, second = np.array([1, -1, 0]), np.array([0, 1, -1])
    for row, outcomes, surprises, seen, number in (
        (found[0], first, first * 0.5, np.array([1, 1, 0]), 1),
        (found[1], first + second, first * 0.5 + second * surprise, np.array([1, 2, 1]), 2),
    ):
        total = (kernel * seen).sum()
        expected = [1, length]
        for each in (outcomes, surprises):
            expected += [cosines @ each / (number + 2), kernel @ each / total]
        expected.append(length * (outcomes @ lengths) / (number + 2))
        assert row == pytest.approx(expected)
    assert found[2].tolist() == [1, pytest.approx(length), 0, 0, 0, 0, 0]


def test_rejected_candidates_of_one_record_count_together():
    taste = Taste.of([_record("robot", "horse", "long robot")], SCORES, VECTORS)
    assert sorted(taste.outcomes_NT[0].tolist()) == [-0.5, -0.5, 1]
    share = 1 / (2 + np.e)
    assert taste.surprises_NT == pytest.approx(taste.outcomes_NT * (1 - share))


def test_without_records_nothing_is_known():
    taste = Taste.of([], {}, VECTORS)
    found = taste.inputs(np.array([0]), ["robot"], np.array([2.0]), VECTORS, np.ones((1, 0)))
    assert found[0].tolist() == [2, pytest.approx(np.log1p(0.05)), 0, 0, 0, 0, 0]
