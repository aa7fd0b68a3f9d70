"""Evaluated users joined with their answers, read from the tables of a run."""

from collections.abc import Iterator

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.rows import AnsweredUser, User, arrow_schema, from_table
from hydra_ray.runs.stage import Stage
from hydra_ray.storage.parallel import mapped


def answered_users(users: Stage, answers: Stage) -> Iterator[tuple[User, AnsweredUser]]:
    """Yield each evaluated user with the user's answers, a few buckets in memory at a time.

    Args:
        users, answers: complete stages of one run.
    """

    def tables(bucket: int) -> tuple[pa.Table, pa.Table]:
        return (
            storage.read_part(users.part("users", bucket), arrow_schema(User)),
            storage.read_part(answers.part("answers", bucket), arrow_schema(AnsweredUser)),
        )

    for known, answers_table in mapped(tables, answers.buckets):
        answered = {row.user_id: row for row in from_table(answers_table, AnsweredUser)}
        for user in from_table(known, User):
            if user.is_evaluated():
                yield user, answered[user.user_id]


def all_answers(answers: Stage) -> Iterator[AnsweredUser]:
    """Yield the answers of each evaluated user, a few buckets in memory at a time."""

    def table(location: str) -> pa.Table:
        return storage.read_part(location, arrow_schema(AnsweredUser))

    for part in mapped(table, answers.parts("answers")):
        yield from from_table(part, AnsweredUser)
