"""Drafts of a user's judged queries with what the adapter's heads make of them, for best-of-N."""

from collections.abc import Iterator

import numpy as np

from hydra_ray.adapt.choosing import ranking, scores_of
from hydra_ray.config import Task
from hydra_ray.evaluate.best_of_n import HEADS, ScoredPool
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import AnsweredUser, ScoredUser, User


def scored_pools(task: Task, user: User, answered: AnsweredUser, scored: ScoredUser) -> Iterator[ScoredPool]:
    """Yield the pool of each query whose target is known and that has a draft which the adapter scored.

    All heads choose among the same drafts: those of the group that `hydra_personal` chooses from, without labels that
    nobody generated.
    """
    targets = {query.query_id: query.target for query in user.queries}
    groups = {group.query_id: group for group in scored.groups if group.variant == "personal"}
    for query in answered.queries:
        target, group = targets[query.query_id], groups.get(query.query_id)
        if target is None or group is None:
            continue
        drafts = set(query.pool)
        is_draft_C = np.array([candidate.candidate_id in drafts for candidate in group.candidates])
        if not is_draft_C.any():
            continue
        place_C = np.cumsum(is_draft_C) - 1
        rankings = {head: ranking(group, head, task) for head in HEADS}
        yield ScoredPool(
            qualities=np.array(
                [quality(task, each.candidate_id, target) for each in group.candidates if each.candidate_id in drafts]
            ),
            rankings={head: place_C[order[is_draft_C[order]]] for head, order in rankings.items()},
            spreads={head: float(scores_of(group, head)[is_draft_C].std()) for head in HEADS},
        )
