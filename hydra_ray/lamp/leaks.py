"""Target leaks: users whose history contains the answer to one of their queries, so that a copy would answer it."""

from hydra_ray.config import Task
from hydra_ray.rows import Query, Record, User

LEAK = "the history gives a query's target away (lamp.drop_leaks)"
"""Reason in the rejected table."""


def is_leaking(task: Task, user: User) -> bool:
    """Return whether a record reveals the answer to one of the user's queries; case and white space are ignored.

    Text tasks: the record's output is the query's target. Closed tasks, where many records share an output: the
    record's input is the query's input, whether or not its target is known.
    """
    told = {_record_key(task, record) for record in user.history}
    return any(key and key in told for key in (_query_key(task, query) for query in user.queries))


def _record_key(task: Task, record: Record) -> str:
    return _normalized(record.input if task.is_closed else record.output)


def _query_key(task: Task, query: Query) -> str:
    return _normalized(query.input if task.is_closed else query.target or "")


def _normalized(text: str) -> str:
    return " ".join(text.split()).casefold()
