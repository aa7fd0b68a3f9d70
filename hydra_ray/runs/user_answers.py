"""Evaluated users joined with their answers, read from the tables of a run."""

from collections.abc import Iterator

from hydra_ray import storage
from hydra_ray.rows import AnsweredUser, User, arrow_schema, from_table
from hydra_ray.runs.stage import Stage


def answered_users(users: Stage, answers: Stage) -> Iterator[tuple[User, AnsweredUser]]:
    """Yield each evaluated user with the user's answers, one bucket in memory at a time.

    Args:
        users, answers: complete stages of one run.
    """
    for bucket in answers.buckets:
        part = storage.read_part(answers.part("answers", bucket), arrow_schema(AnsweredUser))
        answered = {row.user_id: row for row in from_table(part, AnsweredUser)}
        part = storage.read_part(users.part("users", bucket), arrow_schema(User))
        for user in from_table(part, User):
            if user.is_evaluated():
                yield user, answered[user.user_id]
