"""What is stored of a finished run and its updates, as figures of users by generation.

Where own heads are fitted to all records, these are losses of held-out records; else the qualities of answers to
queries with targets, of which the reports tell.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hydra_ray import storage
from hydra_ray.adapt.label_model import LabelModel, read_label_model
from hydra_ray.adapt.own_labels import UNTAUGHT, encoded_items, own_fold
from hydra_ray.adapt.own_model import OwnModel, read_own_model
from hydra_ray.commands.drift.changes import UserMeans
from hydra_ray.commands.drift.record_losses import SYSTEMS, Returned, Summed, first_losses, later_losses
from hydra_ray.config import RunConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.evaluate.phrases import Report
from hydra_ray.evaluate.systems import HYDRA, RAG
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.users import USERS
from hydra_ray.retrieve.dense import Encode, Floats, encode_besides
from hydra_ray.rows import User, UserLabelLogs
from hydra_ray.runs.run_folder import FinishedRun, open_finished, read_config, run_folder_of
from hydra_ray.runs.updates import WHEREABOUTS, Whereabouts, line_of, updates_of
from hydra_ray.stages.item_vectors import VECTORS, read_vectors
from hydra_ray.stages.own_heads import LABELS
from hydra_ray.stages.tables import CANDIDATES, read_rows, read_rows_if_there, with_drafts

SHARED, GAIN = "hydra_shared", "gain over rag_k"
ANSWERS = (RAG, SHARED, HYDRA, GAIN)
"""Figures of answers: qualities of systems, and what HYDRA gains over RAG."""
_CODES = "adapter.codes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One run of a line with its users' figures. Key: run."""

    run: str
    users: UserMeans


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLine:
    """A finished run and its updates."""

    config: RunConfig
    task: Task
    names: tuple[str, ...]
    """Systems whose figures users have."""
    deciding: str
    """That of them which tells of all shared parts that count in the run."""
    is_of_records: bool
    """Whether figures are log losses of records, and not qualities of answers to queries."""
    generations: tuple[Generation, ...]
    """The run itself, then its finished updates, oldest first."""


def read_line(run_folder: str, open_encode: Callable[[RunConfig], Encode]) -> StoredLine:
    """Read what is stored of a finished run and its updates.

    Args:
        open_encode: function that opens the text encoder; called only where vectors of texts are not kept.

    Raises:
        InputError: there is no such run, it is not finished, or it is itself an update.
    """
    config = read_config(run_folder)
    if config.taught_by is not None:
        raise InputError(f"{run_folder} is an update of the run {config.taught_by}: give {config.taught_by} instead")
    root = config.storage.root
    base = open_finished(root, config.run)
    updates = [open_finished(root, each.run) for each in updates_of(root, config.run) if each.is_finished]
    task = task_of(config.lamp)
    if _CODES not in base.stages:
        return _line_of_answers(base, updates, task)
    line = _LineOfRecords(base=base, task=task, encode=_opened_once(config, open_encode))
    return StoredLine(
        config=config,
        task=task,
        names=SYSTEMS,
        deciding=SYSTEMS[2 if line.model.is_on else 1],
        is_of_records=True,
        generations=(line.start(), *map(line.update, updates)),
    )


