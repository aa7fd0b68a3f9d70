"""Evaluation data: per-query columns of answers against targets of all systems, collected in one pass over the users.

Quality is the main metric rescaled so that higher is better and 1 is best: of ratings 1 - MAE / (highest - lowest
label).

Shape suffixes: Q queries, U users, S systems, C columns of a task kind, P pairs of systems.
"""

import math
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import Task
from hydra_ray.errors import InputError, StorageError
from hydra_ray.evaluate.metrics import Floats, columns_of, metrics_of, score_answer
from hydra_ray.evaluate.systems import CONTROL_PAIRS, HYDRA, ORACLE, PROMPT_SYSTEMS, RAG, SYSTEMS
from hydra_ray.lamp.choices import shown_input
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import AnsweredQuery, AnsweredUser, Query, SystemAnswer, User

MAX_LISTED_USERS = 5000
"""Number of users above which a run stores no figures of single users."""
_EXAMPLES_AN_OUTCOME = 2
_EXAMPLE_CHARACTERS = 600
_REASONS_A_CHOICE = 3
_SAME_DIGITS = 9


@dataclass(slots=True, kw_only=True)
class EvaluationData:
    """Per-query columns of all systems, user after user; without texts other than those of the examples."""

    systems: tuple[str, ...]
    left_out: frozenset[str] = frozenset()
    """Systems that answered and are not evaluated."""
    columns: "array[float]" = field(default_factory=lambda: array("d"))
    """Columns of answers: (Q, S, C) flattened."""
    first_query: "array[int]" = field(default_factory=lambda: array("q"))
    """Position of each user's first query."""
    num_history: "array[int]" = field(default_factory=lambda: array("q"))
    user_ids: list[str] = field(default_factory=list[str])
    """Ids of the users, at most MAX_LISTED_USERS."""
    differs: "array[int]" = field(default_factory=lambda: array("b"))
    """Whether the two systems of each control pair answer differently: (Q, P) flattened."""
    resampled_worse: "array[float]" = field(default_factory=lambda: array("d"))
    """Probability that one resampled RAG answer is worse than another, by query; NaN with fewer than two."""
    choices: "array[int]" = field(default_factory=lambda: array("h"))
    """Choice of the gate for each query: index among the keys of `reasons`."""
    reasons: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """First few distinct reasons, by choice."""
    num_queries: int = 0
    num_without_target: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    reranker_heads: Counter[str] = field(default_factory=Counter[str])
    adapter_heads: Counter[str] = field(default_factory=Counter[str])
    outcomes: Counter[str] = field(default_factory=Counter[str])
    examples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def control_pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the control pairs whose systems are both present."""
        return tuple(pair for pair in CONTROL_PAIRS if set(pair) <= set(self.systems))

    @property
    def queries_per_user(self) -> NDArray[np.int64]:
        """Return the number of evaluated queries of each user."""
        return np.diff(np.frombuffer(self.first_query, dtype=np.int64), append=self.num_queries)

    @property
    def history_lengths(self) -> NDArray[np.int64]:
        """Return the number of records of each user."""
        return np.frombuffer(self.num_history, dtype=np.int64)

    def user_means(self, values: Floats) -> Floats:
        """Return the means over each user's queries: (Q, ...) -> (U, ...)."""
        sums = np.add.reduceat(values, np.frombuffer(self.first_query, dtype=np.int64), axis=0)
        return sums / self.queries_per_user.reshape(-1, *[1] * (values.ndim - 1))

    def quality(self, task: Task) -> Floats:
        """Return the quality of every answer: (Q, S)."""
        return quality_of(task, self.rows(task)[..., 0])

    def rows(self, task: Task) -> Floats:
        """Return the columns of every answer: (Q, S, C)."""
        shape = (self.num_queries, len(self.systems), len(columns_of(task)))
        return np.frombuffer(self.columns, dtype=np.float64).reshape(shape)


def quality_of(task: Task, main: Floats) -> Floats:
    """Return quality from values of the main metric."""
    return 1 - main / _label_range(task) if _is_distance(task) else main


def quality_title(task: Task) -> str:
    """Return the displayed name of quality."""
    main = metrics_of(task)[0].title
    return f"1 \N{MINUS SIGN} {main}/{_label_range(task):g}" if _is_distance(task) else main


def _is_distance(task: Task) -> bool:
    """Return whether the main metric is the distance of ratings."""
    return task.kind == "rating" and task.metric is None


def collect_evaluation_data(
    task: Task, users: Iterable[tuple[User, AnsweredUser]], left_out: Collection[str] = ()
) -> EvaluationData:
    """Evaluate every query with a known target, and add the oracle to its systems where drafts were generated.

    Args:
        left_out: systems that are not evaluated.

    Raises:
        InputError: no query has a known target.
        StorageError: users and answers do not belong together, or a system did not answer every query.
    """
    evaluation: EvaluationData | None = None
    for user, answered in users:
        _check_match(user, answered)
        if evaluation is None and answered.queries:
            evaluation = EvaluationData(systems=_systems_of(answered, left_out), left_out=frozenset(left_out))
        if evaluation is not None:
            _add_user(task, user, answered, evaluation)
    if evaluation is None or not evaluation.num_queries:
        raise InputError(
            "no query of a new user has a known target, so there is nothing to report on; expected targets in the "
            "outputs file of lamp.new_split or in the users' own rows. The answers themselves are complete."
        )
    return evaluation


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


