"""Stage 1, users: ingestion of raw files into bucketed tables of users, in memory that does not grow with the input.

Samples and targets are first spilled to one local file per bucket, then each bucket is joined, sorted and committed by
itself. Local disk must hold about as much as the input; memory holds one bucket.
"""

# pyarrow comes without type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportUnknownArgumentType=false

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.config import LampConfig, RunConfig, Task
from hydra_ray.errors import ConfigError, InputError, NothingNewError
from hydra_ray.lamp.bucket_files import BucketFiles
from hydra_ray.lamp.choices import lacks_candidates
from hydra_ray.lamp.feedback import Feedback, read_feedback, taught_users
from hydra_ray.lamp.field_checks import MalformedError, checked_output
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.judgements import JUDGEMENTS, judging_users
from hydra_ray.lamp.lamp_files import (
    Sample,
    outputs_location,
    questions_location,
    read_samples,
    read_targets,
    rejected_user_id,
)
from hydra_ray.lamp.leaks import LEAK, is_leaking
from hydra_ray.lamp.planted import NEW_SPLIT, TRAIN_SPLIT, write_planted
from hydra_ray.lamp.present_users import present_users
from hydra_ray.lamp.rejection import Reasons
from hydra_ray.lamp.returning_users import ReturningUsers
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.user_files import FileStart, read_user_files
from hydra_ray.rows import Judgement, JudgingUser, Rejected, User, arrow_schema, from_table, to_table
from hydra_ray.runs.root import bucket_key_of, forgetting
from hydra_ray.runs.settings import settings_of
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.runs.updates import WHEREABOUTS, Line
from hydra_ray.seeds import seed_of
from hydra_ray.temporary import temporary_folder

USERS = "users"
REJECTED = "rejected"
MAX_WARNINGS = 5
USERS_PER_CHUNK = 256
"""Number of users that are Python objects at a time while a bucket becomes a table."""

_COUNTERS: tuple[str, ...] = ("users", "train_users", "new_users", "records", "queries", "rejected", "leaking_users")
COUNTERS_OF_UPDATES: tuple[str, ...] = ("returning_users", "added_records", "changed_records")
"""Counters of an update besides: users who were there, records that they got, and records replaced or deleted."""
FEEDBACK = "feedback"
COUNTERS_OF_FEEDBACK: tuple[str, ...] = (FEEDBACK, "judged_answers", "preferred_answers")
"""Counters of an update by feedback besides: rows that became records or judgements, answers that they are about, and
those of these that the person prefers."""
COUNTERS_OF_REFRESHES: tuple[str, ...] = ("users_of_updates", "left_out_queries")
"""Counters of a refreshed run besides: users whom the finished run lacks, and queries that records answer by now."""

log = logging.getLogger(__name__)


def input_fingerprint(config: LampConfig, *, is_by_content: bool = False) -> list[str]:
    """Return everything that the users stage's result depends on besides its own section: hashes of local files, states
    of remote ones, and whether leaking users are left out.

    Args:
        is_by_content: whether remote files are read and hashed too, so that a copy of a file is known as the same.

    Raises:
        InputError: a required file does not exist.
    """
    fingerprint_of = partial(_file_fingerprint, is_by_content=is_by_content)
    return [*_source_fingerprints(config, fingerprint_of), f"drop_leaks:{config.drop_leaks}"]


def _source_fingerprints(config: LampConfig, fingerprint_of: Callable[[str], str]) -> list[str]:
    if config.planted is not None:
        return [f"planted:{config.planted.model_dump_json()}"]
    if config.root is None:
        files = input_files(config.users_files)
        read = [f"{fingerprint_of(file.location)}{sorted(file.partition.items()) or ''}" for file in files]
        columns = settings_of(config.columns)
        return [*read, f"columns:{sorted(columns.items())}"] if columns else read
    required = [questions_location(config.root, split) for split in splits_of(config)]
    if config.train_split is not None:
        required.append(outputs_location(config.root, config.train_split))
    optional = outputs_location(config.root, config.new_split)
    last = fingerprint_of(optional) if storage.exists(optional) else "absent"
    return [*(fingerprint_of(location) for location in required), last]


