"""Store of completions by request, so that no request is sent twice.

A request is named by a hash of its user, its exact messages, the sampling parameters, the seed and the number of
samples (`generate/requests.py`); a store by the model and whatever else decides its answers. So stages, runs of other
settings, trials of a sweep and folds of a cross-fitted run that ask the same get the same answer. Two users are never
given one answer, even where they ask the same: removing a user removes exactly what was asked for that user.

A bucket is a folder with separate files for each stage that sent new requests, so that stages never write to the same
file. A stage writes completions as they arrive and merges its files when its part is done. A stale listing can only
cause a request to be repeated, never a wrong or missing answer. Rows hold the user's pseudonym and no user id. A row
with a value that no answer can have counts as missing, so its request is sent again.
"""

import hashlib
import logging
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from hydra_ray import storage
from hydra_ray.errors import StorageError
from hydra_ray.findings import counted
from hydra_ray.generate.failures import TRANSIENT
from hydra_ray.generate.replies import is_log_probability, is_token_count
from hydra_ray.generate.thoughts import without_thought
from hydra_ray.rows import Asked, Completion, Generation, Request, arrow_list, arrow_schema, from_table, to_table
from hydra_ray.runs.root import STORES, pseudonym, root_key
from hydra_ray.runs.stage import LEASE

