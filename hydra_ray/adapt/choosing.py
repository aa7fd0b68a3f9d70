"""The choice of an answer among a group's candidates."""

import numpy as np

from hydra_ray.config import Task
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import ScoredGroup


def choose(group: ScoredGroup, head: str, task: Task) -> str:
    """The answer that the head expects to be best; among equals the first candidate.

    Scores are log odds of being the right answer. A rating that is near the right one counts for something too, so a
    rating is chosen by its expected quality; other answers by their score.

    Args:
        head: one of HEADS.
    """
    candidates = [candidate.candidate_id for candidate in group.candidates]
    scores = np.array([getattr(candidate, head) for candidate in group.candidates])
    if task.kind == "rating":
        chances = np.exp(scores - scores.max())
        qualities = np.array([[quality(task, value, target) for target in candidates] for value in candidates])
        scores = qualities @ chances
    return candidates[int(np.argmax(scores))]