def splits_of(config: LampConfig) -> dict[str, bool]:
    """Return the splits to read, each with whether its users are new."""
    splits = {config.train_split: False, config.new_split: True}
    return {split: is_new for split, is_new in splits.items() if split is not None}


def ingest(
    config: RunConfig,
    stage: Stage,
    known: Stage | None = None,
    line: Line | None = None,
    features: Sequence[str] = (),
) -> dict[str, float]:
    """Write the stage's tables `users` (rows User, sorted by user_id) and `rejected` (rows Rejected).

    Users forgotten under the root are in neither. In a child run all users become new, and only buckets for which a
    sample was read get parts; in an update those of whom something is new, and a table of Whereabouts. A refreshed run
    reads no files.

    Args:
        known: users stage of the parent run, whose users a run that is no update must not have.
        line: the runs before an update, whose users come back with what they had, or of a refreshed run those whose
            users it takes.
        features: names of the handcrafted features of drafts, by which feedback judges them.

    Returns:
        Sums over all parts: users, train_users, new_users, records, queries, rejected, leaking_users (see `is_leaking`;
        with lamp.drop_leaks they are among the rejected); of an update also returning_users, added_records and
        changed_records, of a refreshed run users_of_updates and left_out_queries.

    Raises:
        InputError: a file is missing or of another format, too many samples are malformed, training or new users are
            absent, or a user is one of the parent run.
        NothingNewError: an update has no query, and nothing that is not there.
    """
    task = task_of(config.lamp)
    missing = stage.missing_buckets(USERS, REJECTED)
    num_unchanged = 0.0
    if missing and config.refresh is not None:
        assert line is not None, "a refreshed run takes the users of others"
        is_forgotten = forgetting(config.storage.root)
        for bucket in missing:
            _take_bucket(config, task, stage, bucket, line, is_forgotten)
    elif missing:
        with temporary_folder("users") as folder:
            key, is_forgotten = bucket_key_of(config), forgetting(config.storage.root)
            spill = _Spill(Path(folder), stage.num_buckets, key, missing, is_forgotten)
            _spill_all(config, task, Path(folder), spill)
            _require_few_rejected(config, spill.reasons.num_rejected, spill.num_samples, spill.reasons)
            if known is not None:
                missing = sorted(spill.occupied)
            if known is not None and line is None:
                _require_unknown(config, known, missing, spill)
            num_unchanged = sum(
                _commit_bucket(config, task, stage, bucket, spill, line, features) for bucket in missing
            )
    # Both tables' footers are read, so that a truncated part is noticed before the manifest is written.
    counted = [
        storage.read_counters(stage.part(table, bucket))
        for bucket in stage.committed_buckets(USERS)
        for table in (USERS, REJECTED)
    ]
    is_update = config.update is not None
    names = (*_COUNTERS, *(COUNTERS_OF_UPDATES if is_update else ()))
    counters = dict.fromkeys(names, 0.0) | storage.add_counters(counted)
    log.info("users: %s", ", ".join(f"{name} {count:.0f}" for name, count in counters.items()))
    num_malformed = counters["rejected"] - (counters["leaking_users"] if config.lamp.drop_leaks else 0)
    num_samples = counters["rejected"] + counters.get(FEEDBACK, counters["users"]) + num_unchanged
    _require_few_rejected(config, num_malformed, num_samples, _stored_reasons(stage))
    if config.refresh is not None and not (counters["train_users"] and counters["new_users"]):
        raise InputError(
            f"of the users of the run {config.refresh.of} and its updates nobody is left who "
            f"{'is answered' if counters['train_users'] else 'teaches'}: run a configuration with other users"
        )
    if known is None and not counters["train_users"]:
        raise InputError("the input holds no training users: both these (is_new false) and new ones are needed")
    if is_update and not counters["users"]:
        raise NothingNewError("no query is handed in, and no record that is not there already: nothing is changed")
    if not counters["new_users"]:
        raise InputError(
            "the input holds no new users: there is nobody to answer; check is_new in the files, or lamp.new_split"
        )
    return counters


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Target of a user's query, from a file of its own. Key: user_id."""

    user_id: str
    target: str