logger = logging.getLogger(__name__)
_SUFFIX = ".parquet"
_FILE = re.compile(r"bucket-(?P<bucket>\d{5})/(?P<name>[^/]+\.parquet)")
_KEY_SECONDS = 60.0
"""Time for which a root's key, once checked, is not looked at again: answers are stored every few seconds."""
_MAX_LISTINGS = 5
"""Maximum number of times a bucket is listed again because files were merged or removed while they were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Row of a stored completion. Key: request_id."""

    request_id: str
    user: str
    """Pseudonym of the user by the root's key."""
    prompt_tokens: int
    generations: tuple[Generation, ...]
    error: str | None
    failure: str | None
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """What a file of a bucket has of some requests. Key: name."""

    name: str
    """Name of the file, which begins with the asker's."""
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Stored completions of some requests, read at one time."""

    by_file: Mapping[str, Mapping[str, Completion]]
    """By the name of the file, which begins with the asker's, and request_id."""

    @classmethod
    def in_files(cls, files: Iterable[FoundFile]) -> "Found":
        """Return what some files have."""
        return cls(by_file={file.name: {each.request_id: each for each in file.completions} for file in files})

    def files(self) -> list[FoundFile]:
        """Return what each file has."""
        return [FoundFile(name=name, completions=tuple(own.values())) for name, own in self.by_file.items()]

    def of(self, asker: str = "") -> dict[str, Completion]:
        """Return the completions that an asker asked for, by request_id; all where it is empty."""
        files = (rows for name, rows in self.by_file.items() if name.startswith(asker))
        return {request_id: each for rows in files for request_id, each in rows.items()}

    def unanswered(self, asked: Iterable[Asked]) -> list[Request]:
        """Return the distinct requests without a completion, in the given order."""
        known, requests = self.of(), {each.request.request_id: each.request for each in asked}
        return [request for request_id, request in requests.items() if request_id not in known]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionStore:
    """Completions of one generator for the users of one assignment to buckets."""

    root: str
    """Storage root of the runs that share the store."""
    name: str
    """Fingerprint of everything that decides the answers besides the requests."""

    @property
    def folder(self) -> str:
        """Folder of the store."""
        return storage.join(self.root, STORES, self.name)

    def listed(self) -> dict[int, list[str]]:
        """Return the names of all files by bucket, as they are now."""
        found: dict[int, list[str]] = {}
        for path in storage.list_tree(self.folder):
            match = _FILE.fullmatch(path)
            if match is not None:
                found.setdefault(int(match["bucket"]), []).append(match["name"])
        return found

    def bucket_folder(self, bucket: int) -> str:
        """Return the folder of a bucket."""
        return storage.join(self.folder, f"bucket-{bucket:05d}")

    def lease(self, bucket: int) -> str:
        """Return the location of the lease held while requests of a bucket are sent."""
        return storage.join(self.bucket_folder(bucket), LEASE)

    def read(self, bucket: int, requests: Iterable[Request]) -> dict[str, Completion]:
        """Return the stored completions of those requests of a bucket that have one, by request_id."""
        return self.find(bucket, requests).of()

    def find(
        self,
        bucket: int,
        requests: Iterable[Request],
        but: Collection[str] = (),
        names: Collection[str] | None = None,
    ) -> "Found":
        """Return the stored completions of those requests of a bucket that have one, with who asked for them.

        Args:
            but: names of files that are not read, because they had none of the requests before.
            names: names of the bucket's files as they were listed before; listed now where it is None.
        """
        by_id = {each.request_id: each for each in requests}
        return Found(
            by_file={
                name: {
                    each.request_id: _completion(each, by_id[each.request_id].user_id)
                    for each in rows
                    if each.error is not None or len(each.generations) == by_id[each.request_id].num_samples
                }
                for name, rows in self._rows(bucket, by_id, but, names).items()
            }
        )

    def has_any(self, bucket: int) -> bool:
        """Return whether any completion is stored for a bucket."""
        return bool(self._files(bucket))

    def write(self, bucket: int, asker: str, completions: Iterable[Completion]) -> str | None:
        """Store completions of a bucket in a new file, except transient failures; return its name, None where there is
        nothing to store.

        Args:
            asker: the requesting stage, as named by `asker_of`.
        """
        answered = [each for each in completions if each.failure not in TRANSIENT]
        if not answered:
            return None
        key = _key_of(self.root)
        location = self._write(bucket, asker, [_kept(each, pseudonym(each.user_id, key)) for each in answered])
        return _name_of(location)

    def merge(self, bucket: int, asker: str) -> None:
        """Merge an asker's files of a bucket into one; the asker must not be writing meanwhile."""
        files = self._files(bucket, asker)
        if len(files) > 1:
            rows = {row.request_id: row for location in files for row in _read(location)}
            merged = self._write(bucket, asker, list(rows.values()))
            for location in set(files) - {merged}:
                storage.remove_file(location)

    def drop(self, bucket: int, request_ids: Collection[str]) -> int:
        """Remove the stored completions of some requests of a bucket; return how many of these had one."""
        dropped: set[str] = set()
        for location in self._files(bucket):
            rows = list(_read(location))
            here = {row.request_id for row in rows} & set(request_ids)
            if here:
                table = to_table([row for row in rows if row.request_id not in here], Kept)
                storage.write_part(location, table)
            dropped |= here
        return len(dropped)

    def _rows(
        self, bucket: int, request_ids: Collection[str], but: Collection[str], names: Collection[str] | None
    ) -> dict[str, list[Kept]]:
        """Return the stored rows of some requests by the name of their file; one that is gone was merged into another,
        which the next listing shows."""
        folder = self.bucket_folder(bucket)
        for _ in range(_MAX_LISTINGS):
            known = map(_name_of, self._files(bucket)) if names is None else names
            try:
                return {name: list(_read(storage.join(folder, name), request_ids)) for name in known if name not in but}
            except _FileGoneError:
                names = None
        raise StorageError(
            f"the files in {self.bucket_folder(bucket)} kept changing while they were read: run again when no other "
            "run is under way"
        )

    def _write(self, bucket: int, asker: str, rows: Sequence[Kept]) -> str:
        """Write rows to a file that is named by their requests; return its location."""
        content = "".join(sorted(row.request_id for row in rows))
        name = f"{asker}-{hashlib.blake2b(content.encode(), digest_size=8).hexdigest()}{_SUFFIX}"
        location = storage.join(self.bucket_folder(bucket), name)
        storage.write_part(location, to_table(rows, Kept))
        return location

    def _files(self, bucket: int, asker: str = "") -> list[str]:
        """Return the locations of a bucket's files, without those still being written."""
        folder = self.bucket_folder(bucket)
        names = storage.list_files(folder)
        return [storage.join(folder, name) for name in names if name.startswith(asker) and name.endswith(_SUFFIX)]


