"""Objects of a store that speaks S3, by `bucket/key`.

Requests go through s3fs, which queries one object without listing a folder, uploads atomically (so a part of a table is
committed by one upload), and supports conditional writes. A table is read from its end: one request brings all of a
small one (`StoredFile`). Files of other programs are read through pyarrow. Both libraries retry throttled (503) and
interrupted requests a limited number of times, with exponential back-off.

Credentials come from the standard chain alone (environment, ~/.aws, the machine's role); this module neither takes nor
logs them.
"""

import base64
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from hydra_ray.errors import ConfigError, StorageError
from hydra_ray.temporary import temporary_folder, temporary_place

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Environment variables that may hold the store's URL; the first that is set counts."""
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""Environment variables that may hold the region; the first that is set counts."""
_ATTEMPTS = 8
"""Maximum number of attempts of a request; with the pauses between them, about half a minute."""
_CHUNK_BYTES = 16 << 20
_SOURCE_BYTES = 8 << 20
"""Size of a request when a raw file is streamed."""
_THREADS = 32
_MAX_OWN = 1024
"""Number of objects, such as leases, of which the last written content and tag are kept in memory."""
WHOLE_BYTES = 8 << 20
"""Size of the first read of a table of which all is wanted; most need no other."""
_LISTED_TOGETHER = 8
"""Smallest number of objects of a folder that are looked for by a listing first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """Metadata of an object as its store reports it."""

    num_bytes: int
    etag: str
    """Entity tag, which changes with the content."""
    md5: str | None = None
    """MD5 of the content in hex; None where the store does not report it."""
    sha256: str | None = None
    """SHA-256 of the content in hex; None where the store does not report it."""


class _OwnObject(NamedTuple):
    """An object as this process has written it on a condition."""

    content: bytes
    etag: str


