"""Batches of requests on disk: what is to be sent and what is under way, below a store of completions.

A batch is a record, written before anything of it is sent, and a table of its requests, one part a bucket. The record's
random key is sent with the batch, so that it is found again at the endpoint whatever happens between two writes. The
folder belongs to the store, not to a stage: stages and runs that ask the same wait for the same batch. Tables hold
users' texts and ids; they are removed once the answers are stored. Records name no user.
"""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hydra_ray import storage
from hydra_ray.config import ApiConfig
from hydra_ray.errors import StorageError
from hydra_ray.generate.completion_store import STORES, CompletionStore
from hydra_ray.rows import Request, arrow_schema, from_dict, from_table, to_dict, to_table
from hydra_ray.runs.stage import LEASE

if TYPE_CHECKING:
    from hydra_ray.generate.batches.packing import Load  # which needs the endpoint's client

BATCHES = "batches"
"""Name of the folder of batches in a store of completions."""
PREPARED, MERGED = "prepared", "merged"
"""Statuses of a batch before it is known to the endpoint, and after its answers are stored."""
RAN_NOT = "failed"
"""Status of a batch of which the endpoint answered nothing, because it found its file wrong or had too many."""
ENDED = frozenset({"completed", "expired", RAN_NOT, "cancelled"})
"""Statuses of the endpoint after which nothing more is answered."""
_RECORD = ".json"
_PART = ".parquet"
_QUEUE = "queue-"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """Record of a batch. Key: key."""

    key: str
    """Random name, sent as metadata."""
    asker: str
    """Requesting stage, as named by `asker_of`."""
    base_url: str
    model: str
    num_lines: int
    """Number of lines; a request is several where a call takes fewer samples."""
    prompt_tokens: int
    """Estimated tokens of the prompts of all lines."""
    most_tokens: int
    """Tokens of the longest answers that the lines allow."""
    prepared_at: float
    """Seconds since 1970."""
    status: str = PREPARED
    """PREPARED, MERGED, or the endpoint's."""
    num_done: int = 0
    """Lines that the endpoint has said to be done."""
    num_bytes: int = 0
    """Size of the uploaded file."""
    samples_per_line: int | None = None
    """Largest number of samples of a line of the uploaded file; None for all of a request. The setting may change while
    the batch is under way."""
    file_id: str | None = None
    batch_id: str | None = None

    @property
    def is_submitted(self) -> bool:
        """Whether the endpoint is known to have the batch."""
        return self.batch_id is not None

    @property
    def name(self) -> str:
        """Id at the endpoint; the key, before there is one."""
        return self.batch_id or f"{self.key} (not submitted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFolder:
    """Batches of a store of completions."""

    folder: str

    @property
    def lease(self) -> str:
        """Location of the lease that is held while a batch is prepared, submitted or merged."""
        return storage.join(self.folder, LEASE)

    def records(self) -> list[BatchRecord]:
        """Return all records, in the order of their preparation.

        Raises:
            StorageError: a record is damaged.
        """
        names = [name for name in storage.list_files(self.folder) if name.endswith(_RECORD) and name != LEASE]
        found = (self.read(name.removesuffix(_RECORD)) for name in names)
        return sorted((each for each in found if each is not None), key=lambda each: (each.prepared_at, each.key))

    def under_way(self, asker: str) -> list[BatchRecord]:
        """Return the batches of a stage whose answers are not stored yet."""
        return [each for each in self.records() if each.asker == asker and each.status != MERGED]

    def read(self, key: str) -> BatchRecord | None:
        """Return a record; None where it was merged and removed.

        Raises:
            StorageError: it is damaged.
        """
        location = self.location(key)
        content = storage.read_if_there(location)
        if content is None:
            return None
        advice = (
            f"Its batch may be under way and be found at the endpoint by the metadata hydra_ray={key}. Remove the file "
            "to ask, and pay, its requests again."
        )
        try:
            record = from_dict(storage.parse_json(content, location, anew=advice), BatchRecord)
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"{location} is no record of a batch ({type(error).__name__}). {advice}") from error
        if record.key != key:
            raise StorageError(f"{location} is the record of another batch. {advice}")
        return record

    def write(self, record: BatchRecord) -> BatchRecord:
        """Write a record over its earlier state, and return it."""
        storage.write_json(self.location(record.key), to_dict(record))
        return record

    def prepare(self, record: BatchRecord, requests: Mapping[int, Sequence[Request]]) -> BatchRecord:
        """Write the requests of a new batch by bucket, and then its record."""
        for bucket, rows in requests.items():
            self._write_part(record.key, bucket, rows)
        return self.write(record)

    def requests(self, key: str) -> Iterator[tuple[int, list[Request]]]:
        """Yield the buckets of a batch or a queue with their requests; users who were forgotten since are missing."""
        folder = storage.join(self.folder, key)
        for name in sorted(storage.list_files(folder)):
            if name.endswith(_PART):
                part = storage.read_part(storage.join(folder, name), arrow_schema(Request))
                yield int(name.removesuffix(_PART).rpartition("-")[2]), list(from_table(part, Request))

    def request_ids(self, key: str) -> set[str]:
        """Return the ids of the requests of a batch or a queue."""
        return {request.request_id for _, requests in self.requests(key) for request in requests}

    def remove(self, key: str) -> None:
        """Remove the requests of a batch, and then its record."""
        self.remove_requests(key)
        storage.remove_file(self.location(key))

    def remove_requests(self, key: str) -> None:
        """Remove the requests of a batch or a queue."""
        storage.remove_folder(storage.join(self.folder, key))

    def remove_unrecorded(self) -> None:
        """Remove the requests of batches whose preparation was interrupted; the lease must be held."""
        known = {each.key for each in self.records()}
        found = {path.split("/", 1)[0] for path in storage.list_tree(self.folder) if path.endswith(_PART)}
        for name in found - known:
            if not name.startswith(_QUEUE):
                self.remove_requests(name)

    def queue(self, asker: str, bucket: int, requests: Sequence[Request]) -> None:
        """Write the requests of a bucket that a stage has no answers to, from which batches are made."""
        self._write_part(queue_of(asker), bucket, requests)

    def _write_part(self, key: str, bucket: int, requests: Iterable[Request]) -> None:
        location = storage.join(self.folder, key, f"bucket-{bucket:05d}{_PART}")
        storage.write_part(location, to_table(requests, Request))

    def location(self, key: str) -> str:
        """Return the location of a record."""
        return storage.join(self.folder, f"{key}{_RECORD}")