_keys: dict[str, tuple[str, float]] = {}
"""Keys of roots, and until when they are taken for unchanged, in monotonic seconds."""


def _key_of(root: str) -> str:
    key, until = _keys.get(root, ("", 0.0))
    if until <= time.monotonic():
        key = root_key(root)
        _keys[root] = key, time.monotonic() + _KEY_SECONDS
    return key


def _name_of(location: str) -> str:
    return location.rpartition("/")[2]


class _FileGoneError(Exception):
    """A file was in a listing of its folder and does not exist any more."""


def asker_of(stage: str, fingerprint: str) -> str:
    """Return the prefix of a stage's files in the store."""
    return f"{stage}-{fingerprint}"


def batched(asker: str) -> str:
    """Return the prefix of the files with answers that a stage got in batches, at another price."""
    return f"batch-{asker}"


def _read(location: str, request_ids: Collection[str] | None = None) -> Iterator[Kept]:
    """Return the usable rows of a file, optionally only those of some requests."""
    try:
        table = storage.read_part(location)
    except StorageError:
        if storage.exists(location):
            raise
        raise _FileGoneError from None
    if not any(table.schema.equals(schema) for schema in (arrow_schema(Kept), _without_thoughts())):
        raise StorageError(
            f"{location} has the schema\n{table.schema}\nexpected\n{arrow_schema(Kept)}\nRemove it and run again."
        )
    if request_ids is not None:
        table = table.filter(pc.field("request_id").isin(pa.array(list(request_ids), pa.string())))
    has_thoughts = table.schema.equals(_without_thoughts())
    rows = [_separated(row) if has_thoughts else row for row in _decoded(table) if _is_usable(row)]
    if num_left := table.num_rows - len(rows):
        _say_once(location, num_left)
    return iter(rows)


def _decoded(table: pa.Table) -> Iterator[Kept]:
    """Yield the rows of a table, without those whose texts are not UTF-8."""
    try:
        yield from list(from_table(table, Kept))
    except UnicodeDecodeError:
        for place in range(table.num_rows):
            try:
                yield from list(from_table(table.slice(place, 1), Kept))
            except UnicodeDecodeError:
                continue


def _is_usable(row: Kept) -> bool:
    """Return whether all values of a row are such as a generator's can be."""
    return (
        is_token_count(row.prompt_tokens)
        and (row.error is None or not row.generations)
        and all(map(_is_usable_generation, row.generations))
    )


def _is_usable_generation(generation: Generation) -> bool:
    whole = generation.log_probability
    return (
        0 <= generation.thought_tokens <= generation.num_tokens
        and is_token_count(generation.num_tokens)
        and (whole is None or is_log_probability(whole))
        and all(is_log_probability(token.log_probability) for token in generation.first_tokens)
    )


def _separated(row: Kept) -> Kept:
    """Return a row of a file whose answers may still begin with a thought, without these."""
    return replace(row, generations=tuple(map(without_thought, row.generations)))


@cache
def _say_once(location: str, num_left: int) -> None:
    logger.warning(
        "%s: %s cannot be used (values that no answer has); what is still wanted is asked again",
        location,
        counted(num_left, "stored answer"),
    )


@cache
def _without_thoughts() -> pa.Schema:
    """Return the schema of files that were written before thoughts were counted."""
    schema = arrow_schema(Kept)
    place = schema.get_field_index("generations")
    fields = [field for field in arrow_schema(Generation) if field.name != "thought_tokens"]
    return schema.set(place, pa.field("generations", arrow_list(pa.struct(fields)), nullable=False))


def _kept(completion: Completion, user: str) -> Kept:
    return Kept(
        request_id=completion.request_id,
        user=user,
        prompt_tokens=completion.prompt_tokens,
        generations=completion.generations,
        error=completion.error,
        failure=completion.failure,
        attempts=completion.attempts,
    )


def _completion(kept: Kept, user_id: str) -> Completion:
    return Completion(
        request_id=kept.request_id,
        user_id=user_id,
        prompt_tokens=kept.prompt_tokens,
        generations=kept.generations,
        error=kept.error,
        failure=kept.failure,
        attempts=kept.attempts,
    )
