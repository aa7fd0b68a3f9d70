"""Target leaks: users whose history contains the answer to one of their queries, so that a copy would answer it."""

from collections.abc import Collection
from dataclasses import replace
from operator import attrgetter

from hydra_ray.config import Task
from hydra_ray.lamp.choices import items_of
from hydra_ray.rows import Query, Record, User

LEAK = "the history gives a query's target away (lamp.drop_leaks)"
"""Reason in the rejected table."""


def is_leaking(task: Task, user: User) -> bool:
    """Return whether a record reveals the answer to one of the user's queries; case and white space are ignored.

    Text tasks: the record's output is the query's target. Closed tasks, where many records share an output: the
    record's input is the query's input, whether or not its target is known. Preferences: the record's candidates are
    those of the query, in any order.
    """
    if task.kind == "preference":
        answered = {_same_candidates(task, record.input) for record in user.history}
        return any(_same_candidates(task, query.input) in answered for query in user.queries)
    name = "input" if task.is_closed else "output"
    asked = {_normalized(query.input if task.is_closed else query.target or "") for query in user.queries} - {""}
    return bool(asked) and any(_normalized(text) in asked for text in map(attrgetter(name), user.history))


def is_answered(task: Task, user: User, query: Query, records: Collection[Record]) -> bool:
    """Return whether one of some records reveals the answer to a query, as for `is_leaking`, or has its input."""
    if not records:
        return False
    asked = _normalized(query.input)
    return any(_normalized(each.input) == asked for each in records) or is_leaking(
        task, replace(user, history=tuple(records), queries=(query,))
    )


def _same_candidates(task: Task, text: str) -> frozenset[str]:
    return frozenset(map(_normalized, items_of(task, text)))


def _normalized(text: str) -> str:
    return " ".join(text.split()).casefold()
