"""Tables of an object store that a piece of work reads once, however often it opens them.

During a block each is one request, and what is written in it is not read back. What was read may travel with the work
to another process, which then reads it no more. Every reader checks what it gets, as if it came from the store. Local
files are left to the system, which keeps them in memory too.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO

from hydra_ray.storage.locations import store_of
from hydra_ray.storage.s3 import WHOLE_BYTES, S3Store, StoredFile
from hydra_ray.storage.sealed_parquet import OpenedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """A small table as it is stored. Key: location."""

    location: str
    content: bytes


_files: ContextVar[dict[str, StoredFile] | None] = ContextVar("files", default=None)


@contextmanager
def reading_once(known: Iterable[ReadFile] = ()) -> Iterator[Callable[[], list[ReadFile]]]:
    """Read each table of an object store only once during the block, in which nobody else changes one; yield a function
    that returns what was read. As much of each stays in memory as the first read brought.

    Args:
        known: what was read before, such as by another process.
    """
    files: dict[str, StoredFile] = {}
    for each in known:
        _keep(files, each.location, each.content)
    token = _files.set(files)
    try:
        yield lambda: [
            ReadFile(location=location, content=content)
            for location, file in files.items()
            if (content := file.whole()) is not None
        ]
    finally:
        _files.reset(token)


def opened_once(location: str, open_file: Callable[[], StoredFile | OpenedFile]) -> StoredFile | OpenedFile:
    """Return the table at a location, which is opened where it has not been."""
    files = _files.get()
    if files is not None and location in files:
        return files[location]
    file = open_file()
    if files is not None and isinstance(file, StoredFile):
        files[location] = file
    return file


def was_opened(location: str) -> bool:
    """Return whether a table has been opened in the block that reads once."""
    return location in (_files.get() or ())


def keep_written(location: str, file: IO[bytes]) -> None:
    """Keep a small table that is being written to an object store, so that it need not be read back.

    Args:
        file: the temporary file that will be uploaded.
    """
    files = _files.get()
    if files is None or not store_of(location)[0].is_remote:
        return
    file.flush()
    if os.path.getsize(file.name) < WHOLE_BYTES:
        with open(file.name, "rb") as written:
            _keep(files, location, written.read())


def changed_at(location: str) -> None:
    """Forget the table at a location, or those below a folder, because it changes."""
    files = _files.get() or {}
    for each in [each for each in files if each == location or each.startswith(f"{location.rstrip('/')}/")]:
        del files[each]


def _keep(files: dict[str, StoredFile], location: str, content: bytes) -> None:
    store, path = store_of(location)
    assert isinstance(store, S3Store), "a local file is read again"
    files[location] = StoredFile(store, path, content)
