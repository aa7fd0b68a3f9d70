"""Stage 1, users: ingestion of raw files into bucketed tables of users, in memory that does not grow with the input.

Samples and targets are first spilled to one local file per bucket, then each bucket is joined, sorted and committed by
itself. Local disk must hold about as much as the input; memory holds one bucket.
"""

# pyarrow comes without type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.config import LampConfig, RunConfig, Task
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.lamp.bucket_files import BucketFiles
from hydra_ray.lamp.field_checks import MalformedError, checked_output
from hydra_ray.lamp.input_files import input_files
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
from hydra_ray.lamp.rejection import Reasons
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.user_files import FileStart, read_user_files
from hydra_ray.rows import Rejected, User, arrow_schema, from_table, to_table
from hydra_ray.runs.root import bucket_key_of, forgetting
from hydra_ray.runs.settings import settings_of
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.seeds import seed_of
from hydra_ray.temporary import temporary_folder

USERS = "users"
REJECTED = "rejected"
MAX_WARNINGS = 5
USERS_PER_CHUNK = 256
"""Number of users that are Python objects at a time while a bucket becomes a table."""

_COUNTERS: tuple[str, ...] = ("users", "train_users", "new_users", "records", "queries", "rejected", "leaking_users")

log = logging.getLogger(__name__)


def input_fingerprint(config: LampConfig) -> list[str]:
    """Return everything that the users stage's result depends on besides its own section: hashes of local files, states
    of remote ones, and whether leaking users are left out.

    Raises:
        InputError: a required file does not exist.
    """
    return [*_source_fingerprints(config), f"drop_leaks:{config.drop_leaks}"]


def _source_fingerprints(config: LampConfig) -> list[str]:
    if config.planted is not None:
        return [f"planted:{config.planted.model_dump_json()}"]
    if config.root is None:
        files = input_files(config.users_files)
        read = [f"{_file_fingerprint(file.location)}{sorted(file.partition.items()) or ''}" for file in files]
        columns = settings_of(config.columns)
        return [*read, f"columns:{sorted(columns.items())}"] if columns else read
    required = [questions_location(config.root, split) for split in splits_of(config)]
    if config.train_split is not None:
        required.append(outputs_location(config.root, config.train_split))
    optional = outputs_location(config.root, config.new_split)
    last = _file_fingerprint(optional) if storage.exists(optional) else "absent"
    return [*(_file_fingerprint(location) for location in required), last]


def splits_of(config: LampConfig) -> dict[str, bool]:
    """Return the splits to read, each with whether its users are new."""
    splits = {config.train_split: False, config.new_split: True}
    return {split: is_new for split, is_new in splits.items() if split is not None}


def ingest(config: RunConfig, stage: Stage, known: Stage | None = None) -> dict[str, float]:
    """Write the stage's tables `users` (rows User, sorted by user_id) and `rejected` (rows Rejected).

    Users forgotten under the root are in neither. In a child run all users become new, and only buckets for which a
    sample was read get parts.

    Args:
        known: users stage of the parent run.

    Returns:
        Sums over all parts: users, train_users, new_users, records, queries, rejected, leaking_users (see `is_leaking`;
        with lamp.drop_leaks they are among the rejected).

    Raises:
        InputError: a file is missing or of another format, too many samples are malformed, training or new users are
            absent, or a user is one of the parent run.
    """
    task = task_of(config.lamp)
    missing = stage.missing_buckets(USERS, REJECTED)
    if missing:
        with temporary_folder("users") as folder:
            key, is_forgotten = bucket_key_of(config), forgetting(config.storage.root)
            spill = _Spill(Path(folder), stage.num_buckets, key, missing, is_forgotten)
            _spill_all(config, task, Path(folder), spill)
            _require_few_rejected(config, spill.reasons.num_rejected, spill.num_samples, spill.reasons)
            if known is not None:
                missing = sorted(spill.occupied)
                _require_unknown(config, known, missing, spill)
            for bucket in missing:
                _commit_bucket(config, task, stage, bucket, spill)
    # Both tables' footers are read, so that a truncated part is noticed before the manifest is written.
    counted = [
        storage.read_counters(stage.part(table, bucket))
        for bucket in stage.committed_buckets(USERS)
        for table in (USERS, REJECTED)
    ]
    counters = dict.fromkeys(_COUNTERS, 0.0) | storage.add_counters(counted)
    log.info("users: %s", ", ".join(f"{name} {count:.0f}" for name, count in counters.items()))
    num_malformed = counters["rejected"] - (counters["leaking_users"] if config.lamp.drop_leaks else 0)
    _require_few_rejected(config, num_malformed, counters["rejected"] + counters["users"], _stored_reasons(stage))
    if known is None and not counters["train_users"]:
        raise InputError("the input holds no training users: both these (is_new false) and new ones are needed")
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
        self._files = BucketFiles(folder, {"samples": Sample, "targets": _Target, "rejected": Rejected})
        self._num_buckets = num_buckets
        self._key = key
        self._buckets = frozenset(buckets)
        self._is_forgotten = is_forgotten

    def add(self, sample: Sample | Rejected) -> None:
        """Add a sample to its user's bucket, or a rejected one to the bucket of its source and position."""
        if self._is_forgotten(rejected_user_id(sample) if isinstance(sample, Rejected) else sample.user.user_id):
            return
        self.num_samples += 1
        if isinstance(sample, Rejected):
            self.report(sample)
            self._append("rejected", f"{sample.source}:{sample.position}", sample, len(sample.reason))
        else:
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


