"""Updates of a finished run: the line of runs in which its users come back, and where each user was last.

A refreshed run takes everybody from such a line, and begins one of its own.

An update is a child run whose users stage holds only who was active, each with the whole history. So the newest run
that has a user has everything of the user, and no earlier one is read. A table in the users stage says of everybody who
came with an update, in the buckets of the active users, which run that is.

Who reads everybody (an export, a server that pulls) would read every update. So what some updates brought is compacted:
a stage has the newest row of everybody who came with one of them, and is read in their place. It is found by its
fingerprint, which follows from the names and contents of the updates, so nothing has to say where it is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter

import numpy as np
import pyarrow as pa

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.rows import RowT, User, arrow_schema, from_table
from hydra_ray.runs.run_folder import FinishedRun, open_finished, read_config, recorded_fingerprints, run_folder_of
from hydra_ray.runs.stage import Stage, fingerprint
from hydra_ray.runs.user_rows import rows_of_users
from hydra_ray.storage.listings import MANIFEST, is_listed
from hydra_ray.storage.parallel import THREADS, mapped

WHEREABOUTS = "whereabouts"
"""Name of the table of Whereabouts in the users stage of an update."""
COMPACTED = "compacted"
"""Name of the stage of what some updates brought; its tables are named by stage and table, with a slash."""
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
    fingerprints: frozenset[str]
    """Fingerprints of its stages; none while it is not finished."""

    @property
    def is_finished(self) -> bool:
        """Whether it is whole: an unfinished one is finished before another begins."""
        return bool(self.fingerprints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Tables of everybody who came with one update, or with some that were compacted: the newest row of each."""

    updates: tuple[str, ...]
    """Names of the updates, oldest first."""
    stages: Mapping[str, Stage]
    """Stages of the update, by name; of some that were compacted COMPACTED alone."""

    def part(self, stage: str, table: str, bucket: int) -> str | None:
        """Return the location of a part of a stage's table; None where nobody of the bucket came with the updates."""
        if COMPACTED in self.stages:
            location = self.stages[COMPACTED].part(f"{stage}/{table}", bucket)
        elif stage in self.stages:
            location = self.stages[stage].part(table, bucket)
        else:
            return None
        return location if _is_there(location) else None


def updates_of(root: str, run: str, known: Iterable[Update] = ()) -> list[Update]:
    """Return the updates of a finished run, oldest first; additions of versions that had no updates come before them.

    Args:
        known: updates as they were before; of those that were finished nothing is read again, since they stay as they
            are.

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
    finished = {each.run: each for each in known if each.is_finished and each.run in names}
    folders = [run_folder_of(root, name) for name in names if name not in finished]
    found = {each.run: each for each in mapped(read_config, folders, THREADS) if each.taught_by == run}
    found |= {name: each.config for name, each in finished.items()}
    follows = {name: each.update.follows for name, each in found.items() if each.update is not None}
    line = TopologicalSorter({name: [each for each in before if each in follows] for name, before in follows.items()})
    added = sorted(found.keys() - follows.keys(), key=lambda name: (_finished_at(root, name), name))
    return [finished.get(name) or _update(root, found[name]) for name in (*added, *line.static_order())]


def layers_of(root: str, run: str, updates: Iterable[Update]) -> list[Layer]:
    """Return the tables of users of the finished updates of a run, newest first: the first that has a user has what is
    the user's now. What is compacted comes last.

    Args:
        updates: see `updates_of`.
    """
    finished = [each for each in updates if each.is_finished]
    stages = compacted_stages(root, run, finished)
    folder = storage.join(root, "stages", COMPACTED)
    manifests = set(storage.list_tree(folder)) if finished else set[str]()
    complete = [number for number, each in enumerate(stages, 1) if f"{each.fingerprint}/{MANIFEST}" in manifests]
    number = max(complete, default=0)
    names = [each.run for each in finished]
    opened = mapped(partial(open_finished, root), reversed(names[number:]), THREADS)
    layers = [Layer(updates=(each.config.run,), stages=each.stages) for each in opened]
    compacted = [Layer(updates=tuple(names[:number]), stages={COMPACTED: stages[number - 1]})] if number else []
    return [*layers, *compacted]


def compacted_stages(root: str, run: str, updates: Iterable[Update]) -> list[Stage]:
    """Return the stage that compacts the first of some finished updates, the first two, and so on.

    One whose answers were asked again since (`hydra-ray retry`) has other stages, and so has what compacts it.

    Args:
        updates: finished updates, oldest first.
    """
    folder = run_folder_of(root, run)
    num_buckets, before = read_config(folder).num_buckets, tuple(sorted(recorded_fingerprints(folder)))
    stages: list[Stage] = []
    for each in updates:
        handed_in = each.config.update.handed_in if each.config.update else ""
        settings = {"run": run, "update": each.run, "handed_in": handed_in}
        inputs = (*before, *sorted(each.fingerprints))
        name = fingerprint(COMPACTED, 1, settings, inputs)
        stages.append(
            Stage(
                name=COMPACTED, fingerprint=name, root=root, num_buckets=num_buckets, settings=settings, inputs=inputs
            )
        )
        before = (name,)
    return stages


def newest_rows(base: Stage, layers: Sequence[Layer], table: str, bucket: int, schema: pa.Schema) -> pa.Table | None:
    """Return a bucket's rows of a table, sorted by user_id, each from the newest run that has the user; None where no
    update has any, so that those of the finished run are the newest.

    Args:
        base: stage of the finished run.
        layers: see `layers_of`.
    """
    located = layer_parts(base.name, layers, table, bucket)
    return newest_of([*located, base.part(table, bucket)], schema) if located else None


def layer_parts(stage: str, layers: Iterable[Layer], table: str, bucket: int) -> list[str]:
    """Return the locations of a bucket's parts of a table in those layers that have one, in the same order."""
    located = (each.part(stage, table, bucket) for each in layers)
    return [each for each in located if each is not None]


