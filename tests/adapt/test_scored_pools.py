import dataclasses
import math

import numpy as np
import pytest

from hydra_ray.adapt.scored_pools import scored_pools
from hydra_ray.config import Task
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import (
    HEADS,
    AnsweredQuery,
    AnsweredUser,
    CandidateScore,
    Query,
    ScoredGroup,
    ScoredUser,
    User,
)

RATING = TASKS["LaMP_3"]
TEXT = Task(name="t", kind="text", instruction="?")


def group(query_id: str, scores: dict[str, dict[str, float]], variant: str = "personal") -> ScoredGroup:
    """A group whose candidates have scores by head; 0 by heads that are not named."""
    return ScoredGroup(
        group_id=f"{query_id}/{variant}",
        query_id=query_id,
        variant=variant,
        is_pseudo=False,
        candidates=tuple(
            CandidateScore(candidate_id=each, **{head: found.get(head, 0.0) for head in HEADS})
            for each, found in scores.items()
        ),
    )


def scored(*groups: ScoredGroup) -> ScoredUser:
    return ScoredUser(user_id="u", is_new=True, head="own", groups=groups)


def asked(**targets: str | None) -> User:
    queries = tuple(Query(query_id=name, input="?", target=target) for name, target in targets.items())
    return User(user_id="u", is_new=True, history=(), queries=queries)


def answered(**pools: tuple[str, ...]) -> AnsweredUser:
    queries = tuple(AnsweredQuery(query_id=name, answers=(), pool=pool) for name, pool in pools.items())
    return AnsweredUser(user_id="u", num_history=0, reranker_head="own", adapter_head="own", queries=queries)


def test_drafts_have_their_quality_and_each_heads_order_and_spread():
    scores = {
        "a b": {"personal": 1.0, "shared": 0.0, "routed": 2.0},
        "a c": {"personal": 3.0, "shared": -1.0, "routed": 2.0},
        "d": {"personal": 2.0, "shared": 4.0, "routed": 2.0},
    }
    others = {text: {"personal": -found["personal"]} for text, found in scores.items()}
    groups = group("q", scores), group("q", others, "shared"), group("q", others, "retrieved")
    (pool,) = scored_pools(TEXT, asked(q="a b"), answered(q=tuple(scores)), scored(*groups))
    assert pool.qualities == pytest.approx([quality(TEXT, text, "a b") for text in scores])
    assert {head: found.tolist() for head, found in pool.rankings.items()} == {
        "personal": [1, 2, 0],
        "shared": [2, 0, 1],
        "routed": [0, 1, 2],
    }
    for head, spread in pool.spreads.items():
        assert spread == pytest.approx(np.std([found[head] for found in scores.values()]))


def test_labels_that_nobody_generated_count_in_expected_quality_and_are_no_drafts():
    chances = {"1": 0.4, "2": 0.05, "3": 0.1, "4": 0.05, "5": 0.4001}
    scores = {label: {"personal": math.log(chance)} for label, chance in chances.items()}
    (pool,) = scored_pools(RATING, asked(q="4"), answered(q=("5", "3", "1")), scored(group("q", scores)))
    assert pool.qualities.tolist() == [0.25, 0.75, 0.75]  # of 1, 3 and 5, in the order of the candidates
    assert pool.rankings["personal"].tolist() == [1, 2, 0]
    assert pool.spreads["personal"] == pytest.approx(np.std(np.log([0.4, 0.1, 0.4001])))


def test_queries_without_a_target_a_group_or_a_scored_draft_are_left_out():
    scores = {"a": {"personal": 1.0}, "b": {"personal": 2.0}}
    groups = [group(name, scores) for name in ("kept", "unknown", "failed", "other")]
    pools = {"kept": ("b", "a"), "unknown": ("a",), "failed": (), "other": ("c",), "unscored": ("a",)}
    user = asked(kept="a", unknown=None, failed="a", other="a", unscored="a")
    (pool,) = scored_pools(TEXT, user, answered(**pools), scored(*groups))
    assert pool.qualities.tolist() == [1.0, 0.0]


def test_a_pseudo_query_is_no_query():
    scores = {"a": {}, "b": {}}
    pseudo = dataclasses.replace(group("r1", scores), is_pseudo=True)
    assert len(list(scored_pools(TEXT, asked(q="a"), answered(q=("a",)), scored(group("q", scores), pseudo)))) == 1
