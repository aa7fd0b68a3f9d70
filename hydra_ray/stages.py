"""Content-addressed stages: fingerprint, part-level commit, skip before read.

A stage turns tables into tables. Its folder is named by a fingerprint of everything its result depends on: its own
settings, the fingerprints of its inputs, and a version number that is raised when its code changes meaning. A part
(one bucket of users) is committed by one atomic write; the manifest is written last and says that all parts are there.
So a folder with a manifest is never computed again, and in one without only the missing parts are.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from hydra_ray import storage
from hydra_ray.errors import StorageError

MANIFEST = "manifest.json"


def fingerprint(name: str, version: int, settings: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Sixteen hex digits that name a stage's result.

    Args:
        settings: what the stage's result depends on besides its inputs; pydantic models or plain JSON values.
        inputs: fingerprints of the stages (or raw files) it reads, in a fixed order.
    """
    text = json.dumps([name, version, _plain(settings), list(inputs)], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def bucket_of(user_id: str, num_buckets: int, key: str) -> int:
    """The bucket of a user: a keyed hash, so that ids cannot be guessed from places and load is even."""
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8, key=key.encode()).digest()
    return int.from_bytes(digest, "big") % num_buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage's folder: where its tables, its other artefacts and its manifest are."""

    name: str
    """Dotted, such as "probes" or "reranker.base"."""
    fingerprint: str
    root: str
    """storage.root of the run."""
    num_buckets: int
    """Buckets that users are divided into."""
    only_buckets: tuple[int, ...] | None = None
    """The buckets that the stage consists of, where it is not made of all of them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For the manifest: what the fingerprint was made of."""
    inputs: tuple[str, ...] = ()
    """For the manifest: fingerprints of the stages whose results it reads."""

    @property
    def buckets(self) -> Sequence[int]:
        """The buckets that the stage consists of, ascending."""
        return range(self.num_buckets) if self.only_buckets is None else self.only_buckets

    @property
    def folder(self) -> str:
        """Location of everything that the stage writes."""
        return storage.join(self.root, "stages", *self.name.split("."), self.fingerprint)

    @property
    def manifest_location(self) -> str:
        """Location of the manifest."""
        return storage.join(self.folder, MANIFEST)

    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return storage.exists(self.manifest_location)

    def part(self, table: str, bucket: int) -> str:
        """Location of one part of one of the stage's tables."""
        return storage.join(self.folder, table, f"bucket-{bucket:05d}.parquet")

    def parts(self, table: str) -> list[str]:
        """Locations of all parts of a table, present or not, in bucket order."""
        return [self.part(table, bucket) for bucket in self.buckets]

    def missing_buckets(self, table: str) -> list[int]:
        """Buckets whose part of `table` has not been committed."""
        present = set(storage.list_files(storage.join(self.folder, table)))
        return [b for b in self.buckets if self.part(table, b).rsplit("/", 1)[1] not in present]

    def committed_buckets(self, table: str) -> list[int]:
        """Buckets whose part of `table` has been committed."""
        missing = set(self.missing_buckets(table))
        return [bucket for bucket in self.buckets if bucket not in missing]

    def plain_settings(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return _plain(self.settings)

    def complete(self, seconds: float, counters: Mapping[str, float]) -> None:
        """Write the manifest: from now on the stage is skipped."""
        storage.write_json(
            self.manifest_location,
            {
                "stage": self.name,
                "fingerprint": self.fingerprint,
                "num_buckets": self.num_buckets,
                "inputs": list(self.inputs),
                "settings": self.plain_settings(),
                "seconds": round(seconds, 3),
                "counters": dict(counters),
                "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            StorageError: the stage is not complete.
        """
        if not self.is_complete():
            raise StorageError(f"stage {self.name} is not complete: no {self.manifest_location}")
        return storage.read_json(self.manifest_location)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in settings.items()
    }