def _systems_of(answered: AnsweredUser, left_out: Collection[str]) -> tuple[str, ...]:
    present = {answer.system for answer in answered.queries[0].answers}
    if HYDRA not in present or not present < set(SYSTEMS):
        raise StorageError(
            f"the answers of user {answered.user_id!r} are by {sorted(present)}; expected {HYDRA!r} and others of "
            f"{SYSTEMS}. Remove the answers stage's folder and run again."
        )
    # Without a generator there are no drafts of which an oracle could take the best.
    present |= set() if present.isdisjoint(PROMPT_SYSTEMS) else {ORACLE}
    return tuple(each for each in SYSTEMS if each in present and each not in left_out)


def _add_user(task: Task, user: User, answered: AnsweredUser, evaluation: EvaluationData) -> None:
    queries = {query.query_id: query for query in user.queries}
    first_query = evaluation.num_queries
    for answered_query in answered.queries:
        query = queries[answered_query.query_id]
        if query.target is None:
            evaluation.num_without_target += 1
        else:
            _add_query(task, user, query, answered_query, evaluation)
    if evaluation.num_queries > first_query:
        evaluation.first_query.append(first_query)
        evaluation.num_history.append(answered.num_history)
        if len(evaluation.user_ids) < MAX_LISTED_USERS:
            evaluation.user_ids.append(user.user_id)
        evaluation.reranker_heads[answered.reranker_head] += 1
        evaluation.adapter_heads[answered.adapter_head] += 1


def _add_query(task: Task, user: User, query: Query, answered: AnsweredQuery, evaluation: EvaluationData) -> None:
    target = query.target
    assert target is not None
    answers = {answer.system: answer for answer in answered.answers if answer.system not in evaluation.left_out}
    if ORACLE in evaluation.systems:
        answers[ORACLE] = _oracle(task, answered.pool, target)
    if set(answers) != set(evaluation.systems):
        raise StorageError(
            f"query {query.query_id!r} of user {user.user_id!r} was answered by {sorted(answers)}; expected "
            f"{sorted(evaluation.systems)} as for the others. Remove the answers stage's folder and run again."
        )
    known: dict[str | None, tuple[float, ...]] = {}
    for system in evaluation.systems:
        value = answers[system].value
        if value not in known:
            known[value] = score_answer(task, value, target)
        evaluation.columns.extend(known[value])
        evaluation.failed[system] += value is None
    evaluation.num_queries += 1
    for first, second in evaluation.control_pairs:
        evaluation.differs.append(answers[first].value != answers[second].value)
    evaluation.resampled_worse.append(_resampled_worse(task, answered.resampled, target))
    _note_choice(answered, evaluation)
    main = {system: known[answers[system].value][0] for system in answers}
    _keep_example(task, user, query, answered, answers, main, evaluation)


def _resampled_worse(task: Task, values: Sequence[str], target: str) -> float:
    """Return the fraction of ordered pairs of answers whose first is worse than the second; NaN without a pair."""
    scores: Counter[float] = Counter()
    for value, count in Counter(values).items():
        scores[round(quality(task, value, target), _SAME_DIGITS)] += count
    num_pairs = len(values) * (len(values) - 1)
    num_even = sum(count * (count - 1) for count in scores.values())
    return (num_pairs - num_even) / 2 / num_pairs if num_pairs else math.nan


def _note_choice(answered: AnsweredQuery, evaluation: EvaluationData) -> None:
    reasons = evaluation.reasons.setdefault(answered.choice, [])
    evaluation.choices.append(list(evaluation.reasons).index(answered.choice))
    if answered.reason and answered.reason not in reasons and len(reasons) < _REASONS_A_CHOICE:
        reasons.append(answered.reason)


def _label_range(task: Task) -> float:
    labels = [float(label) for label in task.labels]
    return max(labels) - min(labels)


def _oracle(task: Task, pool: Sequence[str], target: str) -> SystemAnswer:
    if not pool:
        return SystemAnswer(system=ORACLE, value=None, error="no draft to choose")
    best = max(pool, key=lambda value: quality(task, value, target))
    return SystemAnswer(system=ORACLE, value=best, error=None)


def _keep_example(
    task: Task,
    user: User,
    query: Query,
    answered: AnsweredQuery,
    answers: Mapping[str, SystemAnswer],
    main: Mapping[str, float],
    evaluation: EvaluationData,
) -> None:
    rival = next((system for system in (RAG, *PROMPT_SYSTEMS) if system in answers), HYDRA)
    advantage = (main[HYDRA] - main[rival]) * (1 if metrics_of(task)[0].is_higher_better else -1)
    outcome = "better" if advantage > 0 else "worse" if advantage < 0 else "same"
    if evaluation.outcomes[outcome] >= _EXAMPLES_AN_OUTCOME:
        return
    evaluation.outcomes[outcome] += 1
    evaluation.examples.append(
        {
            "user_id": user.user_id,
            "query_id": query.query_id,
            "outcome": outcome,
            "rival": rival,
            "input": clipped(shown_input(task, query.input)),
            "target": clipped(query.target),
            "answers": {
                system: {"value": clipped(answers[system].value), "error": clipped(answers[system].error)}
                for system in evaluation.systems
            },
            "choice": answered.choice,
            "reason": answered.reason,
            "records": [],
            "drafts": [],
        }
    )


@overload
def clipped(text: str) -> str: ...


@overload
def clipped(text: str | None) -> str | None: ...


def clipped(text: str | None) -> str | None:
    """Return a text truncated to the length that examples show."""
    return text if text is None or len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + " …"
