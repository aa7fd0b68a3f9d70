"""Answers against targets: the per-query columns of all systems, gathered in one pass over the users.

Shapes: Q queries, S systems, C columns of a task kind.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hydra_ray.config import Task
from hydra_ray.errors import InputError, StorageError
from hydra_ray.evaluate.metrics import COLUMNS, METRICS, Floats, score_answer
from hydra_ray.lamp.quality import quality
from hydra_ray.records import AnsweredQuery, AnsweredUser, Query, SystemAnswer, User

HYDRA = "hydra"
ORACLE = "oracle"
PROMPT_SYSTEMS = ("zero_shot", "rag_1", "rag_k")
"""Systems that only prompt the generator."""
COUNTING_SYSTEMS = ("majority", "vote")
"""Systems that only count what is there anyway."""
SYSTEMS = (*PROMPT_SYSTEMS, *COUNTING_SYSTEMS, "hydra_shared", HYDRA, "hydra_shuffled", ORACLE)
"""All systems that may be compared, in the order they are shown."""

_EXAMPLES_AN_OUTCOME = 2
_EXAMPLE_CHARACTERS = 600


@dataclass(slots=True, kw_only=True)
class Judged:
    """Per-query columns of all systems, user after user; no text but the examples'."""

    systems: tuple[str, ...]
    columns: "array[float]" = field(default_factory=lambda: array("d"))
    """Q, S, C flattened."""
    first_query: "array[int]" = field(default_factory=lambda: array("q"))
    """Position of each user's first query."""
    num_history: "array[int]" = field(default_factory=lambda: array("q"))
    num_queries: int = 0
    num_unjudged: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    reranker_heads: Counter[str] = field(default_factory=Counter[str])
    adapter_heads: Counter[str] = field(default_factory=Counter[str])
    outcomes: Counter[str] = field(default_factory=Counter[str])
    examples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def rows(self, task: Task) -> Floats:
        """The columns of every answer: Q, S, C."""
        shape = (self.num_queries, len(self.systems), len(COLUMNS[task.kind]))
        return np.frombuffer(self.columns, dtype=np.float64).reshape(shape)


def judge_users(task: Task, users: Iterable[tuple[User, AnsweredUser]]) -> Judged:
    """Judge every query with a known target, and add the oracle to its systems.

    Raises:
        InputError: no query has a known target.
        StorageError: users and answers do not belong together, or a system did not answer every query.
    """
    judged: Judged | None = None
    for user, answered in users:
        _check_match(user, answered)
        if judged is None and answered.queries:
            judged = Judged(systems=_systems_of(answered))
        if judged is not None:
            _judge_user(task, user, answered, judged)
    if judged is None or not judged.num_queries:
        raise InputError(
            "no query of a new user has a known target, so there is nothing to report on; expected targets in the "
            "outputs file of lamp.new_split or in the users' own rows. The answers themselves are complete."
        )
    return judged


def _check_match(user: User, answered: AnsweredUser) -> None:
    if user.user_id != answered.user_id:
        raise StorageError(
            f"got the answers of user {answered.user_id!r} beside user {user.user_id!r}; the users and the answers "
            "tables do not belong together. Remove the answers stage's folder and run again."
        )
    unmatched = {query.query_id for query in user.queries} ^ {query.query_id for query in answered.queries}
    if unmatched:
        raise StorageError(
            f"the queries {sorted(unmatched)} of user {user.user_id!r} are in one of the users and answers tables "
            "only; the two do not belong together. Remove the answers stage's folder and run again."
        )


def _systems_of(answered: AnsweredUser) -> tuple[str, ...]:
    present = {answer.system for answer in answered.queries[0].answers}
    if HYDRA not in present or not present < set(SYSTEMS):
        raise StorageError(
            f"the answers of user {answered.user_id!r} are by {sorted(present)}; expected {HYDRA!r} and others of "
            f"{SYSTEMS}. Remove the answers stage's folder and run again."
        )
    return tuple(system for system in SYSTEMS if system in present or system == ORACLE)


def _judge_user(task: Task, user: User, answered: AnsweredUser, judged: Judged) -> None:
    queries = {query.query_id: query for query in user.queries}
    first_query = judged.num_queries
    for answered_query in answered.queries:
        query = queries[answered_query.query_id]
        if query.target is None:
            judged.num_unjudged += 1
        else:
            _judge_query(task, user, query, answered_query, judged)
    if judged.num_queries > first_query:
        judged.first_query.append(first_query)
        judged.num_history.append(answered.num_history)
        judged.reranker_heads[answered.reranker_head] += 1
        judged.adapter_heads[answered.adapter_head] += 1


def _judge_query(task: Task, user: User, query: Query, answered: AnsweredQuery, judged: Judged) -> None:
    target = query.target
    assert target is not None
    answers = {answer.system: answer for answer in answered.answers}
    answers[ORACLE] = _oracle(task, answered.pool, target)
    if set(answers) != set(judged.systems):
        raise StorageError(
            f"query {query.query_id!r} of user {user.user_id!r} was answered by {sorted(answers)}; expected "
            f"{sorted(judged.systems)} as for the others. Remove the answers stage's folder and run again."
        )
    known: dict[str | None, tuple[float, ...]] = {}
    for system in judged.systems:
        value = answers[system].value
        if value not in known:
            known[value] = score_answer(task, value, target)
        judged.columns.extend(known[value])
        judged.failed[system] += value is None
    judged.num_queries += 1
    _keep_example(task, user, query, answers, {system: known[answers[system].value][0] for system in answers}, judged)


def _oracle(task: Task, pool: Sequence[str], target: str) -> SystemAnswer:
    if not pool:
        return SystemAnswer(system=ORACLE, value=None, error="no draft to choose")
    best = max(pool, key=lambda value: quality(task, value, target))
    return SystemAnswer(system=ORACLE, value=best, error=None)


def _keep_example(
    task: Task,
    user: User,
    query: Query,
    answers: Mapping[str, SystemAnswer],
    main: Mapping[str, float],
    judged: Judged,
) -> None:
    rival = next((system for system in reversed(PROMPT_SYSTEMS) if system in answers), HYDRA)
    advantage = (main[HYDRA] - main[rival]) * (1 if METRICS[task.kind][0].is_higher_better else -1)
    outcome = "better" if advantage > 0 else "worse" if advantage < 0 else "same"
    if judged.outcomes[outcome] >= _EXAMPLES_AN_OUTCOME:
        return
    judged.outcomes[outcome] += 1
    judged.examples.append(
        {
            "user_id": user.user_id,
            "query_id": query.query_id,
            "outcome": outcome,
            "rival": rival,
            "input": _clipped(query.input),
            "target": _clipped(query.target),
            "answers": {
                system: {"value": _clipped(answers[system].value), "error": _clipped(answers[system].error)}
                for system in judged.systems
            },
        }
    )


def _clipped(text: str | None) -> str | None:
    return text if text is None or len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + " …"
