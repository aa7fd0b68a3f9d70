"""Reading and committing parts of a stage's tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra_ray.config import Task
from hydra_ray.engine.parts import Counters
from hydra_ray.generate.failures import ERRORS, count_kinds, failures_of
from hydra_ray.generate.parsing import parse_answer
from hydra_ray.lamp.choices import with_candidates
from hydra_ray.lamp.users import USERS
from hydra_ray.rows import Completion, DraftedUser, Failure, Generation, RowT, User, arrow_schema, from_table, to_table
from hydra_ray.runs.stage import Stage
from hydra_ray.storage import read_part, read_part_if_there, write_row_groups

if TYPE_CHECKING:
    from hydra_ray.stages.plan import Plan

ROWS_PER_GROUP = 256


CANDIDATES = "candidates"
"""Name of the stage, and of its table, of the drafts that are candidates of preference queries that bring none."""


def read_given_users(plan: "Plan", bucket: int) -> list[User]:
    """Return the users of a bucket as they were handed in."""
    part = read_part(plan.users.part(USERS, bucket), arrow_schema(User))
    return list(from_table(part, User))


def read_users(plan: "Plan", bucket: int) -> list[User]:
    """Return the users of a bucket, drafts as the candidates of queries that came without."""
    users = read_given_users(plan, bucket)
    if not plan.config.drafts_candidates:
        return users
    return with_drafts(users, plan.stage(CANDIDATES), bucket)


def with_drafts(users: Sequence[User], candidates: Stage, bucket: int) -> list[User]:
    """Return users of a bucket, drafts as the candidates of queries that came without.

    Args:
        candidates: complete stage of the run that has the users.
    """
    drafted = read_rows(candidates, CANDIDATES, bucket, DraftedUser)
    return [with_candidates(user, drafted[user.user_id]) if user.user_id in drafted else user for user in users]


def read_rows(stage: Stage, table: str, bucket: int, row_type: type) -> dict[str, Any]:
    """Return the rows of a part by user_id: nothing is joined by position."""
    part = read_part(stage.part(table, bucket), arrow_schema(row_type))
    return {row.user_id: row for row in from_table(part, row_type)}


def read_rows_if_there(stage: Stage, table: str, bucket: int, row_type: type) -> dict[str, Any] | None:
    """Return the rows of a part as `read_rows` does; None where it is not committed."""
    part = read_part_if_there(stage.part(table, bucket), arrow_schema(row_type))
    return None if part is None else {row.user_id: row for row in from_table(part, row_type)}


def joined(row_type: Callable[..., RowT], users: Sequence[User], **tables: Mapping[str, Any]) -> list[RowT]:
    """Return each user with the user's row of every table."""
    return [row_type(user=user, **{name: rows[user.user_id] for name, rows in tables.items()}) for user in users]


def write_rows(
    stage: Stage, table: str, bucket: int, rows: Sequence[Any], row_type: type, counters: Counters
) -> Counters:
    """Commit a part and return its counters: the given ones, and the number of rows.

    Row groups hold some hundred rows, so that an update reads those of a few users without everybody's.
    """
    counters = {"rows": len(rows), **counters}
    starts = range(0, max(len(rows), 1), ROWS_PER_GROUP)
    groups = (to_table(rows[start : start + ROWS_PER_GROUP], row_type) for start in starts)
    write_row_groups(stage.part(table, bucket), arrow_schema(row_type), groups, counters)
    return counters


def write_failures(
    stage: Stage,
    bucket: int,
    completions: Mapping[str, Completion],
    error_of: Callable[[Generation], str | None],
) -> Counters:
    """Commit the part of the stage's errors table, also where it is empty; return the number of errors of each kind.

    It is written before the stage's own table, whose part says that the bucket is done.
    """
    rows = list(failures_of(completions.values(), error_of))
    write_rows(stage, ERRORS, bucket, rows, Failure, {})
    return count_kinds(rows)


def write_answers(
    stage: Stage,
    bucket: int,
    rows: Sequence[Any],
    row_type: type,
    answers: Sequence[Any],
    completions: Mapping[str, Completion],
    task: Task,
    counters: Counters,
) -> Counters:
    """Commit the part of a stage that asked for answers, with its failures; return its counters.

    Args:
        answers: all answers in `rows`, each with an `error` and `is_exact`.
    """
    failed = write_failures(stage, bucket, completions, lambda generation: parse_answer(task, generation).error)
    parsed = {
        "answers": len(answers),
        "failed": sum(answer.error is not None for answer in answers),
        "inexact": sum(answer.error is None and not answer.is_exact for answer in answers),
    }
    return write_rows(stage, stage.name, bucket, rows, row_type, {**counters, **parsed, **failed})
