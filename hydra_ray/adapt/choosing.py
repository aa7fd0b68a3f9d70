"""Choice of an answer among a group's candidates."""

import numpy as np

from hydra_ray.config import Task
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import ScoredGroup


def choose(group: ScoredGroup, head: str, task: Task) -> str:
    """Return the candidate with the highest expected quality by the head; the first of equals.

    Scores are log odds of being the right answer. A rating near the right one has some quality too, so a rating r is
    chosen by its expected quality, sum_t softmax(scores)_t quality(r, t); other answers by their score.

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
