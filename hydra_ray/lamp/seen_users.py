"""The first users of a run, by the run's own readers: that they can be read, how many there are, and what they ask."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean

from hydra_ray import storage
from hydra_ray.config import RunConfig, Task
from hydra_ray.errors import HydraError, InputError
from hydra_ray.lamp.choices import lacks_candidates
from hydra_ray.lamp.field_checks import MalformedError
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.lamp_files import Sample, questions_location, read_samples, read_targets, user_id_of
from hydra_ray.lamp.planted import NEW_SPLIT, TRAIN_SPLIT, planted_id
from hydra_ray.lamp.rejection import Reasons
from hydra_ray.lamp.user_files import FileStart, read_user_files
from hydra_ray.lamp.users import in_fold, rejected_sample, require_planted, splits_of
from hydra_ray.rows import Rejected, to_dict
from hydra_ray.runs.root import known_root_key
from hydra_ray.runs.stage import bucket_of
from hydra_ray.temporary import temporary_folder

MAX_ROWS = 200
"""Number of rows of each file that are read."""


@dataclass(slots=True, kw_only=True)
class SeenUsers:
    """Statistics of the first users of a run."""

    num_users: int = 0
    """Number of users of the whole run; estimated where not all were read."""
    is_whole: bool = True
    """Whether all users were read."""
    input_bytes: int = 0
    """Size of the input files."""
    num_records: list[int] = field(default_factory=list[int])
    """Number of records of each user that was read."""
    num_open_queries: int = 0
    """Number of preference queries of users read for which candidates are to be drafted."""
    ids: list[str] = field(default_factory=list[str])
    places: dict[str, str] = field(default_factory=dict[str, str])
    """Sample and file in which each user was first read."""
    num_trainable: int = 0
    """Number of users read whose targets may be trained on."""
    num_new: int = 0
    rejected: list[Rejected] = field(default_factory=list[Rejected])

    def num_parts(self, config: RunConfig) -> int:
        """Return the number of buckets that hold users; an upper bound unless all users and the bucket key are
        known."""
        num_buckets = config.num_buckets
        key = config.users.bucket_key or _root_key(config.storage.root)
        if self.is_whole and key:
            return len({bucket_of(each, num_buckets, key) for each in self.ids})
        return min(num_buckets, self.num_users)

    def add(self, sample: Sample | Rejected, config: RunConfig) -> None:
        """Count a user that was read or rejected."""
        if isinstance(sample, Sample):
            try:
                self._require_usable(sample, config)
            except MalformedError as error:
                sample = rejected_sample(sample, error.reason)
        if isinstance(sample, Rejected):
            self.rejected.append(sample)
            return
        self.ids.append(sample.user.user_id)
        self.num_records.append(len(sample.user.history))
        if config.drafts_candidates:
            self.num_open_queries += sum(map(lacks_candidates, sample.user.queries))
        self.num_new += sample.user.is_new
        self.num_trainable += not sample.user.is_new

    def _require_usable(self, sample: Sample, config: RunConfig) -> None:
        """Check what a run requires of a user beyond being well-formed."""
        user_id = sample.user.user_id
        if user_id in self.places:
            raise MalformedError(f"the same id as {self.places[user_id]}")
        self.places[user_id] = f"sample {sample.position} of {sample.source}"
        if not sample.awaits_target:
            in_fold(config, sample.user)


def look_at_users(config: RunConfig, task: Task) -> SeenUsers:
    """Return statistics of the first users of a run's files.

    Raises:
        HydraError: a file is missing or of another format, or its users are of no use to the run.
        OSError: a file cannot be read.
    """
    seen = SeenUsers()
    if config.lamp.planted is not None:
        require_planted(task)
        _plant(config, seen)
        return seen
    if config.lamp.root is not None:
        _look_at_lamp(config, task, config.lamp.root, seen)
    else:
        _look_at_own(config, task, seen)
    _require_usable(config, seen)
    return seen


def num_requests(config: RunConfig, seen: SeenUsers) -> float:
    """Return the approximate number of requests of a run."""
    drafts, records = config.drafts, fmean(seen.num_records or [0])
    if config.drafts_candidates:
        prompts = len(drafts.prompts) + len(drafts.sampled_prompts) * len(drafts.temperatures)
        return seen.num_users * seen.num_open_queries / max(len(seen.ids), 1) * prompts
    queries = 1 + min(config.probes.num_pseudo_queries, records)
    probes = min(config.probes.num_records, records)
    sampled = (1 + len(drafts.sampled_prompts)) * len(drafts.temperatures)
    return seen.num_users * (1 + queries * (probes + len(drafts.prompts) + sampled))


def _plant(config: RunConfig, seen: SeenUsers) -> None:
    planted = config.lamp.planted
    assert planted is not None
    for split, num_users in ((TRAIN_SPLIT, planted.num_train_users), (NEW_SPLIT, planted.num_new_users)):
        kept = min(num_users, config.users.max_users or num_users)
        seen.num_users += kept
        seen.ids += (user_id_of(split, planted_id(split, index)) for index in range(kept))
    seen.num_records.append(planted.num_records)


def _look_at_lamp(config: RunConfig, task: Task, root: str, seen: SeenUsers) -> None:
    for split, is_new in splits_of(config.lamp).items():
        _take(read_samples(task, root, split, is_new), questions_location(root, split), config, seen)
        for _ in islice(read_targets(root, split), MAX_ROWS):
            pass


def _look_at_own(config: RunConfig, task: Task, seen: SeenUsers) -> None:
    found: list[FileStart] = []
    num_seen = 0
    with temporary_folder("doctor") as folder:
        files = input_files(config.lamp.users_files)
        for each in read_user_files(task, files, Path(folder), MAX_ROWS, config.lamp.columns):
            if isinstance(each, FileStart):
                found.append(each)
            else:
                seen.add(each, config)
                num_seen += 1
    seen.input_bytes += sum(storage.file_state(each.location)[0] for each in found)
    seen.is_whole = all(each.is_whole for each in found)
    num_rows = sum(each.num_rows for each in found)
    num_all = sum(each.num_rows if each.is_whole else each.num_rows / max(each.fraction, 1e-9) for each in found)
    num_users = num_seen if seen.is_whole else max(num_seen + 1, round(num_seen * num_all / max(num_rows, 1)))
    seen.num_users += min(num_users, config.users.max_users or num_users)


def _take(samples: Iterable[Sample | Rejected], location: str, config: RunConfig, seen: SeenUsers) -> None:
    """Count the first samples of a file of LaMP, and estimate its number of samples."""
    found: Iterator[Sample | Rejected] = islice(samples, MAX_ROWS + 1)
    num_users, lengths = 0, [1]
    for sample in islice(found, MAX_ROWS):
        seen.add(sample, config)
        num_users += 1
        if isinstance(sample, Sample):
            lengths.append(len(json.dumps(to_dict(sample.user))))
    seen.input_bytes += storage.file_state(location)[0]
    if next(found, None) is not None:
        seen.is_whole = False
        num_users = max(num_users + 1, round(storage.file_state(location)[0] / fmean(lengths)))
    seen.num_users += min(num_users, config.users.max_users or num_users)


def _require_usable(config: RunConfig, seen: SeenUsers) -> None:
    num_rows = len(seen.rejected) + len(seen.ids)
    if len(seen.rejected) > config.users.max_rejected_fraction * num_rows:
        raise InputError(
            f"{len(seen.rejected)} of the first {num_rows} users are malformed: {'; '.join(Reasons(seen.rejected))}: "
            "correct them, or check that lamp.task is the task of these files"
        )
    if seen.is_whole and config.users.num_folds > 1 and len(seen.ids) == 1:
        raise InputError("there is one user only: others are needed to learn from, and to be compared with")
    if not seen.is_whole or config.users.num_folds > 1:
        return
    if not seen.num_trainable and config.taught_by is None:
        raise InputError("all users are new: some are needed with is_new false, whose targets may be learned from")
    if not seen.num_new and config.taught_by is None:
        raise InputError("no user is new: some are needed with is_new true, who are answered")


def _root_key(root: str) -> str:
    """Return the bucket key of a root; empty where nothing has been run under it."""
    try:
        return known_root_key(root) or ""
    except (HydraError, OSError):
        return ""
