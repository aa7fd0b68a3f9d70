"""Local files, or files of a mounted file system.

A file is written under a temporary name, flushed to disk and renamed, so no reader sees a partial file, and a full disk
leaves nothing behind.
"""

import errno
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

import pyarrow.fs as pafs

from hydra_ray.errors import StorageError
from hydra_ray.storage.sealed_parquet import OpenedFile

_FULL = (errno.ENOSPC, errno.EDQUOT)


class LocalStore:
    """Files by absolute path; `hydra_ray.storage` documents the contract of each method."""

    arrow: pafs.FileSystem = pafs.LocalFileSystem()
    is_remote = False

    def state(self, path: str) -> tuple[int, int] | None:
        """Return the size in bytes and the modification time in nanoseconds; None if there is no file."""
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise forbidden(path) from error
        except OSError as error:
            raise StorageError(f"cannot access {path} ({error.strerror or error}): set another path") from error
        return None if os.path.isdir(path) else (found.st_size, found.st_mtime_ns)

    def present(self, paths: Iterable[str]) -> list[bool]:
        """Return whether a file is at each path."""
        return [os.path.isfile(path) for path in paths]

    def content(self, path: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        try:
            with open(path, "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def table_file(self, path: str, tail_bytes: int) -> OpenedFile:  # noqa: ARG002 - the system reads ahead
        """Open a table.

        Raises:
            FileNotFoundError: there is no file.
        """
        return OpenedFile(self.arrow.open_input_file(path))

    def source(self, path: str) -> IO[bytes]:
        """Open a file of whatever name for reading."""
        return open(path, "rb")

    def glob(self, pattern: str) -> list[str]:
        """Return the paths of the files and folders that match a pattern, unordered, without dangling links."""
        # Links in a circle match without end, until the system follows them no further.
        return [path for path in glob.glob(pattern, recursive=True) if os.path.exists(path)]

    def list_files(self, path: str, *, is_recursive: bool) -> list[str]:
        """Return the relative paths of the files in a folder, unordered."""
        selector = pafs.FileSelector(path, allow_not_found=True, recursive=is_recursive)
        start = len(path.rstrip("/")) + 1
        return [info.path[start:] for info in self.arrow.get_file_info(selector) if info.is_file]

    def file_sizes(self, path: str) -> dict[str, int]:
        """Return the sizes in bytes of all files below a folder, by relative path."""
        selector = pafs.FileSelector(path, allow_not_found=True, recursive=True)
        start = len(path.rstrip("/")) + 1
        return {info.path[start:]: info.size for info in self.arrow.get_file_info(selector) if info.is_file}

    def remove_file(self, path: str) -> None:
        """Remove a file if it exists."""
        with _change_errors("remove", path), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)

    def remove_folder(self, path: str) -> None:
        """Remove a folder and everything below it, if it exists."""
        with _change_errors("remove", path), suppress(FileNotFoundError):
            shutil.rmtree(path)

    def move(self, path: str, destination: str) -> None:
        """Rename a file within its file system."""
        with _change_errors("rename", path):
            os.replace(path, destination)

    @contextmanager
    def output(self, path: str) -> Iterator[IO[bytes]]:
        """Open a new file, which appears at `path` only if the block ends without an error."""
        with self._temporary(path) as (file, temporary):
            yield file
            _flush(file)
            os.replace(temporary, path)

    def put(self, path: str, content: bytes) -> None:
        """Write a whole file to `path`."""
        with self.output(path) as file:
            file.write(content)

    def put_new(self, path: str, content: bytes) -> bool:
        """Create a file at `path` unless one exists; return whether it was created."""
        with self._temporary(path) as (file, temporary):
            file.write(content)
            _flush(file)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        return True

    def put_over(self, path: str, expected: bytes, content: bytes) -> bool:
        """Replace a file whose content is `expected`; return whether it was replaced.

        The lock is held only for the exchange, and the kernel releases it when its owner dies.
        """
        while os.path.exists(path):
            with _change_errors("write", path), suppress(FileNotFoundError), open(path, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_at(file, path):
                    continue  # another writer replaced the file while this one waited for the lock
                if file.read() != expected:
                    return False
                self.put(path, content)
                return True
        return False

    @contextmanager
    def _temporary(self, path: str) -> Iterator[tuple[IO[bytes], str]]:
        """Open a temporary file beside `path` and yield it with its name; remove it after the block unless it was
        renamed."""
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(temporary, "wb") as file:
                yield file, temporary
        except StorageError:
            raise
        except OSError as error:
            raise _unchanged("write", path, error) from error
        finally:
            with suppress(OSError):  # what prevented writing may prevent removing too
                os.unlink(temporary)


def forbidden(location: str) -> StorageError:
    """Return the error for a file that may not be read."""
    return StorageError(
        f"cannot read {location} (permission denied): give this program's user the right to read it, and to enter "
        "the folders above it"
    )


@contextmanager
def _change_errors(what: str, path: str) -> Iterator[None]:
    """Convert the system's error, such as that of a read-only file system, into one that names the file."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise _unchanged(what, path, error) from error


def _unchanged(what: str, path: str, error: OSError) -> StorageError:
    """Return the error for a file that could not be written, renamed or removed; nothing is left of a new one."""
    if error.errno in _FULL:
        folder = os.path.dirname(path)
        return StorageError(
            f"no room is left to write {path}: {error.strerror}. Nothing is left of it, what was committed is kept: "
            f"free space below {folder} (`df {folder}`) and run again."
        )
    return StorageError(
        f"cannot {what} {path}: {error}. What was committed is kept: run again when its folder can be written to."
    )


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _is_at(file: IO[bytes], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