@dataclass(kw_only=True)
class _LineOfRecords:
    """Reader of a run in which own heads are fitted to all records, and of its updates."""

    base: FinishedRun
    task: Task
    encode: Encode
    labels: LabelModel = field(init=False)
    model: OwnModel = field(init=False)
    folds: dict[str, int] = field(default_factory=dict[str, int])
    """Fold whose model scored each user of the run itself, by user_id; known once `start` was called."""

    def __post_init__(self) -> None:
        """Read what users share."""
        self.labels = read_label_model(self.base.stages["adapter.labeller"].folder)
        self.model = read_own_model(self.base.stages["adapter.own"].folder)

    def start(self) -> Generation:
        """Return the figures of the run's own held-out records."""
        users = UserMeans([])
        for bucket in range(self.base.config.num_buckets):
            own = read_rows(self.base.stages[USERS], USERS, bucket, User)
            self.folds |= {user.user_id: own_fold(user) for user in own.values()}
            for each in first_losses(
                self.task, own.values(), read_rows(self.base.stages[_CODES], LABELS, bucket, UserLabelLogs)
            ):
                users.add(each)
        return Generation(run=self.base.config.run, users=users)

    def update(self, run: FinishedRun) -> Generation:
        """Return the figures of the records that are new in an update."""
        found = UserMeans([])
        for bucket in range(run.config.num_buckets if _CODES in run.stages else 0):
            users = read_rows_if_there(run.stages[USERS], USERS, bucket, User)
            if users and CANDIDATES in run.stages:  # whose vectors are kept among the others
                asked = with_drafts([*users.values()], run.stages[CANDIDATES], bucket)
                users = {user.user_id: user for user in asked}
            for each in self._new_records(run, bucket, users) if users else ():
                found.add(each)
        return Generation(run=run.config.run, users=found)

    def _new_records(self, run: FinishedRun, bucket: int, users: Mapping[str, User]) -> Iterator[Summed]:
        before = _rows_before(run, bucket)
        added = [user for user_id, user in users.items() if user_id not in before]
        yield from first_losses(self.task, added, read_rows(run.stages[_CODES], LABELS, bucket, UserLabelLogs))
        returned = [
            Returned(user=user, before=before[user_id], fold=self.folds.get(user_id, UNTAUGHT))
            for user_id, user in users.items()
            if user_id in before
        ]
        if returned:
            own = [each.user for each in returned]
            kept = read_vectors(run.stages[_CODES].part(VECTORS, bucket), self.task, own)
            vectors = encoded_items(self.task, own, encode_besides(kept, self.encode))
            yield from later_losses(self.task, returned, self.labels, self.model, vectors)


def _line_of_answers(base: FinishedRun, updates: Sequence[FinishedRun], task: Task) -> StoredLine:
    config = base.config
    return StoredLine(
        config=config,
        task=task,
        names=ANSWERS,
        deciding=GAIN,
        is_of_records=False,
        generations=tuple(
            Generation(
                run=run.config.run, users=UserMeans(_answered(run_folder_of(config.storage.root, run.config.run)))
            )
            for run in (base, *updates)
        ),
    )


def _answered(run_folder: str) -> Iterator[Summed]:
    """Yield what a report tells of its users; nothing where targets were unknown, figures of users are not kept, or one
    of the systems is not compared."""
    if not storage.exists(storage.join(run_folder, "metrics.json")):
        return
    report: Report = read_report(run_folder)
    users = report["users"]
    if users is None or not {RAG, SHARED, HYDRA} <= users["quality"].keys():
        return
    qualities_US = np.array([users["quality"][name] for name in (RAG, SHARED, HYDRA)], np.float64).T
    figures_US: Floats = np.column_stack([qualities_US, qualities_US[:, 2] - qualities_US[:, 0]])
    for user_id, num, figures_S in zip(users["user_id"], users["num_queries"], figures_US, strict=True):
        yield Summed(user_id=user_id, num=num, sums_S=num * figures_S)


def _rows_before(run: FinishedRun, bucket: int) -> dict[str, User]:
    """Return the rows that the users of a bucket had before an update, by user_id; of those who came back."""
    line = line_of(run.config)
    if line is None:
        return {}
    where = read_rows(run.stages[USERS], WHEREABOUTS, bucket, Whereabouts)
    runs = {user_id: row.before for user_id, row in where.items() if row.run == run.config.run and row.before}
    return line.rows(USERS, USERS, bucket, User, runs)


def _opened_once(config: RunConfig, open_encode: Callable[[RunConfig], Encode]) -> Encode:
    """Return an encoder that is opened by the first text that it encodes."""
    opened: list[Encode] = []

    def encode(texts: Sequence[str]) -> Floats:
        if not opened:
            opened.append(open_encode(config))
        return opened[0](texts)

    return encode