class _Spill:
    """Samples, targets and rejected samples by bucket, in local files."""

    def __init__(
        self, folder: Path, num_buckets: int, key: str, buckets: Iterable[int], is_forgotten: Callable[[str], bool]
    ) -> None:
        self.num_samples = 0
        self.occupied: set[int] = set()
        """Buckets that have a sample."""
        self.reasons = Reasons()
        """Reasons of the rejected samples."""
        row_types = {"samples": Sample, "targets": _Target, "rejected": Rejected, FEEDBACK: Feedback}
        self._files = BucketFiles(folder, row_types)
        self._num_buckets = num_buckets
        self._key = key
        self._buckets = frozenset(buckets)
        self._is_forgotten = is_forgotten

    def add(self, sample: Sample | Feedback | Rejected) -> None:
        """Add a sample to its user's bucket, or a rejected one to the bucket of its source and position."""
        if self._is_forgotten(_user_id_of(sample)):
            return
        self.num_samples += 1
        if isinstance(sample, Rejected):
            self.report(sample)
            self._append("rejected", f"{sample.source}:{sample.position}", sample, len(sample.reason))
        elif isinstance(sample, Feedback):
            self._append(FEEDBACK, sample.user_id, sample, len(sample.value))
        else:
            self.add_taught(sample)

    def add_taught(self, sample: Sample) -> None:
        """Add a sample that feedback, which was counted already, has become."""
        size = sum(len(record.input) + len(record.output) for record in sample.user.history)
        self._append("samples", sample.user.user_id, sample, size)

    def add_target(self, user_id: str, target: str) -> None:
        """Add a target to its user's bucket."""
        if not self._is_forgotten(user_id):
            self._append("targets", user_id, _Target(user_id=user_id, target=target), len(target))

    def report(self, rejected: Rejected) -> None:
        """Count a rejected sample and log it, if it is among the first."""
        self.reasons.add(rejected)
        if self.reasons.num_rejected <= MAX_WARNINGS:
            log.warning(
                "rejected sample %d of %s (id %r): %s",
                rejected.position, rejected.source, rejected.sample_id, rejected.reason,
            )  # fmt: skip

    def rows(self, kind: str, bucket: int) -> Iterator[Any]:
        """Yield the rows of a bucket in the order in which they were added."""
        return self._files.rows(kind, bucket)

    def _append(self, kind: str, key: str, row: Any, num_characters: int) -> None:
        bucket = bucket_of(key, self._num_buckets, self._key)
        if bucket not in self._buckets:
            return
        if kind != "targets":
            self.occupied.add(bucket)
        self._files.append(kind, bucket, row, num_characters)


def _user_id_of(sample: Sample | Feedback | Rejected) -> str:
    if isinstance(sample, Rejected):
        return rejected_user_id(sample)
    return sample.user_id if isinstance(sample, Feedback) else sample.user.user_id


def _take_bucket(
    config: RunConfig, task: Task, stage: Stage, bucket: int, line: Line, is_forgotten: Callable[[str], bool]
) -> None:
    """Write the parts of a bucket of a refreshed run. Who came with an update teaches there: it is learned from present
    users, and not from those of the beginning alone."""
    counters = dict.fromkeys((*_COUNTERS, *COUNTERS_OF_REFRESHES), 0.0)
    judgements: dict[str, Sequence[Judgement]] = {}

    def counted() -> Iterator[User]:
        for each in present_users(task, line, bucket):
            if is_forgotten(each.user.user_id):
                continue
            judgements[each.user.user_id] = each.judgements
            user = each.user if each.is_of_run else in_fold(config, replace(each.user, is_new=False))
            _count(user, counters)
            counters["leaking_users"] += is_leaking(task, user)
            counters["users_of_updates"] += not each.is_of_run
            counters["left_out_queries"] += each.num_left_out
            yield user

    users = _table_of(counted())
    _write_judgements(stage, bucket, judging_users(judgements, judgements))
    _write_bucket(stage, bucket, users, [], counters)


