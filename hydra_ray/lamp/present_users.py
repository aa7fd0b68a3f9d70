"""Users of one bucket of a refreshed run: everybody of a finished run and its updates, as of now."""

# pyarrow comes without type stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hydra_ray import storage
from hydra_ray.config import Task
from hydra_ray.lamp.field_checks import pseudo_query_id
from hydra_ray.lamp.judgements import judgements_of
from hydra_ray.lamp.leaks import is_answered
from hydra_ray.rows import Judgement, Query, User, arrow_schema
from hydra_ray.runs.updates import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentUser:
    """A user as of the newest run that has the user. Key: user.user_id."""

    user: User
    is_of_run: bool
    """Whether the finished run itself has the user, whose part in it (training, new, in a fold) the row then tells."""
    judgements: tuple[Judgement, ...]
    num_left_out: int
    """Number of queries that records answer, or judgements are about, by now."""


def present_users(task: Task, line: Line, bucket: int) -> Iterator[PresentUser]:
    """Yield the users of a bucket, sorted by user_id, each with the newest history.

    Queries are those of the finished run, and those with a known target that updates brought: others were answered when
    they came. Left out are those whose answer has become a record since, or whose drafts have been judged.
    """
    first = line.open(line.taught_by).stages["users"].part("users", bucket)
    known = storage.read_row_groups(first, arrow_schema(User), ["user_id"])
    ids = {user_id for group in known for user_id in group["user_id"].to_pylist()} | line.whereabouts(bucket).keys()
    rows: dict[str, list[tuple[str, User]]] = {user_id: [] for user_id in sorted(ids)}
    judgements: dict[str, tuple[Judgement, ...]] | None = None
    for runs in line.runs_of(bucket, rows):
        if judgements is None:  # these are the newest
            judgements = judgements_of(line, bucket, runs)
        for user_id, user in line.rows("users", "users", bucket, User, runs).items():
            rows[user_id].insert(0, (runs[user_id], user))
    for user_id, own in rows.items():
        yield _present(task, line.taught_by, own, (judgements or {}).get(user_id, ()))


def _present(task: Task, run: str, rows: Sequence[tuple[str, User]], judgements: tuple[Judgement, ...]) -> PresentUser:
    """Return a user as of now.

    Args:
        run: name of the finished run.
        rows: names of the runs that have the user, each with the user as of that run, oldest first.
    """
    (name, first), (_, newest) = rows[0], rows[-1]
    is_of_run = name == run
    asked: dict[str, tuple[Query, User]] = {}
    for place, (name, user) in enumerate(rows):
        for query in user.queries:
            if is_of_run and place == 0:
                asked[query.query_id] = query, user
            elif query.target is not None:
                before = asked.get(query.query_id)
                # Queries without an id are numbered anew by each file.
                is_other = before is not None and before[0].input != query.input
                query_id = f"{name}:{query.query_id}" if is_other else query.query_id
                asked[query_id] = replace(query, query_id=query_id), user
    judged = {each.input for each in judgements}
    kept = tuple(
        query
        for query, user in asked.values()
        if query.input not in judged and not _has_answer(task, query, user, newest)
    )
    return PresentUser(
        user=replace(newest, is_new=first.is_new, fold=first.fold, queries=kept),
        is_of_run=is_of_run,
        judgements=judgements,
        num_left_out=len(asked) - len(kept),
    )


def _has_answer(task: Task, query: Query, then: User, now: User) -> bool:
    """Return whether a record that came after a query answers it, so that it can be neither evaluated nor taught by.

    Args:
        then: the user as of the query.
        now: the user with the newest history.
    """
    before = frozenset(then.history)
    later = [record for record in now.history if record not in before]
    if any(pseudo_query_id(record.record_id) == query.query_id for record in later):
        return True
    return is_answered(task, now, query, later) and not is_answered(task, then, query, then.history)
