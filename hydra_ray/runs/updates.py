"""Updates of a finished run: the line of runs in which its users come back, and where each user was last.

An update is a child run whose users stage holds only who was active, each with the whole history. So the newest run
that has a user has everything of the user, and no earlier one is read. A table in the users stage says of everybody who
came with an update, in the buckets of the active users, which run that is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.rows import RowT, User, arrow_schema, from_table
from hydra_ray.runs.run_folder import FinishedRun, open_finished, read_config, recorded_fingerprints, run_folder_of
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.user_rows import rows_of_users
from hydra_ray.storage.listings import is_listed
from hydra_ray.storage.parallel import THREADS, mapped

WHEREABOUTS = "whereabouts"
"""Name of the table of Whereabouts in the users stage of an update."""
_USERS = "users"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Runs of a line that have a user. Key: user_id."""

    user_id: str
    run: str
    """Newest run that has the user."""
    before: str | None
    """Newest run before that one that has the user; None where the user was new in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update of a finished run, or an addition of users by a version that had no updates. Key: run."""

    run: str
    config: RunConfig
    is_finished: bool
    """Whether it is whole: an unfinished one is finished before another begins."""


def updates_of(root: str, run: str) -> list[Update]:
    """Return the updates of a finished run, oldest first; additions of versions that had no updates come before them.

    Raises:
        StorageError: a configuration below the root is damaged.
    """
    runs = storage.join(root, "runs")
    names = sorted(
        name
        for path in storage.list_tree(runs)
        for name, _, file in [path.partition("/")]
        if file == "config.json" and name.startswith(f"{run}+")
    )
    folders = [run_folder_of(root, name) for name in names]
    found = {each.run: each for each in mapped(read_config, folders, THREADS) if each.taught_by == run}
    follows = {name: each.update.follows for name, each in found.items() if each.update is not None}
    line = TopologicalSorter({name: [each for each in before if each in follows] for name, before in follows.items()})
    added = sorted(found.keys() - follows.keys(), key=lambda name: (_finished_at(root, name), name))
    return [_update(root, found[name]) for name in (*added, *line.static_order())]


def newest_first(root: str, run: str) -> list[FinishedRun]:
    """Return the finished updates of a run, newest first: the first that has a user has what is the user's now."""
    names = [each.run for each in updates_of(root, run) if each.is_finished]
    return list(mapped(partial(open_finished, root), reversed(names), THREADS))


def newest_rows(
    base: Stage, updates: Sequence[FinishedRun], table: str, bucket: int, schema: pa.Schema
) -> pa.Table | None:
    """Return a bucket's rows of a table, sorted by user_id, each from the newest run that has the user; None where no
    update has any, so that those of the finished run are the newest.

    Args:
        base: stage of the finished run.
        updates: see `newest_first`.
    """
    stages = [each.stages[base.name] for each in updates if base.name in each.stages]
    located = [each.part(table, bucket) for each in stages if _is_there(each.part(table, bucket))]
    if not located:
        return None
    seen: set[str] = set()
    found: list[pa.Table] = []
    for location in (*located, base.part(table, bucket)):
        rows = storage.read_part(location, schema).replace_schema_metadata(None)
        ids = rows["user_id"].to_pylist()
        found.append(rows.take(np.array([place for place, each in enumerate(ids) if each not in seen], np.int64)))
        seen.update(ids)
    return pa.concat_tables(found).sort_by("user_id")


def _update(root: str, config: RunConfig) -> Update:
    is_finished = bool(recorded_fingerprints(run_folder_of(root, config.run)))
    return Update(run=config.run, config=config, is_finished=is_finished)


def _finished_at(root: str, run: str) -> str:
    """Return when the users of a run were read; nothing for a run that is not finished."""
    if not recorded_fingerprints(run_folder_of(root, run)):
        return ""
    return open_finished(root, run).stages[_USERS].manifest()["finished_at"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """The runs before an update, whose users come back with it."""

    root: str
    taught_by: str
    """Name of the finished run that is updated."""
    follows: tuple[str, ...]
    """Names of the runs directly before the update, oldest first."""
    _opened: dict[str, FinishedRun] = field(default_factory=dict[str, FinishedRun])

    def open(self, run: str) -> FinishedRun:
        """Return one of the runs, which is read once.

        Raises:
            InputError: it is not there any more.
        """
        if run not in self._opened:
            self._opened[run] = open_finished(self.root, run)
        return self._opened[run]

    def before(self) -> Iterator[FinishedRun]:
        """Yield the runs directly before the update, oldest first."""
        return map(self.open, self.follows)

    def whereabouts(self, bucket: int) -> dict[str, Whereabouts]:
        """Return where everybody of a bucket is who came with an update, by user_id; who is in the finished run alone
        is left out."""
        found: dict[str, Whereabouts] = {}
        waiting = list(self.follows)
        while waiting:
            name = waiting.pop()
            if name == self.taught_by:
                continue
            run = self.open(name)
            users, update = run.stages[_USERS], run.config.update
            location = users.part(_USERS if update is None else WHEREABOUTS, bucket)
            if not _is_there(location):
                waiting += [] if update is None else update.follows
            elif update is None:
                for group in storage.read_row_groups(location, arrow_schema(User), ["user_id"]):
                    for user_id in group["user_id"].to_pylist():
                        found.setdefault(user_id, Whereabouts(user_id=user_id, run=name, before=None))
            else:  # it knows of everybody before it
                rows = from_table(storage.read_part(location, arrow_schema(Whereabouts)), Whereabouts)
                for row in rows:
                    found.setdefault(row.user_id, row)
        return found

    def rows(
        self, stage: str, table: str, bucket: int, row_type: type[RowT], runs: Mapping[str, str]
    ) -> dict[str, RowT]:
        """Return users' rows of a table, each from the run that is given for the user, by user_id.

        Args:
            stage, table: names of the stage and of its table.
            runs: name of a run of the line, by user_id.
        """
        by_run: dict[str, list[str]] = {}
        for user_id, run in runs.items():
            by_run.setdefault(run, []).append(user_id)
        found: dict[str, RowT] = {}
        for run, user_ids in by_run.items():
            found |= rows_of_users(self.open(run).stages[stage].part(table, bucket), row_type, user_ids)
        return found


def line_of(config: RunConfig) -> Line | None:
    """Return the runs before an update; None for a run that is none."""
    if config.update is None or config.taught_by is None:
        return None
    return Line(root=config.storage.root, taught_by=config.taught_by, follows=config.update.follows)


def _is_there(location: str) -> bool:
    """Return whether a finished stage has a part, from its manifest where that lists its files."""
    listed = is_listed(location)
    return storage.exists(location) if listed is None else listed
