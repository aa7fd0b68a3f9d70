"""Answers that users were given: by a finished run and its updates, each user's newest first."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hydra_ray.config import Task
from hydra_ray.lamp.choices import with_candidates
from hydra_ray.lamp.field_checks import MalformedError
from hydra_ray.rows import AnsweredQuery, AnsweredUser, DraftedUser, Group, Query, User, UserExamples
from hydra_ray.runs.updates import Line

_Asked = tuple[str, str, str | None]
"""user_id, query_id, and the run that answered, or None for the newest that answered a query of this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAnswer:
    """A query and the answer that its user was given. Key: (user_id, query.query_id, run)."""

    query: Query
    answer: str | None
    """None where there was none, since the generator failed."""
    drafts: Group | None = None
    """Drafts of a text task that the answer was chosen from; None where none are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAnswers:
    """Answers to queries of one bucket's users."""

    found: Mapping[_Asked, GivenAnswer]
    answered: frozenset[str]
    """Users among those asked about whom some run has answered."""

    def answer(self, user_id: str, query_id: str, run: str | None) -> GivenAnswer:
        """Return the answer that a user was given.

        Raises:
            MalformedError: there is none.
        """
        if user_id not in self.answered:
            raise MalformedError("neither the run nor an update of it has answered this user")
        if (user_id, query_id, run) not in self.found:
            where = "the run and its updates have" if run is None else f"the run {run!r} has"
            raise MalformedError(f"{where} answered no query {query_id!r} of this user")
        return self.found[user_id, query_id, run]


def given_answers(task: Task, line: Line, bucket: int, asked: Collection[_Asked]) -> GivenAnswers:
    """Look for the answers to some queries; only runs that have their users are read, the newest first, until all are
    found."""
    missing: dict[str, set[_Asked]] = {}
    for each in asked:
        missing.setdefault(each[0], set()).add(each)
    found, answered = dict[_Asked, GivenAnswer](), set[str]()
    for runs in line.runs_of(bucket, missing.keys()):
        here = {user_id: run for user_id, run in runs.items() if missing[user_id]}
        if not here:
            break
        answers = line.rows("answers", "answers", bucket, AnsweredUser, here)
        users = _asked_users(line, bucket, {user_id: here[user_id] for user_id in answers})
        drafts = _drafts(line, bucket, {user_id: here[user_id] for user_id in answers}) if task.kind == "text" else {}
        answered.update(answers)
        for user_id, row in answers.items():
            queries = {query.query_id: query for query in users[user_id].queries}
            own = drafts.get(user_id, ())
            given = {each.query_id: _given(queries[each.query_id], each, own) for each in row.queries}
            for each in [*missing[user_id]]:
                _, query_id, run = each
                if query_id in given and run in (None, here[user_id]):
                    found[each] = given[query_id]
                    missing[user_id].remove(each)
    return GivenAnswers(found=found, answered=frozenset(answered))


def _asked_users(line: Line, bucket: int, runs: Mapping[str, str]) -> dict[str, User]:
    """Return users as a run of each answered them, by user_id: with drafts as the candidates of queries without."""
    users = line.rows("users", "users", bucket, User, runs)
    with_drafts = {user_id: run for user_id, run in runs.items() if "candidates" in line.open(run).stages}
    drafted = line.rows("candidates", "candidates", bucket, DraftedUser, with_drafts)
    return users | {user_id: with_candidates(users[user_id], row) for user_id, row in drafted.items()}


def _drafts(line: Line, bucket: int, runs: Mapping[str, str]) -> dict[str, Sequence[Group]]:
    """Return the drafts of users' queries as a run of each judged them, by user_id."""
    rows = line.rows_if_there("adapter.examples", "examples", bucket, UserExamples, runs)
    return {user_id: [group for group in row.groups if not group.is_pseudo] for user_id, row in rows.items()}


def _given(query: Query, answered: AnsweredQuery, drafts: Sequence[Group]) -> GivenAnswer:
    answer = next(answer.value for answer in answered.answers if answer.system == "hydra")
    own = [group for group in drafts if group.query_id == query.query_id]
    # The answer may be another head's than the user's own: the first drafts that it is among are those it was among.
    chosen_from = next((group for group in own if any(each.text == answer for each in group.candidates)), None)
    return GivenAnswer(query=query, answer=answer, drafts=chosen_from or next(iter(own), None))