def _spill_all(config: RunConfig, task: Task, folder: Path, spill: _Spill) -> None:
    lamp, max_users = config.lamp, config.users.max_users
    if lamp.planted is not None:
        require_planted(task)
        write_planted(lamp.planted, folder)
        _spill_lamp(task, str(folder), {TRAIN_SPLIT: False, NEW_SPLIT: True}, max_users, spill)
    elif lamp.root is not None:
        _spill_lamp(task, lamp.root, splits_of(lamp), max_users, spill)
    elif config.update is not None and config.update.is_feedback:
        for said in read_feedback(input_files(lamp.users_files)):
            spill.add(said)
    else:
        files, is_update = input_files(lamp.users_files), config.update is not None
        samples = read_user_files(task, files, folder / "events", columns=lamp.columns, is_update=is_update)
        _spill_user_files(samples, folder / "events", max_users, spill)


def require_planted(task: Task) -> None:
    """Raise an error if a planted sample has another task.

    Raises:
        ConfigError: names the task.
    """
    if task.name != "planted":
        raise ConfigError(f"lamp.planted needs lamp.task planted, got {task.name}")


def _spill_lamp(task: Task, root: str, splits: Mapping[str, bool], max_users: int | None, spill: _Spill) -> None:
    for split, is_new in splits.items():
        num_samples = num_targets = 0
        for sample in islice(read_samples(task, root, split, is_new), max_users):
            spill.add(sample)
            num_samples += 1
        for user_id, target in read_targets(root, split):
            spill.add_target(user_id, target)
            num_targets += 1
        if max_users is None and num_targets > num_samples:
            surplus = num_targets - num_samples
            log.warning("%d targets of split %s belong to no sample and are left out", surplus, split)


def _spill_user_files(
    samples: Iterable[Sample | Rejected | FileStart], folder: Path, max_users: int | None, spill: _Spill
) -> None:
    folder.mkdir()
    room = {False: max_users, True: max_users}
    for sample in samples:
        assert not isinstance(sample, FileStart), "all rows are read"
        if isinstance(sample, Sample):
            left = room[sample.user.is_new]
            if left == 0:
                continue
            room[sample.user.is_new] = None if left is None else left - 1
        spill.add(sample)


def _commit_bucket(
    config: RunConfig,
    task: Task,
    stage: Stage,
    bucket: int,
    spill: _Spill,
    line: Line | None,
    features: Sequence[str],
) -> int:
    """Write the parts of a bucket, `users` last: its presence marks the bucket as done. In an update a bucket of which
    nobody has anything new gets none.

    Returns:
        Number of users of whom an update has nothing new.
    """
    rejected = list(spill.rows("rejected", bucket))
    said = list(spill.rows(FEEDBACK, bucket))
    refused, of_feedback = _teach(task, line, bucket, said, features, spill)
    rejected += refused
    back = (
        None
        if line is None
        else ReturningUsers(line, bucket, (each.user.user_id for each in spill.rows("samples", bucket)))
    )
    counters: dict[str, float] = dict.fromkeys(_COUNTERS, 0.0)

    def usable() -> Iterator[User]:
        for sample, joined in _join(config, task, bucket, spill, back):
            if isinstance(joined, Rejected):
                spill.report(joined)
                rejected.append(joined)
                continue
            if is_leaking(task, joined):
                counters["leaking_users"] += 1
                if config.lamp.drop_leaks:
                    rejected.append(rejected_sample(sample, LEAK))
                    continue
            _count(joined, counters)
            yield joined

    users = _table_of(usable())
    if back is not None:
        if not users.num_rows and not rejected:
            return len(said) or back.num_unchanged
        counters |= back.counters | of_feedback
        user_ids: list[str] = users["user_id"].to_pylist()
        storage.write_part(stage.part(WHEREABOUTS, bucket), back.whereabouts(config.run, user_ids))
        _write_judgements(stage, bucket, back.judging_users(user_ids))
    _write_bucket(stage, bucket, users, rejected, counters)
    return 0 if back is None or said else back.num_unchanged