def batches_of(store: CompletionStore) -> BatchFolder:
    """Return the batches of a store."""
    return BatchFolder(folder=storage.join(store.folder, BATCHES))


def queue_of(asker: str) -> str:
    """Return the name of the queue of a stage."""
    return f"{_QUEUE}{asker}"


def new_record(asker: str, api: ApiConfig, load: "Load") -> BatchRecord:
    """Return the record of a batch that is about to be prepared."""
    return BatchRecord(
        key=secrets.token_hex(16),
        asker=asker,
        base_url=api.base_url,
        model=api.model,
        num_lines=load.num_lines,
        prompt_tokens=load.prompt_tokens,
        most_tokens=load.most_tokens,
        prepared_at=time.time(),
    )


def listed(records: Iterable[BatchRecord]) -> str:
    """Return the names of batches, for a sentence."""
    names = [each.name for each in records]
    return f"the batch{'es' if len(names) > 1 else ''} {', '.join(names)}"


def again(record: BatchRecord) -> BatchRecord:
    """Return the record of a batch that the endpoint did not take, to be submitted again."""
    return replace(record, status=PREPARED, batch_id=None, num_done=0)


def batches_below(root: str) -> list[tuple[CompletionStore, BatchRecord]]:
    """Return the batches of all stores below a root that are not merged and cleared away yet, with their stores."""
    stores = storage.join(root, STORES)
    names = {path.split("/", 1)[0] for path in storage.list_tree(stores) if f"/{BATCHES}/" in path}
    found = [CompletionStore(root=root, name=name) for name in sorted(names)]
    return [(store, record) for store in found for record in batches_of(store).records()]