class S3Store:
    """Objects by `bucket/key`; `hydra_ray.storage` documents the contract of each method."""

    is_remote = True

    def __init__(self, endpoint: str | None, region: str):
        """Connect to the endpoint, or to AWS where none is given."""
        import s3fs

        # It logs in every process where it found credentials.
        logging.getLogger("aiobotocore").setLevel(logging.WARNING)
        retries = pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
        self.arrow: pafs.FileSystem = pafs.S3FileSystem(
            region=region, endpoint_override=endpoint, retry_strategy=retries
        )
        # Stores other than AWS rarely support virtual-hosted buckets.
        style = {"s3": {"addressing_style": "path"}} if endpoint else {}
        # s3fs itself retries interrupted reads, so botocore needs fewer attempts.
        self._objects = s3fs.S3FileSystem(
            endpoint_url=endpoint,
            client_kwargs={"region_name": region},
            config_kwargs={"retries": {"mode": "standard", "max_attempts": _ATTEMPTS // 2}, **style},
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self._own: dict[str, _OwnObject] = {}

    def state(self, path: str) -> tuple[int, int] | None:
        """Return the size in bytes and the modification time in nanoseconds; None if there is no object."""
        bucket, _, key = path.partition("/")
        with _store_errors(path):
            try:
                head: Any = self._objects.call_s3("head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                return None
        return head["ContentLength"], int(head["LastModified"].timestamp()) * 10**9

    def present(self, paths: Iterable[str]) -> list[bool]:
        """Return whether an object is at each path.

        Of a folder with many of them a listing tells: where it is empty, that none is there; else what it lacks is
        queried by itself, for it may be stale.
        """
        paths = list(paths)
        folders = Counter(path.rpartition("/")[0] for path in paths)
        with ThreadPoolExecutor(_THREADS) as pool:
            long = [folder for folder, number in folders.items() if number >= _LISTED_TOGETHER]
            found = pool.map(lambda folder: self.list_files(folder, is_recursive=False), long)
            names = dict(zip(long, found, strict=True))
            listed = {f"{folder}/{name}" for folder, own in names.items() for name in own}
            empty = {folder for folder, own in names.items() if not own}
            left = [path for path in paths if path not in listed and path.rpartition("/")[0] not in empty]
            listed.update(path for path, state in zip(left, pool.map(self.state, left), strict=True) if state)
        return [path in listed for path in paths]

    def content(self, path: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        with _store_errors(path):
            return self._content(path)

    def table_file(self, path: str, tail_bytes: int) -> "StoredFile":
        """Open a table, of which the last bytes are read at once.

        Raises:
            FileNotFoundError: there is no object.
        """
        tail = self.read_range(path, -tail_bytes)
        return StoredFile(self, path, tail, is_whole=len(tail) < tail_bytes)

    def read_range(self, path: str, start: int, end: int | None = None) -> bytes:
        """Return some bytes of an object, in one request; with a negative start as many from its end.

        Raises:
            FileNotFoundError: there is no object.
        """
        try:
            with _store_errors(path, is_missing_told=True):
                return self._objects.cat_file(path, start=start, end=end)  # pyright: ignore[reportReturnType]
        except StorageError as error:
            if _code(error.__cause__) == "InvalidRange":  # of an empty object
                return b""
            raise

    def source(self, path: str) -> IO[bytes]:
        """Open an object of whatever key for reading; pyarrow takes no key with an empty, `.` or `..` component."""
        with _store_errors(path):
            return self._objects.open(path, "rb", block_size=_SOURCE_BYTES)  # pyright: ignore[reportReturnType]

    def glob(self, pattern: str) -> list[str]:
        """Return the paths of the objects and folders that match a pattern, unordered."""
        with _store_errors(pattern):
            return self._objects.glob(pattern)  # pyright: ignore[reportReturnType]

    def list_files(self, path: str, *, is_recursive: bool) -> list[str]:
        """Return the relative keys below a folder, unordered.

        Empty objects whose keys end with a slash mark folders for some libraries; they are left out.
        """
        return [key for key, _ in self._listed(path, "" if is_recursive else "/")]

    def file_sizes(self, path: str) -> dict[str, int]:
        """Return the sizes in bytes of all objects below a folder, by relative key."""
        return {key: each["Size"] for key, each in self._listed(path)}

    def list_objects(self, path: str) -> dict[str, StoredObject]:
        """Return the metadata of the objects below a folder, by relative key."""
        return {
            key: StoredObject(num_bytes=each["Size"], etag=each["ETag"].strip('"')) for key, each in self._listed(path)
        }

    def _listed(self, path: str, delimiter: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield relative key and metadata of the objects below a folder, a request for each thousand."""
        bucket, _, prefix = (path.rstrip("/") + "/").partition("/")
        token: dict[str, str] = {}
        while True:
            with _store_errors(path):
                page: Any = self._objects.call_s3(
                    "list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter=delimiter, **token
                )
            for each in page.get("Contents", ()):
                if not each["Key"].endswith("/"):
                    yield each["Key"].removeprefix(prefix), each
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def describe(self, path: str) -> StoredObject | None:
        """Return the metadata of an object, digests included; None if there is no object."""
        bucket, _, key = path.partition("/")
        with _store_errors(path):
            try:
                head: Any = self._objects.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            except FileNotFoundError:
                return None
        etag, checksum = head["ETag"].strip('"'), head.get("ChecksumSHA256", "-")
        # For multipart uploads and customer-managed encryption neither is the digest of the content.
        is_plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
        return StoredObject(
            num_bytes=head["ContentLength"],
            etag=etag,
            md5=etag if is_plain and re.fullmatch("[0-9a-f]{32}", etag) else None,
            sha256=None if "-" in checksum else base64.b64decode(checksum).hex(),
        )

    def remove_file(self, path: str) -> None:
        """Remove an object if it exists."""
        bucket, _, key = path.partition("/")
        self._own.pop(path, None)
        with _store_errors(path):
            self._objects.call_s3("delete_object", Bucket=bucket, Key=key)

    def remove_folder(self, path: str) -> None:
        """Remove every object below a folder."""
        with _store_errors(path):
            try:
                self._objects.rm(path.rstrip("/") + "/", recursive=True)
            except FileNotFoundError:
                return

    def move(self, path: str, destination: str) -> None:
        """Rename an object by copy and delete; for a moment both keys exist."""
        with _store_errors(path):
            self._objects.mv(path, destination)

    @contextmanager
    def output(self, path: str) -> Iterator[IO[bytes]]:
        """Open a new file, which is uploaded to `path` only if the block ends without an error."""
        try:
            with temporary_folder("upload") as folder, open(os.path.join(folder, "object"), "wb") as file:
                yield file
                file.flush()
                with _store_errors(path):
                    self._objects.put_file(file.name, path, chunksize=_CHUNK_BYTES)
        except StorageError:
            raise
        except OSError as error:
            folder = temporary_place()
            raise StorageError(
                f"cannot buffer s3://{path} in {folder} ({shutil.disk_usage(folder).free >> 20} MB free) before the "
                f"upload: {error}. Free space there or set TMPDIR, and run again: what was committed is kept."
            ) from error

    def put(self, path: str, content: bytes) -> None:
        """Upload a whole object to `path`."""
        with _store_errors(path):
            self._objects.pipe_file(path, content)

    def put_new(self, path: str, content: bytes) -> bool:
        """Create an object at `path` unless one exists; return whether it was created."""
        with _store_errors(path):
            return self._put_if(path, content, IfNoneMatch="*")

    def put_over(self, path: str, expected: bytes, content: bytes) -> bool:
        """Replace an object whose content is `expected`; return whether it was replaced."""
        bucket, _, key = path.partition("/")
        own = self._own.get(path)
        with _store_errors(path):
            if own is not None and own.content == expected:
                return self._put_if(path, content, IfMatch=own.etag)
            try:
                head: Any = self._objects.call_s3("head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                return False
            return self._content(path) == expected and self._put_if(path, content, IfMatch=head["ETag"])

    def _put_if(self, path: str, content: bytes, **condition: str) -> bool:
        bucket, _, key = path.partition("/")
        self._own.pop(path, None)
        try:
            stored: Any = self._objects.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
        except OSError as error:
            if not _is_refused(error):
                raise
            # A retried request whose first response was lost finds the object that it wrote itself.
            return self._content(path) == content
        for oldest in list(self._own)[: max(len(self._own) + 1 - _MAX_OWN, 0)]:
            self._own.pop(oldest, None)
        self._own[path] = _OwnObject(content, stored["ETag"])
        return True

    def _content(self, path: str) -> bytes | None:
        try:
            # In one request: s3fs does not retry interrupted concurrent range requests.
            return self._objects.cat_file(path, max_concurrency=1)  # pyright: ignore[reportReturnType]
        except FileNotFoundError:
            return None


class StoredFile:
    """A table's file, whose end is in memory: all of it, where it is small. Other bytes are a request each time."""

    is_remote = True

    def __init__(self, store: S3Store, path: str, tail: bytes, *, is_whole: bool = True):
        """Take the last bytes, which may be all."""
        self._store, self._path, self._tail = store, path, tail
        self._tail_start: int | None = 0 if is_whole else None

    def whole(self) -> bytes | None:
        """Return the content, where all of it is in memory."""
        return self._tail if self._tail_start == 0 else None

    def size(self) -> int:
        """Return the number of bytes, with a request where they are not all in memory."""
        if self._tail_start is None:
            found = self._store.state(self._path)
            self.place(len(self._tail) if found is None else found[0])
        return (self._tail_start or 0) + len(self._tail)

    def tail(self, num_bytes: int) -> bytes:
        """Return the last bytes, fewer where there are no more."""
        if num_bytes > len(self._tail) and self._tail_start != 0:
            return self._store.read_range(self._path, -num_bytes)
        return self._tail[-num_bytes:]

    def place(self, num_bytes: int) -> None:
        """Say how many bytes there are."""
        self._tail_start = max(num_bytes - len(self._tail), 0)

    def read_into(self, start: int, content: memoryview) -> None:
        """Fill `content` with the bytes from `start` on."""
        tail_start = self.size() - len(self._tail)
        end = start + len(content)
        split = min(max(tail_start, start), end)
        if start < split:
            found = self._store.read_range(self._path, start, split)
            content[: len(found)] = found
        if split < end:
            found = self._tail[split - tail_start : end - tail_start]
            content[split - start :][: len(found)] = found

    def arrow_file(self) -> pa.NativeFile:
        """Return the file for readers of Arrow's own."""
        return self._store.arrow.open_input_file(self._path)

    def close(self) -> None:
        """Do nothing: no connection is held."""


def s3_store(path: str) -> S3Store:
    """Return the store that holds `path`, at the endpoint and region that the environment names.

    Raises:
        ConfigError: the endpoint is not a URL.
    """
    endpoint = _first_set(ENDPOINTS)
    if endpoint is not None and not re.match("https?://[^/]", endpoint):
        raise ConfigError(
            f"the store's endpoint in {' or '.join(ENDPOINTS)} is {endpoint!r}; expected a URL such as http://minio:9000"
        )
    region = _first_set(REGIONS)
    if region is None:
        region = "us-east-1" if endpoint else _region_of(path.partition("/")[0])
    return _connected(endpoint, region)


@cache
def _connected(endpoint: str | None, region: str) -> S3Store:
    return S3Store(endpoint, region)


@cache
def _region_of(bucket: str) -> str:
    with _store_errors(bucket):
        return pafs.resolve_s3_region(bucket)


def _first_set(names: Iterable[str]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _is_refused(error: OSError) -> bool:
    """Return whether a conditional request failed its condition; s3fs has no exception class for this."""
    return _code(error) in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")


def _code(error: BaseException | None) -> str | None:
    """Return the store's own word for what it refused."""
    return getattr(getattr(error, "__cause__", None), "response", {}).get("Error", {}).get("Code")


@contextmanager
def _store_errors(path: str, *, is_missing_told: bool = False) -> Iterator[None]:
    """Convert any failure of a store into a StorageError that names the object and what to check.

    Args:
        is_missing_told: whether to leave FileNotFoundError as it is.
    """
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except StorageError:
        raise
    except (OSError, BotoCoreError, ClientError) as error:
        if is_missing_told and isinstance(error, FileNotFoundError):
            raise
        raise unreachable(path, error) from error


def unreachable(path: str, error: Exception) -> StorageError:
    """Return the error for a request that a store did not fulfil."""
    endpoint = _first_set(ENDPOINTS) or "AWS"
    return StorageError(
        f"s3://{path} at {endpoint}: {error}. Check the bucket, the store (storage.endpoint or AWS_ENDPOINT_URL_S3, "
        "storage.region or AWS_REGION), and that the credentials found by the standard chain (environment, ~/.aws, the "
        "machine's role) may list, read, write and delete there; then run again: what was committed is kept."
    )
