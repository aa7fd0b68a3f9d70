"""Models in an object store, fetched once per node.

A node keeps each version of a model in a separate folder. The folder's marker is written last, after each file was read
back from disk and its digests verified; a folder without it is never loaded, and the next process that needs the model
resumes where the last one was killed.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra_ray.errors import HydraError, ModelError
from hydra_ray.models.content import (
    CONFIG,
    Content,
    content_of,
    model_files,
    require_model,
    require_whole,
    weight_files,
)
from hydra_ray.models.folder import content_in, former_identity, identity_of
from hydra_ray.models.node_cache import alone, cache_folder, file_digest, write_whole
from hydra_ray.storage.locations import store_of
from hydra_ray.storage.s3 import S3Store, StoredObject, unreachable

PREFIX = "s3://"
PIN = "#"
"""Separator of a model's location and its required content."""
CHUNK_BYTES = 16 << 20
"""Bytes per range request, at most this many of which are lost when a process is killed."""
_CHUNKS_AT_ONCE = 8
_ATTEMPTS = 3
"""Maximum number of times a file is fetched because its bytes on disk differ from those received."""
_MARKER, _JOURNALS = ".brought.json", ".journals"
_CRC_BYTES = 4
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model below `location` in an object store; see `hydra_ray.models.Model`."""

    location: str
    content: str = ""
    """Required content; any content where empty."""

    @property
    def spec(self) -> str:
        """The model's name in a configuration."""
        return f"{self.location}{PIN}{self.content}" if self.content else self.location

    @property
    def place(self) -> str:
        """Location of the model without the required content."""
        return self.location

    def source(self, *, with_weights: bool) -> str:
        """Return a name of the objects as they are now; empty where a content is required."""
        if self.content:
            return ""
        return f"{self.location}{PIN}{_version(self.location, self._wanted(with_weights=with_weights))}"

    def pinned(self, identity: str) -> str:
        """Return the location with the required content."""
        return f"{self.location}{PIN}{content_in(identity)}"

    def fetch(self, *, with_weights: bool) -> Path:
        """Return the folder of this node that holds the model, fetching it first if needed.

        Raises:
            ModelError: it is not a model or not the required one, it was changed meanwhile, the disk is full, or the
                store refuses it.
        """
        with _model_errors(self.location):
            return self._bring(with_weights=with_weights)

    def identity(self, *, with_weights: bool) -> str:
        """Return the required content, or the actual one, for which the model is fetched or, if the disk is full,
        streamed."""
        known = self.content and Content.parse(self.content)
        if known and (known.weights or not with_weights):
            return identity_of(known if with_weights else known.without_weights())
        try:
            return identity_of(_content(_read_marker(self.fetch(with_weights=with_weights)) or {}))
        except _NoRoomError:
            return identity_of(self._read_through(with_weights=with_weights))

    def former_identity(self) -> str:
        """Return the former identity of a copy of the model in a folder."""
        objects = {name: each.num_bytes for name, each in self._objects().items()}
        shown = {name: size for name, size in objects.items() if not any(p.startswith(".") for p in name.split("/"))}
        return former_identity(shown, (self.fetch(with_weights=False) / CONFIG).read_bytes())

    def weight_bytes(self) -> int | None:
        """Return the size of the weights by the store's listing; None where there are none."""
        objects = self._objects()
        return sum(objects[name].num_bytes for name in weight_files(objects)) or None

    def missing_bytes(self) -> int:
        """Return the size of the model, unless it has been fetched."""
        wanted = self._wanted(with_weights=True)
        return 0 if _is_whole(self._place(wanted)) else sum(each.num_bytes for each in wanted.values())

    def _place(self, wanted: Mapping[str, StoredObject]) -> Path:
        """Return the folder of this node for these objects of the model, in their current version."""
        name = self.location.rstrip("/").rpartition("/")[2]
        return cache_folder() / f"{name}-{_version(self.location, wanted)}"

    def _bring(self, *, with_weights: bool) -> Path:
        wanted = self._wanted(with_weights=with_weights)
        folder = self._place(wanted)
        if not _is_whole(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with alone(folder):
                if not _is_whole(folder):
                    _Delivery(location=self.location, folder=folder, wanted=wanted).run()
        require_whole(folder, self.location, with_weights=with_weights)
        content = _content(_read_marker(folder) or {})
        if self.content and not content.agrees_with(Content.parse(self.content)):
            raise ModelError(
                f"{self.location} was replaced: it holds {content}, but the run was planned with {self.content}. Put "
                "different models in different folders, and start the run with the one it is to use."
            )
        return folder

    def _read_through(self, *, with_weights: bool) -> Content:
        """Return the content of the model without storing it: a planning node need not be able to load it."""
        _LOG.info("streaming %s to compute its digest, since there is no room for it here", self.location)
        digests: dict[str, str] = {}
        for name, listed in self._wanted(with_weights=with_weights).items():
            digest = hashlib.sha256()
            with _model_errors(self.location):
                store, path = _store(f"{self.location}/{name}")
                for chunk in _chunks(store, path, range(0, listed.num_bytes, CHUNK_BYTES), listed.num_bytes):
                    digest.update(chunk)
                _require_unchanged(store, path, listed)
            digests[name] = digest.hexdigest()
        return content_of(digests)

    def _wanted(self, *, with_weights: bool) -> dict[str, StoredObject]:
        objects = self._objects()
        if not objects:
            raise ModelError(f"nothing is at {self.location}. Put the model there: aws s3 cp --recursive FOLDER ...")
        require_model(objects, self.location, with_weights=with_weights)
        return {name: objects[name] for name in model_files(objects, with_weights=with_weights)}

    def _objects(self) -> dict[str, StoredObject]:
        with _model_errors(self.location):
            store, path = _store(self.location)
            return store.list_objects(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivery:
    """Fetches the objects of one model into one folder."""

    location: str
    folder: Path
    wanted: Mapping[str, StoredObject]

    def run(self) -> None:
        start = time.monotonic()
        for name, known in (_read_marker(self.folder) or {}).items():
            if _is_damaged(self.folder / name, known):
                _LOG.warning("%s was changed on this node's disk; it is fetched again", self.folder / name)
                self._drop(name)
        (self.folder / _MARKER).unlink(missing_ok=True)
        (self.folder / _JOURNALS).mkdir(parents=True, exist_ok=True)
        num_bytes = sum(each.num_bytes for each in self.wanted.values())
        present = sum(self._present(name) for name in self.wanted)
        self._require_room(num_bytes - present)
        kept = f", of which {present / 1e9:.2f} GB are here" if present else ""
        _LOG.info("fetching %s, %.2f GB%s, to %s", self.location, num_bytes / 1e9, kept, self.folder)
        try:
            entries = {name: self._bring(name) for name in self.wanted}
        except OSError as error:
            if error.errno in _FULL:
                raise self._no_room(num_bytes - sum(map(self._present, self.wanted))) from error
            raise
        write_whole(self.folder / _MARKER, json.dumps(entries).encode())
        _LOG.info("fetched %s in %.1f s", self.location, time.monotonic() - start)

    def _bring(self, name: str) -> dict[str, Any]:
        """Fetch one file; return its entry in the marker."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        store, path = _store(f"{self.location.rstrip('/')}/{name}")
        for _ in range(_ATTEMPTS):
            self._fetch(store, path, name)
            digests = _read_back(target, self._journal(name))
            if digests is not None:
                break
            _LOG.warning("%s is damaged on this node's disk; its damaged chunks are fetched again", target)
        else:
            raise ModelError(
                f"{target} was damaged at every attempt: check the disk, or set HYDRA_CACHE_DIR to another"
            )
        self._compare(store, path, name, digests)
        found = target.stat()
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": digests["sha256"]}

    def _fetch(self, store: S3Store, path: str, name: str) -> None:
        """Append the missing rest of a file, chunk by chunk."""
        target, journal = self.folder / name, self._journal(name)
        size = self.wanted[name].num_bytes
        start = _keep_good(target, journal)
        with target.open("ab") as file, journal.open("ab") as log:
            for chunk in _chunks(store, path, range(start, size, CHUNK_BYTES), size):
                _append(file, chunk)
                _append(log, zlib.crc32(chunk).to_bytes(_CRC_BYTES))

    def _compare(self, store: S3Store, path: str, name: str, digests: Mapping[str, str]) -> None:
        """Check that the object is still the one that was listed, and that the file has the digests that the store
        reports."""
        try:
            now = _require_unchanged(store, path, self.wanted[name])
        except ModelError:
            self._drop(name)
            raise
        for kind, expected in (("md5", now.md5), ("sha256", now.sha256)):
            if expected is not None and digests[kind] != expected:
                self._drop(name)
                raise ModelError(
                    f"s3://{path} was corrupted on the way: its {kind} is {digests[kind]}, expected "
                    f"{expected}. Run again; if the error persists, upload the model again."
                )

    def _drop(self, name: str) -> None:
        for path in (self.folder / name, self._journal(name)):
            path.unlink(missing_ok=True)

    def _journal(self, name: str) -> Path:
        return self.folder / _JOURNALS / name.replace("/", "__")

    def _present(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return min((self.folder / name).stat().st_size, self.wanted[name].num_bytes)
        return 0

    def _require_room(self, num_bytes: int) -> None:
        if num_bytes > shutil.disk_usage(self.folder).free:
            raise self._no_room(num_bytes)

    def _no_room(self, num_bytes: int) -> "_NoRoomError":
        free = shutil.disk_usage(self.folder).free
        return _NoRoomError(
            f"{self.location} needs {num_bytes / 1e9:.2f} GB more on this node, and {free / 1e9:.2f} GB are free at "
            f"{self.folder.parent}. Free space there, or set HYDRA_CACHE_DIR to a folder on a larger disk; what was "
            "fetched is kept."
        )


class _NoRoomError(ModelError):
    """A node has too little disk space for a model."""


def _chunks(store: S3Store, path: str, offsets: range, size: int) -> Iterator[bytes]:
    """Yield an object's bytes from each offset to the next, in order; several requests run concurrently."""
    if not offsets:
        return
    with _store_errors(path):
        source = store.arrow.open_input_file(path)

    def read(offset: int) -> bytes:
        wanted = min(CHUNK_BYTES, size - offset)
        with _store_errors(path):
            chunk = source.read_at(wanted, offset)
            if len(chunk) != wanted:
                raise EOFError(f"got {len(chunk)} bytes at {offset}, expected {wanted}")
        return chunk

    with source, ThreadPoolExecutor(_CHUNKS_AT_ONCE) as pool:
        for first in range(0, len(offsets), _CHUNKS_AT_ONCE):
            yield from pool.map(read, offsets[first : first + _CHUNKS_AT_ONCE])


def _require_unchanged(store: S3Store, path: str, listed: StoredObject) -> StoredObject:
    """Check that an object is still the one that was listed; return its current metadata."""
    now = store.describe(path)
    if now is None or now.etag != listed.etag:
        raise ModelError(
            f"s3://{path} was changed while it was read. Put different models in different folders, and run again "
            "when nothing writes there."
        )
    return now


def _append(file: Any, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fdatasync(file.fileno())


def _keep_good(target: Path, journal: Path) -> int:
    """Truncate a file at its first chunk with a wrong checksum; return its size then."""
    crcs = journal.read_bytes() if journal.exists() else b""
    good = 0
    if target.exists():
        with target.open("rb") as file:
            for place in range(0, len(crcs) - _CRC_BYTES + 1, _CRC_BYTES):
                chunk = file.read(CHUNK_BYTES)
                if not chunk or zlib.crc32(chunk) != int.from_bytes(crcs[place : place + _CRC_BYTES]):
                    break
                good += len(chunk)
        os.truncate(target, good)
    if crcs:
        os.truncate(journal, -(-good // CHUNK_BYTES) * _CRC_BYTES)
    return good


def _read_back(target: Path, journal: Path) -> dict[str, str] | None:
    """Return the digests of a file as it is on disk; None where it differs from the received bytes."""
    crcs = journal.read_bytes() if journal.exists() else b""
    sha256, md5, found = hashlib.sha256(), hashlib.md5(usedforsecurity=False), b""
    with target.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found += zlib.crc32(chunk).to_bytes(_CRC_BYTES)
            sha256.update(chunk)
            md5.update(chunk)
    return {"sha256": sha256.hexdigest(), "md5": md5.hexdigest()} if found == crcs else None


def _is_whole(folder: Path) -> bool:
    """Return whether a model was fetched completely and its files are unchanged."""
    entries = _read_marker(folder)
    return entries is not None and not any(_is_damaged(folder / name, known) for name, known in entries.items())


def _is_damaged(path: Path, known: Mapping[str, Any]) -> bool:
    """Return whether a file has changed since it was fetched; one with the same size and time is not read."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    if found.st_size != known["size"]:
        return True
    return found.st_mtime_ns != known["mtime_ns"] and file_digest(path) != known["sha256"]


def _read_marker(folder: Path) -> dict[str, dict[str, Any]] | None:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / _MARKER).read_bytes())
    return None


def _content(entries: Mapping[str, Mapping[str, Any]]) -> Content:
    return content_of({name: each["sha256"] for name, each in entries.items()})


def _version(location: str, wanted: Mapping[str, StoredObject]) -> str:
    states = [location.rstrip("/"), *sorted((name, each.num_bytes, each.etag) for name, each in wanted.items())]
    return hashlib.blake2b(repr(states).encode(), digest_size=8).hexdigest()


def _store(location: str) -> tuple[S3Store, str]:
    store, path = store_of(location)
    assert isinstance(store, S3Store)
    return store, path


@contextlib.contextmanager
def _model_errors(location: str) -> Iterator[None]:
    """Convert errors of a store or a disk into errors about the model."""
    try:
        yield
    except ModelError:
        raise
    except HydraError as error:
        raise ModelError(f"cannot fetch the model {location}: {error}") from error
    except OSError as error:
        raise ModelError(
            f"cannot store the model {location} at {cache_folder()}: {error}. Set HYDRA_CACHE_DIR to a folder that "
            "this node can write"
        ) from error


@contextlib.contextmanager
def _store_errors(path: str) -> Iterator[None]:
    """Convert read errors into errors of the store, to distinguish them from errors of this node's disk."""
    try:
        yield
    except (OSError, EOFError) as error:
        raise unreachable(path, error) from error