def _table_of(users: Iterable[User]) -> pa.Table:
    """Return the table of some users, sorted by user_id."""
    left, chunks = iter(users), [to_table([], User)]
    while chunk := list(islice(left, USERS_PER_CHUNK)):
        chunks.append(to_table(chunk, User))
    return pa.concat_tables(chunks).sort_by("user_id")


def _write_bucket(
    stage: Stage, bucket: int, users: pa.Table, rejected: Sequence[Rejected], counters: Mapping[str, float]
) -> None:
    ordered = sorted(rejected, key=lambda row: (row.source, row.position))
    storage.write_part(stage.part(REJECTED, bucket), to_table(ordered, Rejected))
    groups = (users.slice(start, USERS_PER_CHUNK) for start in range(0, max(users.num_rows, 1), USERS_PER_CHUNK))
    counted = {**counters, "rejected": float(len(rejected))}
    storage.write_row_groups(stage.part(USERS, bucket), users.schema, groups, counted)


def _write_judgements(stage: Stage, bucket: int, rows: Sequence[JudgingUser]) -> None:
    if rows:
        storage.write_part(stage.part(JUDGEMENTS, bucket), to_table(rows, JudgingUser))


def _teach(
    task: Task, line: Line | None, bucket: int, said: Sequence[Feedback], features: Sequence[str], spill: _Spill
) -> tuple[Sequence[Rejected], dict[str, float]]:
    """Add the users with what their feedback becomes; return the rows that become nothing, and COUNTERS_OF_FEEDBACK
    where anything was said."""
    if line is None or not said:
        return (), {}
    taught = taught_users(task, line, bucket, said, features)
    for sample in taught.samples:
        spill.add_taught(sample)
    for refused in taught.rejected:
        spill.report(refused)
    numbers = (len(said) - len(taught.rejected), taught.num_answers, taught.num_preferred)
    return taught.rejected, dict(zip(COUNTERS_OF_FEEDBACK, map(float, numbers), strict=True))


def _join(
    config: RunConfig, task: Task, bucket: int, spill: _Spill, back: ReturningUsers | None
) -> Iterator[tuple[Sample, User | Rejected]]:
    """Yield a bucket's samples, each with its user and targets, or rejected for a defect that only the bucket shows.

    Args:
        back: the users who were there already, of an update; samples in which nothing is new are left out.
    """
    targets: dict[str, set[str]] = {}
    for row in spill.rows("targets", bucket):
        targets.setdefault(row.user_id, set()).add(row.target)
    places: dict[str, str] = {}
    for sample in spill.rows("samples", bucket):
        user_id = sample.user.user_id
        try:
            if user_id in places:
                raise MalformedError(f"the same id as {places[user_id]}")
            places[user_id] = f"sample {sample.position} of {sample.source}"
            if config.update is not None and config.update.has_queries_alone:
                _require_no_records(sample)
            user = sample.user if back is None else back.joined(sample)
            if user is None:
                continue
            if sample.awaits_target:
                user = _with_target(task, user, targets.get(user_id, set()))
            yield sample, in_fold(config, user)
        except MalformedError as error:
            yield sample, rejected_sample(sample, error.reason)


def _require_no_records(sample: Sample) -> None:
    if sample.user.history or sample.withdrawn:
        raise MalformedError("there are records, and only queries are answered here; `hydra-ray update` takes records")


def rejected_sample(sample: Sample, reason: str) -> Rejected:
    """Return the sample as a rejected one."""
    return Rejected(source=sample.source, position=sample.position, sample_id=sample.sample_id, reason=reason)


