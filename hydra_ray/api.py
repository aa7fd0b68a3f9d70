"""Python API: runs as typed results.

from hydra_ray import load_run, run

finished = run("jobs/configs/demo.yaml", ["storage.root=/data/hydra"])
finished = load_run("/data/hydra/runs/demo")
finished.metrics["differences"]["hydra"]["rag_k"]
finished.to_pandas().groupby("system")["quality"].mean()
user_id = finished.answers()["user_id"][0].as_py()
print(finished.story(user_id).answer)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.adapt.answers import Scored
from hydra_ray.adapt.explanation import Explanation, explain_query
from hydra_ray.config import RunConfig, Task, apply_override, check_config, load_config
from hydra_ray.config.check import did_you_mean
from hydra_ray.errors import InputError, StorageError
from hydra_ray.evaluate.metrics_file import REPORT_ANEW
from hydra_ray.extras import naming_extras
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.users import USERS
from hydra_ray.rows import AnsweredQuery, AnsweredUser, Query, User, arrow_schema, from_table, to_table
from hydra_ray.runs.root import absolute_root, bucket_key_of
from hydra_ray.runs.run_folder import run_folder_of
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.runs.updates import updates_of
from hydra_ray.stages.answers import scored_users
from hydra_ray.stages.plan import Plan, plan_recorded
from hydra_ray.stages.tables import read_users

if TYPE_CHECKING:
    import pandas as pd

_MAX_SHOWN = 5
ConfigLike = RunConfig | Mapping[str, Any] | str | Path
"""A configuration, its settings as a mapping, or the YAML file that holds them."""


@naming_extras()
def run(config: ConfigLike, overrides: Iterable[str] = (), until: str = "report") -> "Run":
    """Compute every stage of a run up to `until` that is not complete yet, on the Ray cluster that RAY_ADDRESS names or
    on one started here.

    Args:
        config: a configuration, its settings as a mapping, or the YAML file that holds them.
        overrides: each `section.key=value`, the value in YAML.
        until: name of the last stage to compute, one of `hydra_ray.stages.STAGE_NAMES`.

    Raises:
        HydraError: its message says what went wrong and what to do.
    """
    from hydra_ray.stages.run import personalize

    return Run(plan=personalize(configured(config, overrides), until=until))


@naming_extras()
def load_run(folder: str | Path) -> "Run":
    """Return the run in a folder, `<storage.root>/runs/<run>`, finished or not; nothing is computed.

    Raises:
        InputError: the folder holds no run.
    """
    return Run(plan=plan_recorded(absolute_root(str(folder))))


def configured(config: ConfigLike, overrides: Iterable[str] = ()) -> RunConfig:
    """Return a validated configuration whose storage root is absolute.

    Raises:
        ConfigError: the file cannot be read, or a setting is wrong.
    """
    if isinstance(config, str | Path):
        checked = load_config(config, overrides)
    else:
        settings = config.model_dump(mode="json") if isinstance(config, RunConfig) else dict(config)
        for override in overrides:
            settings = apply_override(settings, override)
        checked = check_config(settings, source="the given configuration")
    root = absolute_root(checked.storage.root)
    return checked.model_copy(update={"storage": checked.storage.model_copy(update={"root": root})})


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """Progress of a stage of a run. Key: name."""

    name: str
    is_complete: bool
    seconds: float | None
    """Wall time of computing it; None while it is not complete."""
    counters: Mapping[str, float]
    """Sums over its parts, such as rows, requests and generated_tokens; empty while it is not complete."""
    folder: str
    """Folder of its tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One query of one user: the query, the chosen answer, and why it was chosen. Key: (user.user_id,
    query.query_id)."""

    user: User
    query: Query
    explanation: Explanation
    """Records that the retriever and the heads chose, and the score of each draft."""
    answered: AnsweredQuery
    """Answers of all systems."""
    reranker_head: str
    """Name of the head kind that was best for this user on held-out history."""
    adapter_head: str

    @property
    def answer(self) -> str | None:
        """HYDRA's answer; None where it has none."""
        return next(each.value for each in self.answered.answers if each.system == "hydra")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run below its root: configuration, progress and results."""

    plan: Plan
    """Stages of the run, with the folders of their tables."""

    @property
    def config(self) -> RunConfig:
        """Complete configuration."""
        return self.plan.config

    @property
    def task(self) -> Task:
        """Task of the run."""
        return self.plan.task

    @property
    def folder(self) -> str:
        """Folder of the report, the predictions and the configuration."""
        return self.plan.run_folder

    @property
    def is_finished(self) -> bool:
        """Whether every stage is complete."""
        return self.plan.is_complete()

    @property
    def report_path(self) -> str:
        """Location of the HTML report."""
        return storage.join(self.folder, "report.html")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """All metrics of the run (`hydra_ray.evaluate.report` lists the keys).

        Raises:
            InputError: the run has no report yet.
        """
        location = storage.join(self.folder, "metrics.json")
        if not storage.exists(location):
            raise InputError(f"the run {self.config.run} has no {location}: run its configuration to the end first")
        return storage.read_json(location, anew=REPORT_ANEW)

    def updates(self) -> "list[Run]":
        """Return the finished updates of the run, oldest first. A user's head and history are those of the newest run
        that has the user.
        """
        found = updates_of(self.plan.users.root, self.config.run)
        return [load_run(run_folder_of(self.plan.users.root, each.run)) for each in found if each.is_finished]

    def stages(self) -> list[StageState]:
        """Return the state of every stage, in order."""
        return [_state_of(stage) for stage in self.plan.stages()]

    def users(self) -> pa.Table:
        """Return all users (rows `hydra_ray.rows.User`); of a large run read `self.plan.users.parts("users")` instead.

        Raises:
            StorageError: the users stage is not complete.
        """
        parts = [storage.read_part(each, arrow_schema(User)) for each in self.plan.users.parts(USERS)]
        return pa.concat_tables(parts)

    def answers(self) -> pa.Table:
        """Return the answers of all systems to all evaluated queries, one row each, with the columns user_id, query_id,
        system, query, target, value, error, quality (0 to 1, higher is better; null where the target is unknown, 0 for
        a failure).

        Raises:
            StorageError: the answers stage is not complete.
        """
        rows = [row for bucket in self.plan.answers.buckets for row in self._answer_rows(bucket)]
        return to_table(rows, AnswerRow)

    @naming_extras()
    def to_pandas(self) -> "pd.DataFrame":
        """Return `answers()` as a data frame."""
        return self.answers().to_pandas()

    def story(self, user_id: str, query_id: str | None = None) -> Story:
        """Return how the answer to one query of an evaluated user came about.

        Args:
            query_id: by default the user's first query.

        Raises:
            InputError: there is no such evaluated user, or no such query.
            StorageError: the answers stage is not complete.
        """
        bucket = bucket_of(user_id, self.plan.users.num_buckets, bucket_key_of(self.config))
        row = next((each for each in self._scored(bucket) if each.user.user_id == user_id), None)
        if row is None:
            raise InputError(
                f"no user {user_id!r} is evaluated in the run {self.config.run}; ids are in `answers()`"
                f"{did_you_mean(str(user_id), self._listed_ids())}"
            )
        query = next((each for each in row.user.queries if query_id in (None, each.query_id)), None)
        if query is None:
            known = [each.query_id for each in row.user.queries]
            raise InputError(
                f"the user {user_id!r} has no query {query_id!r} in the run {self.config.run}, which has "
                f"{', '.join(map(repr, known[:_MAX_SHOWN]))}{did_you_mean(str(query_id), known)}"
            )
        answered = next(each for each in self._answered(bucket) if each.user_id == user_id)
        return Story(
            user=row.user,
            query=query,
            explanation=explain_query(row, query.query_id, self.task),
            answered=next(each for each in answered.queries if each.query_id == query.query_id),
            reranker_head=answered.reranker_head,
            adapter_head=answered.adapter_head,
        )

    def _listed_ids(self) -> list[str]:
        """Return the ids of evaluated users that the report lists; none where there is no report, or it has too
        many."""
        if not storage.exists(storage.join(self.folder, "metrics.json")):
            return []
        listed = self.metrics["users"]
        return [] if listed is None else listed["user_id"]

    def _scored(self, bucket: int) -> list[Scored]:
        if not self.plan.answers.is_complete():
            raise StorageError(f"the run {self.config.run} has no answers yet: run its configuration to the end first")
        return scored_users(self.plan, bucket) if bucket in self.plan.answers.buckets else []

    def _answered(self, bucket: int) -> Iterator[AnsweredUser]:
        part = storage.read_part(self.plan.answers.part("answers", bucket), arrow_schema(AnsweredUser))
        return from_table(part, AnsweredUser)

    def _answer_rows(self, bucket: int) -> Iterator["AnswerRow"]:
        users = read_users(self.plan, bucket)
        queries = {(user.user_id, query.query_id): query for user in users for query in user.queries}
        for user in self._answered(bucket):
            for answered in user.queries:
                query = queries[user.user_id, answered.query_id]
                for each in answered.answers:
                    yield AnswerRow(
                        user_id=user.user_id,
                        query_id=query.query_id,
                        query=query.input,
                        target=query.target,
                        quality=_quality(self.task, each.value, query.target),
                        **asdict(each),
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRow:
    """One system's answer to one query. Key: (user_id, query_id, system)."""

    user_id: str
    query_id: str
    system: str
    query: str
    target: str | None
    value: str | None
    error: str | None
    quality: float | None


def _quality(task: Task, value: str | None, target: str | None) -> float | None:
    if target is None:
        return None
    return 0.0 if value is None else quality(task, value, target)


def _state_of(stage: Stage) -> StageState:
    is_complete = stage.is_complete()
    manifest = stage.manifest() if is_complete else {"seconds": None, "counters": {}}
    return StageState(
        name=stage.name,
        is_complete=is_complete,
        seconds=manifest["seconds"],
        counters=manifest["counters"],
        folder=stage.folder,
    )
