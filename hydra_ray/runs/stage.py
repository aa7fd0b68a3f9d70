"""Content-addressed stages: fingerprint, atomic commit of each part, skip before read.

A stage turns tables into tables. Its folder is named by a fingerprint of everything its result depends on: its own
settings, the fingerprints of its inputs, and a version number that is raised when its code changes meaning. A part
(one bucket of users) is committed by one atomic write; the manifest is written last and states that all parts exist.
A folder with a manifest is never computed again; in one without, only the missing parts are computed.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from hydra_ray import storage
from hydra_ray.errors import DamagedError, StorageError
from hydra_ray.runs.settings import settings_of
from hydra_ray.storage.listing_updates import digests_of
from hydra_ray.storage.listings import FILES, MANIFEST, forget_listing

LEASE = "lease.json"
"""Name of the lease file in a stage's folder."""
_FORMAT = 1
"""Version of the manifest format."""
_MANIFEST_SHAPE: storage.Shape = {
    "stage": str,
    "fingerprint": str,
    "num_buckets": int,
    "inputs": list,
    "settings": dict,
    "seconds": (int, float),
    "counters": dict,
    "finished_at": str,
}
_TABLE_SUFFIX = ".parquet"
_LEFTOVERS = (".tmp", storage.DAMAGED_SUFFIX)
_THREADS = 8


def fingerprint(name: str, version: int, settings: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Return sixteen hex digits that name a stage's result.

    Args:
        settings: everything else that the result depends on; pydantic models or plain JSON values.
        inputs: fingerprints of the stages (or raw files) it reads, in a fixed order.
    """
    text = json.dumps([name, version, _plain(settings), list(inputs)], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def bucket_of(user_id: str, num_buckets: int, key: str) -> int:
    """Return the bucket of a user: a keyed hash, so that load is even and ids cannot be guessed from paths."""
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8, key=key.encode()).digest()
    return int.from_bytes(digest, "big") % num_buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Locations of a stage's tables, other artefacts and manifest."""

    name: str
    """Dotted, such as "probes" or "reranker.base"."""
    fingerprint: str
    root: str
    """Storage root of the run."""
    num_buckets: int
    """Number of buckets that users are divided into."""
    only_buckets: tuple[int, ...] | None = None
    """Buckets that the stage covers; None for all of them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings in the fingerprint, recorded in the manifest."""
    inputs: tuple[str, ...] = ()
    """Fingerprints of the stages that this one reads, recorded in the manifest."""

    @property
    def buckets(self) -> Sequence[int]:
        """Buckets that the stage covers, ascending."""
        return range(self.num_buckets) if self.only_buckets is None else self.only_buckets

    @property
    def folder(self) -> str:
        """Folder of everything that the stage writes."""
        return storage.join(self.root, "stages", *self.name.split("."), self.fingerprint)

    @property
    def lease_location(self) -> str:
        """Location of the stage's lease."""
        return storage.join(self.folder, LEASE)

    @property
    def manifest_location(self) -> str:
        """Location of the manifest."""
        return storage.join(self.folder, MANIFEST)

    def is_complete(self) -> bool:
        """Return whether the stage has a manifest, so that nothing is left to compute."""
        return storage.exists(self.manifest_location)

    def part(self, table: str, bucket: int) -> str:
        """Return the location of one part of one of the stage's tables."""
        return storage.join(self.folder, table, f"bucket-{bucket:05d}{_TABLE_SUFFIX}")

    def parts(self, table: str) -> list[str]:
        """Return the locations of all parts of a table, present or not, in bucket order."""
        return [self.part(table, bucket) for bucket in self.buckets]

    def missing_buckets(self, *tables: str) -> list[int]:
        """Return the buckets for which a part of any of the tables is missing."""
        left = list(self.buckets)
        for table in tables:  # a store is asked for no part of a bucket that lacks another one
            are_there = storage.present([self.part(table, bucket) for bucket in left])
            left = [bucket for bucket, is_there in zip(left, are_there, strict=True) if is_there]
        whole = set(left)
        return [bucket for bucket in self.buckets if bucket not in whole]

    def committed_buckets(self, table: str) -> list[int]:
        """Return the buckets whose part of `table` is committed."""
        missing = set(self.missing_buckets(table))
        return [bucket for bucket in self.buckets if bucket not in missing]

    def set_aside_damaged(self) -> list[str]:
        """Rename files in the folder that are truncated or no Parquet, so that they are computed again.

        Returns:
            Their former locations.
        """
        names = [name for name in storage.list_tree(self.folder) if name.endswith(_TABLE_SUFFIX)]
        locations = [storage.join(self.folder, name) for name in names]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(storage.set_aside_if_damaged, locations)
            return [location for location, is_damaged in zip(locations, found, strict=True) if is_damaged]

    def plain_settings(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return _plain(self.settings)

    def complete(self, seconds: float, counters: Mapping[str, float]) -> None:
        """Write the manifest, which lists the digests of the stage's files and after which the stage is skipped.

        Raises:
            StorageError: the footer of a table is damaged.
        """
        paths = storage.list_tree(self.folder)
        own = [path for path in paths if path not in (MANIFEST, LEASE) and not path.endswith(_LEFTOVERS)]
        storage.write_json(
            self.manifest_location,
            {
                "format": _FORMAT,
                "stage": self.name,
                "fingerprint": self.fingerprint,
                "num_buckets": self.num_buckets,
                "inputs": list(self.inputs),
                "settings": self.plain_settings(),
                "seconds": round(seconds, 3),
                "counters": dict(counters),
                "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                FILES: digests_of(self.folder, own),
            },
        )
        forget_listing(self.manifest_location)

    def manifest(self) -> dict[str, Any]:
        """Return the content of the manifest.

        Raises:
            StorageError: the stage is not complete, or the manifest is of another version or damaged.
        """
        if not self.is_complete():
            raise StorageError(f"stage {self.name} is not complete: no {self.manifest_location}")
        return read_manifest(self.manifest_location)


def read_manifest(location: str) -> dict[str, Any]:
    """Return the content of the manifest at `location`.

    Raises:
        StorageError: there is none, or it is of another version or damaged.
    """
    try:
        found = storage.read_json(location)
    except DamagedError as error:
        raise _no_manifest(location, str(error)) from error
    wrong = [name for name, kind in _MANIFEST_SHAPE.items() if not isinstance(found.get(name), kind)]
    if found.get("format", _FORMAT) != _FORMAT or wrong:
        raise _no_manifest(location, f"it has the keys {sorted(found)}, of which {wrong} are missing or of other types")
    if found["fingerprint"] != location.rsplit("/", 2)[-2]:
        raise _no_manifest(location, f"it is that of the stage {found['stage']}, {found['fingerprint']}")
    return found


def _no_manifest(location: str, reason: str) -> DamagedError:
    return DamagedError(
        f"{location} is no manifest of format {_FORMAT}: {reason}. Another version of hydra_ray wrote it, or it is "
        "damaged: use that version or another storage.root; or remove this file and run again, which keeps what is "
        "there; or remove the stage's folder."
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings_of(value) if isinstance(value, BaseModel) else value for key, value in settings.items()}
