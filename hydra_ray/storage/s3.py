"""Objects of a store that speaks S3, by `bucket/key`.

Tables are read through pyarrow, which reads only the ranges that it needs. Whatever else is done goes through s3fs: it
asks for one object without listing a folder, uploads all or nothing, and puts an object on a condition. Both repeat
what a store refuses for the moment (503) and what breaks off, a limited number of times, waiting longer each time.

Credentials come from the standard chain alone (environment, ~/.aws, the machine's role): nothing here takes or tells
them.
"""

import base64
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

import pyarrow.fs as pafs

from hydra_ray.errors import ConfigError, StorageError

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Environment variables that tell the store's URL, the first that is set."""
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""Environment variables that tell the region, the first that is set."""
_ATTEMPTS = 8
"""How often a request is sent at most; with the pauses between them that is about half a minute."""
_CHUNK_BYTES = 16 << 20
_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object as its store describes it."""

    num_bytes: int
    etag: str
    """Changes whenever the content does."""
    md5: str | None = None
    """Of the content, in hex digits, where the store tells it."""
    sha256: str | None = None
    """The same."""


class S3Store:
    """Objects by `bucket/key`; see `hydra_ray.storage`, whose functions say what each method promises."""

    is_remote = True

    def __init__(self, endpoint: str | None, region: str):
        """Connect, to AWS where there is no endpoint."""
        import s3fs

        # It tells in every process where it found credentials.
        logging.getLogger("aiobotocore").setLevel(logging.WARNING)
        retries = pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
        self.arrow: pafs.FileSystem = pafs.S3FileSystem(
            region=region, endpoint_override=endpoint, retry_strategy=retries
        )
        # Stores other than AWS seldom have a host name for each bucket.
        style = {"s3": {"addressing_style": "path"}} if endpoint else {}
        # s3fs itself repeats what it cannot read to the end, so that botocore need not be as patient.
        self._objects = s3fs.S3FileSystem(
            endpoint_url=endpoint,
            client_kwargs={"region_name": region},
            config_kwargs={"retries": {"mode": "standard", "max_attempts": _ATTEMPTS // 2}, **style},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def state(self, path: str) -> tuple[int, int] | None:
        """Size in bytes and time of the last change in nanoseconds; None where there is no object."""
        bucket, _, key = path.partition("/")
        with _asking(path):
            try:
                head: Any = self._objects.call_s3("head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                return None
        return head["ContentLength"], int(head["LastModified"].timestamp()) * 10**9

    def present(self, paths: Iterable[str]) -> list[bool]:
        """Whether an object is at each path: each is asked for by itself, because a listing may lag behind."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return [found is not None for found in pool.map(self.state, paths)]

    def content(self, path: str) -> bytes | None:
        """What an object holds; None where there is none."""
        with _asking(path):
            return self._content(path)

    def list_files(self, path: str, *, is_recursive: bool) -> list[str]:
        """Keys below a folder, relative to it, in no order.

        Libraries mark folders by empty objects whose keys end with a slash: those are left out.
        """
        folder = path.rstrip("/") + "/"
        with _asking(path):
            found: Any = self._objects.find(folder, maxdepth=None if is_recursive else 1)
        return [each.removeprefix(folder) for each in found if each.startswith(folder) and not each.endswith("/")]

    def list_objects(self, path: str) -> dict[str, StoredObject]:
        """The objects below a folder, by their keys relative to it."""
        folder = path.rstrip("/") + "/"
        with _asking(path):
            found: Any = self._objects.find(folder, detail=True)
        return {
            key.removeprefix(folder): StoredObject(num_bytes=each["size"], etag=each["ETag"].strip('"'))
            for key, each in found.items()
            if key.startswith(folder) and not key.endswith("/")
        }

    def describe(self, path: str) -> StoredObject | None:
        """What the store knows of an object's content; None where there is no object."""
        bucket, _, key = path.partition("/")
        with _asking(path):
            try:
                head: Any = self._objects.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            except FileNotFoundError:
                return None
        etag, checksum = head["ETag"].strip('"'), head.get("ChecksumSHA256", "-")
        # Of an object in parts, or one encrypted by a key of somebody's own, neither is the digest of the content.
        is_plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
        return StoredObject(
            num_bytes=head["ContentLength"],
            etag=etag,
            md5=etag if is_plain and re.fullmatch("[0-9a-f]{32}", etag) else None,
            sha256=None if "-" in checksum else base64.b64decode(checksum).hex(),
        )

    def remove_file(self, path: str) -> None:
        """Remove an object, if it is there."""
        bucket, _, key = path.partition("/")
        with _asking(path):
            self._objects.call_s3("delete_object", Bucket=bucket, Key=key)

    def remove_folder(self, path: str) -> None:
        """Remove every object below a folder."""
        with _asking(path):
            try:
                self._objects.rm(path.rstrip("/") + "/", recursive=True)
            except FileNotFoundError:
                return

    def move(self, path: str, destination: str) -> None:
        """Give an object another key; for a moment it has both."""
        with _asking(path):
            self._objects.mv(path, destination)

    @contextmanager
    def output(self, path: str) -> Iterator[IO[bytes]]:
        """A new file to fill, which is sent to `path` only after the block has ended without an error."""
        try:
            with tempfile.NamedTemporaryFile() as file:
                yield file  # pyright: ignore[reportReturnType]
                file.flush()
                with _asking(path):
                    self._objects.put_file(file.name, path, chunksize=_CHUNK_BYTES)
        except StorageError:
            raise
        except OSError as error:
            folder = tempfile.gettempdir()
            raise StorageError(
                f"cannot collect s3://{path} in {folder} ({shutil.disk_usage(folder).free >> 20} MB free) before it is "
                f"sent: {error}. Free space there or set TMPDIR, and run again: what was committed is kept."
            ) from error

    def put(self, path: str, content: bytes) -> None:
        """Put a whole object at `path`."""
        with _asking(path):
            self._objects.pipe_file(path, content)

    def put_new(self, path: str, content: bytes) -> bool:
        """Put an object at `path` unless one is there; whether it was put."""
        with _asking(path):
            return self._put_if(path, content, IfNoneMatch="*")

    def put_over(self, path: str, expected: bytes, content: bytes) -> bool:
        """Put an object in the place of one whose content is `expected`; whether it was put."""
        bucket, _, key = path.partition("/")
        with _asking(path):
            try:
                head: Any = self._objects.call_s3("head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                return False
            return self._content(path) == expected and self._put_if(path, content, IfMatch=head["ETag"])

    def _put_if(self, path: str, content: bytes, **condition: str) -> bool:
        bucket, _, key = path.partition("/")
        try:
            self._objects.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
        except OSError as error:
            if not _is_refused(error):
                raise
            # A request whose answer was lost is sent again, and then finds what it put itself.
            return self._content(path) == content
        return True

    def _content(self, path: str) -> bytes | None:
        try:
            # In one piece: what is fetched in several is not asked for again where it breaks off.
            return self._objects.cat_file(path, max_concurrency=1)  # pyright: ignore[reportReturnType]
        except FileNotFoundError:
            return None


def s3_store(path: str) -> S3Store:
    """Return the store that holds `path`: the endpoint and the region that the environment names.

    Raises:
        ConfigError: the endpoint is no URL.
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
    with _asking(bucket):
        return pafs.resolve_s3_region(bucket)


def _first_set(names: Iterable[str]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _is_refused(error: OSError) -> bool:
    """Whether a condition of a request did not hold: s3fs has no error of its own for this."""
    code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")


@contextmanager
def _asking(path: str) -> Iterator[None]:
    """Turns whatever goes wrong with a store into an error that says where, and what to do."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except StorageError:
        raise
    except (OSError, BotoCoreError, ClientError) as error:
        raise unreachable(path, error) from error


def unreachable(path: str, error: Exception) -> StorageError:
    """What is said where a store did not do what it was asked."""
    endpoint = _first_set(ENDPOINTS) or "AWS"
    return StorageError(
        f"s3://{path} at {endpoint}: {error}. Check the bucket, the store (storage.endpoint or AWS_ENDPOINT_URL_S3, "
        "storage.region or AWS_REGION), and that the credentials found by the standard chain (environment, ~/.aws, the "
        "machine's role) may list, read, write and delete there; then run again: what was committed is kept."
    )
