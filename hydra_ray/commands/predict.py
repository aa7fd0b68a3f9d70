"""Answers to queries by what a finished run and its updates know: nothing is learned, and no update follows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.commands.update import update_settings
from hydra_ray.config import RunConfig, check_config
from hydra_ray.errors import InputError
from hydra_ray.rows import arrow_schema, to_table
from hydra_ray.runs.run_folder import read_config
from hydra_ray.runs.stage import fingerprint
from hydra_ray.runs.updates import updates_of
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.predicted import Predicted, predicted
from hydra_ray.stages.run import personalize


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers that were written."""

    plan: Plan
    """Run that made them."""
    num_queries: int
    num_failed: int
    """Number of queries without an answer."""


def predict_files(run_folder: str, queries: Sequence[str], output: str, overrides: Sequence[str] = ()) -> Answers:
    """Answer queries and write the answers as Parquet (rows `hydra_ray.stages.predicted.Predicted`).

    A call that was killed goes on when it is repeated, and the same queries are not asked twice.

    Args:
        run_folder: folder of the finished run.
        queries: files of queries, one row a query (`user_id`, `input`, `id`?) or one a user.
        output: Parquet file to write, outside the root.
        overrides: each `section.key=value`; of placement, report and input settings.

    Raises:
        HydraError: what went wrong, and what to do about it.
    """
    root = read_config(run_folder).storage.root
    if f"{output}/".startswith(f"{root.rstrip('/')}/"):
        raise InputError(
            f"{output} is below the storage root, where every file must be one that users can be forgotten from: name "
            "a file outside it"
        )
    plan = answered_plan(run_folder, queries, overrides)
    counters = {"queries": 0.0, "failed": 0.0}

    def counted() -> Iterator[pa.Table]:
        for table in answer_tables(plan):
            counters["queries"] += table.num_rows
            counters["failed"] += table["answer"].null_count
            yield table

    storage.write_row_groups(output, arrow_schema(Predicted), counted(), counters)
    return Answers(plan=plan, num_queries=round(counters["queries"]), num_failed=round(counters["failed"]))


def answered_plan(run_folder: str, queries: Sequence[str], overrides: Sequence[str] = ()) -> Plan:
    """Return the run that answers queries, its answers complete.

    Args:
        run_folder, queries, overrides: see `predict_files`.

    Raises:
        HydraError: what went wrong, and what to do about it.
    """
    return personalize(predict_config(run_folder, queries, overrides), until="answers")


def answer_tables(plan: Plan) -> Iterator[pa.Table]:
    """Yield the answers of a run that answers queries (rows `Predicted`), one bucket at a time; the first is empty."""
    yield to_table([], Predicted)
    for bucket in plan.answers.buckets:
        if rows := list(predicted(plan, bucket)):
            yield to_table(rows, Predicted)


def predict_config(run_folder: str, queries: Sequence[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of the run that answers queries; the same queries after the same updates have one.

    Args:
        run_folder, queries, overrides: see `predict_files`.

    Raises:
        InputError: there is no such run, or a file is missing.
        ConfigError: an override is wrong.
    """
    run = read_config(run_folder)
    before = [each for each in updates_of(run.storage.root, run.run) if each.is_finished]
    settings = update_settings(run_folder, queries, f"{run.run}.predicted", before, overrides)
    update = {**settings["update"], "has_queries_alone": True}
    # No "+": what is predicted is no update, and nothing follows it.
    name = fingerprint("predicted", 1, update, [])
    return check_config(
        {**settings, "update": update, "run": f"{settings['run']}-{name}"},
        source=f"the configuration of predictions by {run_folder}",
    )