def _spill_all(config: RunConfig, task: Task, folder: Path, spill: _Spill) -> None:
    lamp, max_users = config.lamp, config.users.max_users
    if lamp.planted is not None:
        require_planted(task)
        write_planted(lamp.planted, folder)
        _spill_lamp(task, str(folder), {TRAIN_SPLIT: False, NEW_SPLIT: True}, max_users, spill)
    elif lamp.root is not None:
        _spill_lamp(task, lamp.root, splits_of(lamp), max_users, spill)
    else:
        _spill_user_files(task, lamp, folder / "events", max_users, spill)


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


def _spill_user_files(task: Task, lamp: LampConfig, folder: Path, max_users: int | None, spill: _Spill) -> None:
    folder.mkdir()
    room = {False: max_users, True: max_users}
    for sample in read_user_files(task, input_files(lamp.users_files), folder, columns=lamp.columns):
        assert not isinstance(sample, FileStart), "all rows are read"
        if isinstance(sample, Sample):
            left = room[sample.user.is_new]
            if left == 0:
                continue
            room[sample.user.is_new] = None if left is None else left - 1
        spill.add(sample)


def _commit_bucket(config: RunConfig, task: Task, stage: Stage, bucket: int, spill: _Spill) -> None:
    """Write both parts of a bucket, `users` last: its presence marks the bucket as done."""
    rejected = list(spill.rows("rejected", bucket))
    chunks = [to_table([], User)]
    waiting: list[User] = []
    counters: dict[str, float] = dict.fromkeys(_COUNTERS, 0.0)
    for sample, joined in _join(config, task, bucket, spill):
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
        waiting.append(joined)
        if len(waiting) == USERS_PER_CHUNK:
            chunks.append(to_table(waiting, User))
            waiting.clear()
    chunks.append(to_table(waiting, User))
    counters["rejected"] = float(len(rejected))
    rejected.sort(key=lambda row: (row.source, row.position))
    storage.write_part(stage.part(REJECTED, bucket), to_table(rejected, Rejected))
    storage.write_part(stage.part(USERS, bucket), pa.concat_tables(chunks).sort_by("user_id"), counters)


def _join(config: RunConfig, task: Task, bucket: int, spill: _Spill) -> Iterator[tuple[Sample, User | Rejected]]:
    """Yield a bucket's samples, each with its user and targets, or rejected for a defect that only the bucket shows."""
    targets: dict[str, set[str]] = {}
    for row in spill.rows("targets", bucket):
        targets.setdefault(row.user_id, set()).add(row.target)
    places: dict[str, str] = {}
    for sample in spill.rows("samples", bucket):
        user = sample.user
        try:
            if user.user_id in places:
                raise MalformedError(f"the same id as {places[user.user_id]}")
            places[user.user_id] = f"sample {sample.position} of {sample.source}"
            if sample.awaits_target:
                user = _with_target(task, user, targets.get(user.user_id, set()))
            yield sample, in_fold(config, user)
        except MalformedError as error:
            yield sample, rejected_sample(sample, error.reason)


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
        MalformedError: a cross-fitted run cannot use the user.
    """
    if config.taught_by is not None:
        return replace(user, is_new=True)
    if config.users.num_folds == 1:
        return user
    if any(query.target is None for query in user.queries):
        raise MalformedError("a query has no target; in a cross-fitted run every user is evaluated and teaches")
    fold = seed_of(config.users.fold_seed, "fold", user.user_id) % config.users.num_folds
    return replace(user, is_new=False, fold=fold)


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
            f"{', ...' if len(found) > 5 else ''}. Leave them out: new history of a user that is there is no addition."
        )


def _require_few_rejected(config: RunConfig, num_rejected: float, num_samples: float, reasons: Iterable[str]) -> None:
    if num_rejected > config.users.max_rejected_fraction * num_samples:
        raise InputError(
            f"rejected {num_rejected:.0f} of {num_samples:.0f} samples, more than users.max_rejected_fraction "
            f"({config.users.max_rejected_fraction}) allows: {'; '.join(reasons)}. Correct these, or check that "
            "lamp.task is the task of these files."
        )


def _stored_reasons(stage: Stage) -> Iterator[str]:
    """Yield the reasons in the rejected table; read only when asked for."""
    reasons = Reasons()
    for bucket in stage.committed_buckets(USERS):
        for row in from_table(storage.read_part(stage.part(REJECTED, bucket), arrow_schema(Rejected)), Rejected):
            if row.reason != LEAK:
                reasons.add(row)
    yield from reasons


def _file_fingerprint(location: str) -> str:
    if not storage.exists(location):
        raise InputError(f"no file {location}; check lamp.root, lamp.train_split, lamp.new_split and lamp.users_files")
    if storage.is_uri(location):
        size, changed = storage.file_state(location)
        return f"{location}:{size}:{changed}"
    with storage.open_source(location) as file:
        # pyarrow's files have `readinto`, which their type does not declare.
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))  # pyright: ignore[reportArgumentType]
        return digest.hexdigest()