def _with_target(task: Task, user: User, targets: set[str]) -> User:
    if len(targets) != 1:
        raise MalformedError(f"{len(targets)} different targets" if targets else "no target in the outputs file")
    target = checked_output(task, next(iter(targets)), "the target")
    return replace(user, queries=tuple(replace(query, target=target) for query in user.queries))


def in_fold(config: RunConfig, user: User) -> User:
    """Return the user as in this run: new in a child run, and in one fold of a cross-fitted run.

    Raises:
        MalformedError: a cross-fitted run cannot use the user; or a preference is asked without candidates, and there
            is no generator to draft them.
    """
    if not config.has_generator and task_of(config.lamp).kind == "preference":
        _require_candidates(user)
    if config.taught_by is not None:
        return replace(user, is_new=True)
    if config.users.num_folds == 1:
        return user
    if any(query.target is None for query in user.queries):
        raise MalformedError(
            "a query has no target; in a cross-fitted run every user is evaluated and teaches: mark who teaches by "
            "is_new, and leave users.num_folds out"
        )
    fold = seed_of(config.users.fold_seed, "fold", user.user_id) % config.users.num_folds
    return replace(user, is_new=False, fold=fold)


def _require_candidates(user: User) -> None:
    missing = [query.query_id for query in user.queries if lacks_candidates(query)]
    if missing:
        raise MalformedError(
            f"query {missing[0]!r} has no candidates; without a generator (generator.engine none) nothing else can be "
            "chosen among"
        )


def _count(user: User, counters: dict[str, float]) -> None:
    counters["users"] += 1
    counters["new_users"] += user.is_evaluated()
    counters["train_users"] += not user.is_new
    counters["records"] += len(user.history)
    counters["queries"] += len(user.queries)


def _require_unknown(config: RunConfig, known: Stage, buckets: Iterable[int], spill: _Spill) -> None:
    found: list[str] = []
    for bucket in buckets:
        ids = {sample.user.user_id for sample in spill.rows("samples", bucket)}
        for group in storage.read_row_groups(known.part(USERS, bucket), arrow_schema(User), ["user_id"]):
            found += sorted(ids.intersection(group["user_id"].to_pylist()))
    if found:
        raise InputError(
            f"the run {config.taught_by} has {len(found)} of these users already: {', '.join(map(repr, found[:5]))}"
            f"{', ...' if len(found) > 5 else ''}. Hand them in to `hydra-ray update`: there they come back with what "
            "they had."
        )


def _require_few_rejected(config: RunConfig, num_rejected: float, num_samples: float, reasons: Iterable[str]) -> None:
    if num_rejected > config.users.max_rejected_fraction * num_samples:
        is_feedback = config.update is not None and config.update.is_feedback
        remedy = "check that lamp.task is the task of these files"
        raise InputError(
            f"rejected {num_rejected:.0f} of {num_samples:.0f} samples, more than users.max_rejected_fraction "
            f"({config.users.max_rejected_fraction}) allows: {'; '.join(reasons)}. Correct these, or "
            f"{'leave them out' if is_feedback else remedy}."
        )


def _stored_reasons(stage: Stage) -> Iterator[str]:
    """Yield the reasons in the rejected table; read only when asked for."""
    reasons = Reasons()
    for bucket in stage.committed_buckets(USERS):
        for row in from_table(storage.read_part(stage.part(REJECTED, bucket), arrow_schema(Rejected)), Rejected):
            if row.reason != LEAK:
                reasons.add(row)
    yield from reasons


def _file_fingerprint(location: str, *, is_by_content: bool) -> str:
    if not storage.exists(location):
        raise InputError(f"no file {location}; check lamp.root, lamp.train_split, lamp.new_split and lamp.users_files")
    if storage.is_uri(location) and not is_by_content:
        size, changed = storage.file_state(location)
        return f"{location}:{size}:{changed}"
    with storage.open_source(location) as file:
        # pyarrow's files have `readinto`, which their type does not declare.
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))  # pyright: ignore[reportArgumentType]
        return digest.hexdigest()
