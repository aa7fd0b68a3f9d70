import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hydra_ray.adapt.choosing import choose, ranking
from hydra_ray.config import Task
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import HEADS, CandidateScore, ScoredGroup

RATING = TASKS["LaMP_3"]
PLANTED = TASKS["planted"]


def group_of(**scores_of_head: dict[str, float]) -> ScoredGroup:
    """A group in which each named head gives each candidate a score, and all other heads prefer the last one."""
    candidates = list(next(iter(scores_of_head.values())))
    rest = {candidate: float(place) for place, candidate in enumerate(candidates)}
    return ScoredGroup(
        group_id="q/personal",
        query_id="q",
        variant="personal",
        is_pseudo=False,
        candidates=tuple(
            CandidateScore(candidate_id=each, **{head: scores_of_head.get(head, rest)[each] for head in HEADS})
            for each in candidates
        ),
    )


@pytest.mark.parametrize("head", HEADS)
def test_the_head_that_is_asked_chooses(head: str):
    group = group_of(**{head: {"comedy": 0.1, "romance": 0.3, "violence": -1.0}})
    assert choose(group, head, PLANTED) == "romance"
    assert all(choose(group, other, PLANTED) == "violence" for other in HEADS if other != head)


@pytest.mark.parametrize("task", [PLANTED, Task(name="t", kind="text", instruction="?")])
def test_among_equal_scores_the_first_candidate_is_chosen(task: Task):
    assert choose(group_of(personal={"b": 1.0, "a": 1.0, "c": 0.0}), "personal", task) == "b"


@given(st.lists(st.floats(0.01, 1), min_size=5, max_size=5), st.floats(-5, 5))
def test_a_rating_is_the_median_of_what_it_may_be(weights: list[float], shift: float):
    chances = {label: weight / sum(weights) for label, weight in zip(RATING.labels, weights, strict=True)}
    below = 0.0
    for label in RATING.labels:
        assume(abs(below + chances[label] - 0.5) > 1e-6)
        below += chances[label]
        if below > 0.5:
            break
    scores = {each: math.log(chance) + shift for each, chance in chances.items()}
    assert choose(group_of(personal=scores), "personal", RATING) == label


def test_the_rating_of_highest_expected_quality_need_not_be_the_likeliest():
    chances = {"1": 0.4, "2": 0.05, "3": 0.1, "4": 0.05, "5": 0.4001}
    scores = {label: math.log(chance) for label, chance in chances.items()}
    assert choose(group_of(personal=scores), "personal", RATING) == "3"
    assert choose(group_of(personal=scores), "personal", PLANTED) == "5"


def test_a_rating_is_the_one_of_the_highest_score_where_that_is_asked_for():
    chances = {"1": 0.4, "2": 0.05, "3": 0.1, "4": 0.05, "5": 0.4001}
    group = group_of(personal={label: math.log(chance) for label, chance in chances.items()})
    assert choose(group, "personal", RATING, is_expected=False) == "5"


def test_a_rating_is_chosen_among_the_candidates_alone():
    scores = {"5": 0.0, "1": 0.1}
    assert choose(group_of(personal=scores), "personal", RATING) == "1"


def test_very_large_scores_do_not_overflow():
    assert choose(group_of(personal={"1": 5000.0, "3": 4000.0, "5": -5000.0}), "personal", RATING) == "1"


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_the_order_of_texts_is_that_of_their_scores_equals_as_they_come(scores: list[int]):
    group = group_of(personal={f"t{place}": float(score) for place, score in enumerate(scores)})
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    assert ranking(group, "personal", Task(name="t", kind="text", instruction="?")).tolist() == expected


def test_ratings_are_ordered_by_expected_quality():
    chances = {"1": 0.4, "2": 0.05, "3": 0.1, "4": 0.05, "5": 0.4001}
    group = group_of(personal={label: math.log(chance) for label, chance in chances.items()})
    expected = {value: sum(chances[t] * (1 - abs(int(value) - int(t)) / 4) for t in chances) for value in chances}
    found = [group.candidates[place].candidate_id for place in ranking(group, "personal", RATING)]
    assert found == sorted(expected, key=lambda value: -expected[value])