def newest_of(locations: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Return the rows of some parts, sorted by user_id, each user's from the first part that has the user.

    Args:
        locations: newest first, at least one.
    """
    seen: set[str] = set()
    found: list[pa.Table] = []
    for location in locations:
        rows = storage.read_part(location, schema).replace_schema_metadata(None)
        ids = rows["user_id"].to_pylist()
        found.append(rows.take(np.array([place for place, each in enumerate(ids) if each not in seen], np.int64)))
        seen.update(ids)
    return pa.concat_tables(found).sort_by("user_id")


def _update(root: str, config: RunConfig) -> Update:
    return Update(run=config.run, config=config, fingerprints=recorded_fingerprints(run_folder_of(root, config.run)))


def _finished_at(root: str, run: str) -> str:
    """Return when the users of a run were read; nothing for a run that is not finished."""
    if not recorded_fingerprints(run_folder_of(root, run)):
        return ""
    return open_finished(root, run).stages[_USERS].manifest()["finished_at"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """The runs before an update, whose users come back with it, or before a refreshed run, which takes them all."""

    root: str
    taught_by: str
    """Name of the finished run that is updated or refreshed."""
    follows: tuple[str, ...]
    """Names of the runs directly before the update or the refreshed run, oldest first."""
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
                for user_id, row in self._whereabouts_in(name, bucket).items():
                    found.setdefault(user_id, row)
        return found

    def runs_of(self, bucket: int, user_ids: Iterable[str]) -> Iterator[dict[str, str]]:
        """Yield the newest run that has each of some users of a bucket, by user_id, then the newest before that one,
        and so on; users whom no further run has are left out. Who came with no update is taken to be in the finished
        run, without a look."""
        known = self.whereabouts(bucket)
        runs = {each: known[each].run if each in known else self.taught_by for each in user_ids}
        while runs:
            yield runs
            tables = {name: self._whereabouts_in(name, bucket) for name in {*runs.values()}}
            before = {each: tables[name][each].before for each, name in runs.items() if each in tables[name]}
            runs = {user_id: name for user_id, name in before.items() if name is not None}

    def _whereabouts_in(self, run: str, bucket: int) -> dict[str, Whereabouts]:
        """Return the table of Whereabouts of one run, by user_id; empty where it is no update."""
        opened = self.open(run)
        if opened.config.update is None:
            return {}
        location = opened.stages[_USERS].part(WHEREABOUTS, bucket)
        rows = from_table(storage.read_part(location, arrow_schema(Whereabouts)), Whereabouts)
        return {row.user_id: row for row in rows}

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

    def rows_if_there(
        self, stage: str, table: str, bucket: int, row_type: type[RowT], runs: Mapping[str, str]
    ) -> dict[str, RowT]:
        """Return rows as `rows` does, of the runs that have the stage and this part of its table."""
        stages = {run: self.open(run).stages for run in {*runs.values()}}
        there = {run for run, own in stages.items() if stage in own and _is_there(own[stage].part(table, bucket))}
        return self.rows(stage, table, bucket, row_type, {name: run for name, run in runs.items() if run in there})


def line_of(config: RunConfig) -> Line | None:
    """Return the runs before an update or a refreshed run; None for a run that is neither."""
    root, refresh = config.storage.root, config.refresh
    if refresh is not None:
        return Line(root=root, taught_by=refresh.of, follows=refresh.follows)
    if config.update is None or config.taught_by is None:
        return None
    return Line(root=root, taught_by=config.taught_by, follows=config.update.follows)


def _is_there(location: str) -> bool:
    """Return whether a finished stage has a part, from its manifest where that lists its files."""
    listed = is_listed(location)
    return storage.exists(location) if listed is None else listed
