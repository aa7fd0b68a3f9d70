"""How each stage makes one part: read the bucket's parts of its inputs, compute, commit its own.

Each class is small and picklable: it travels to the worker that makes the part.
"""

from collections.abc import Sequence
from typing import Any

from hydra_ray.adapt.answers import answer_user
from hydra_ray.adapt.drafts import Ranked, draft_requests, label_drafts
from hydra_ray.adapt.examples import adapter_examples
from hydra_ray.generate.engine import open_tokenizer
from hydra_ray.plan import Plan
from hydra_ray.records import (
    AnsweredUser,
    Completion,
    DraftedUser,
    ProbedUser,
    Request,
    ScoredUser,
    User,
    UserExamples,
    arrow_schema,
    from_table,
    to_table,
)
from hydra_ray.rerank.examples import reranker_examples
from hydra_ray.rerank.probes import label_probes, probe_requests
from hydra_ray.stages import Stage
from hydra_ray.storage import read_part, write_part
from hydra_ray.stream import Counters


class ProbesPart:
    """Stage 2: requests and labels of a bucket's probes."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Request]:
        """One greedy request for each query to learn from and record."""
        config = self._plan.config
        users = _users(self._plan, bucket)
        return list(probe_requests(users, self._plan.task, open_tokenizer(config.generator), config))

    def commit(self, bucket: int, completions: Sequence[Completion], counters: Counters) -> Counters:
        """The labelled probes."""
        rows = list(
            label_probes(_users(self._plan, bucket), _by_request(completions), self._plan.task, self._plan.config)
        )
        answers = [probe.answer for row in rows for query in row.queries for probe in query.probes]
        return _write(self._plan.probes, "probes", bucket, rows, ProbedUser, {**counters, **_parsing(answers)})


class DraftsPart:
    """Stage 4: requests and labels of a bucket's drafts."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Request]:
        """Greedy answers and samples for every prompt."""
        config = self._plan.config
        tokenizer = open_tokenizer(config.generator)
        return list(draft_requests(self._ranked(bucket), self._plan.task, tokenizer, config))

    def commit(self, bucket: int, completions: Sequence[Completion], counters: Counters) -> Counters:
        """The labelled drafts."""
        rows = list(label_drafts(self._ranked(bucket), _by_request(completions), self._plan.task, self._plan.config))
        answers = [draft.answer for row in rows for query in row.queries for draft in query.drafts]
        return _write(self._plan.drafts, "drafts", bucket, rows, DraftedUser, {**counters, **_parsing(answers)})

    def _ranked(self, bucket: int) -> list[Ranked]:
        probed = _rows(self._plan.probes, "probes", bucket, ProbedUser)
        scored = _rows(self._plan.reranker.heads, "scores", bucket, ScoredUser)
        return [(user, probed[user.user_id], scored[user.user_id]) for user in _users(self._plan, bucket)]


class RerankerExamplesPart:
    """Stage 3: a bucket's groups of retrieved records."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        probed = _rows(self._plan.probes, "probes", bucket, ProbedUser)
        rows = [reranker_examples(user, probed[user.user_id], self._plan.task) for user in _users(self._plan, bucket)]
        return _write(self._plan.reranker.examples, "examples", bucket, rows, UserExamples, {})


class AdapterExamplesPart:
    """Stage 5: a bucket's groups of possible answers."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        probed = _rows(self._plan.probes, "probes", bucket, ProbedUser)
        drafted = _rows(self._plan.drafts, "drafts", bucket, DraftedUser)
        rows = [
            adapter_examples(user, probed[user.user_id], drafted[user.user_id], self._plan.task)
            for user in _users(self._plan, bucket)
        ]
        return _write(self._plan.adapter.examples, "examples", bucket, rows, UserExamples, {})


class AnswersPart:
    """Stage 6: the answers of all systems to a bucket's evaluated queries."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        drafted = _rows(self._plan.drafts, "drafts", bucket, DraftedUser)
        reranker = _rows(self._plan.reranker.heads, "scores", bucket, ScoredUser)
        adapter = _rows(self._plan.adapter.heads, "scores", bucket, ScoredUser)
        rows = [
            answer_user(user, drafted[user.user_id], reranker[user.user_id], adapter[user.user_id], self._plan.task)
            for user in _users(self._plan, bucket)
            if user.is_new
        ]
        return _write(self._plan.answers, "answers", bucket, rows, AnsweredUser, {})


def _users(plan: Plan, bucket: int) -> list[User]:
    part = read_part(plan.users.part("users", bucket), arrow_schema(User))
    return list(from_table(part, User))


def _rows(stage: Stage, table: str, bucket: int, row_type: type) -> dict[str, Any]:
    """Rows of a part by user_id: nothing is joined by position."""
    part = read_part(stage.part(table, bucket), arrow_schema(row_type))
    return {row.user_id: row for row in from_table(part, row_type)}


def _by_request(completions: Sequence[Completion]) -> dict[str, Completion]:
    return {completion.request_id: completion for completion in completions}


def _parsing(answers: Sequence[Any]) -> Counters:
    """How the answers could be understood."""
    return {
        "answers": len(answers),
        "failed": sum(answer.error is not None for answer in answers),
        "inexact": sum(answer.error is None and not answer.is_exact for answer in answers),
    }


def _write(stage: Stage, table: str, bucket: int, rows: Sequence[Any], row_type: type, counters: Counters) -> Counters:
    counters = {"rows": len(rows), **counters}
    write_part(stage.part(table, bucket), to_table(rows, row_type), counters)
    return counters
