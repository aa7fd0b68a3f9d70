"""Choice of an answer among a group's candidates."""

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import Task
from hydra_ray.lamp.quality import is_graded, quality
from hydra_ray.rows import ScoredGroup


def choose(group: ScoredGroup, head: str, task: Task, *, is_expected: bool = True) -> str:
    """Return the candidate that a head prefers.

    Args:
        head: one of HEADS.
        is_expected: see `ranking`.
    """
    return group.candidates[int(ranking(group, head, task, is_expected=is_expected)[0])].candidate_id


def ranking(group: ScoredGroup, head: str, task: Task, *, is_expected: bool = True) -> NDArray[np.int64]:
    """Return the places of the candidates by expected quality by the head, best first; of equals the first one first.

    Scores are log odds of being the right answer. Where wrong labels have some quality too, as a rating near the right
    one does, a label r is ranked by its expected quality, sum_t softmax(scores)_t quality(r, t); other answers by their
    score.

    Args:
        head: one of HEADS.
        is_expected: whether such labels are ranked so, or by their score too.
    """
    candidates = [candidate.candidate_id for candidate in group.candidates]
    scores = scores_of(group, head)
    if is_expected and is_graded(task):
        chances = np.exp(scores - scores.max())
        qualities = np.array([[quality(task, value, target) for target in candidates] for value in candidates])
        scores = qualities @ chances
    return np.argsort(-scores, kind="stable")


def scores_of(group: ScoredGroup, head: str) -> NDArray[np.float64]:
    """Return the candidates' scores by a head, one of HEADS."""
    return np.array([getattr(candidate, head) for candidate in group.candidates])
