"""Temporary folders of this package, all of which are made here, so that none outlasts the process that made it.

They may hold texts of users: raw files are sorted in them, and parts of tables wait there for their upload. A process
that is killed cannot remove its own. So each holds a file that its owner has locked, which the kernel unlocks when the
owner ends, whatever ends it; whoever gets the lock knows that nobody uses the folder any more. Process ids, which are
used again and mean nothing in another container, are not looked at.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hydra_ray.errors import StorageError

PREFIX = "hydra_ray-owned-"
"""Beginning of the names of all temporary folders, which no other folder of that place has."""
_LOCK = ".owner"
_FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What was found of killed processes where temporary folders are made. Key: (host, folder)."""

    host: str
    folder: str
    """The folder that TMPDIR names, or the system's."""
    num_removed: int
    num_in_use: int
    """Number of folders whose owners are alive; they remove them."""
    num_kept: int
    """Number of folders that could not be removed or looked at, such as those of another user of the machine."""

    def __str__(self) -> str:
        return (
            f"{self.folder} (TMPDIR) on {self.host}: {self.num_removed} temporary folders of ended processes removed, "
            f"{self.num_in_use} in use, {self.num_kept} of other users of the machine not looked at"
        )


@contextmanager
def temporary_folder(purpose: str) -> Iterator[str]:
    """Make a folder that is removed after the block; first, remove those of processes that were killed.

    Args:
        purpose: part of its name.
    """
    remove_leftovers()
    folder, lock = _new_folder(purpose)
    try:
        inner = os.path.join(folder, _FILES)  # of which the lock is none
        os.mkdir(inner)
        yield inner
    finally:
        with contextlib.suppress(OSError):
            _remove(folder)
        lock.close()


def temporary_file() -> IO[bytes]:
    """Return a new open file without a name, of which nothing outlasts the process."""
    return tempfile.TemporaryFile()


def new_folder_beside(folder: Path) -> str:
    """Return a new folder that is to be renamed to `folder`, once it is filled."""
    return tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent)


def temporary_place() -> str:
    """Return the folder that temporary folders are made in."""
    return tempfile.gettempdir()


def remove_leftovers() -> Leftovers:
    """Remove the temporary folders of this user's processes on this machine that have ended."""
    place = temporary_place()
    counts = {True: 0, False: 0, None: 0}
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                counts[_remove_if_left(entry)] += 1
    return Leftovers(
        host=socket.gethostname(),
        folder=place,
        num_removed=counts[True],
        num_in_use=counts[False],
        num_kept=counts[None],
    )


def _new_folder(purpose: str) -> tuple[str, IO[bytes]]:
    """Return a new folder and its locked file.

    Raises:
        StorageError: no folder can be made and locked there.
    """
    while True:
        try:
            folder = tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-")
        except OSError as error:
            raise _unusable(error) from error
        try:
            return folder, _locked(os.path.join(folder, _LOCK))
        except FileNotFoundError:
            continue  # another process found it before it was locked, and removed it
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _unusable(error) from error


def _locked(path: str) -> IO[bytes]:
    """Return a new file that is locked.

    Raises:
        FileNotFoundError: another process removed it before.
    """
    lock = open(path, "xb")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
            raise FileNotFoundError(path)
    except BaseException:
        lock.close()
        raise
    return lock


def _unusable(error: OSError) -> StorageError:
    return StorageError(
        f"no temporary folder can be made and locked in {temporary_place()} ({error.strerror}). Set TMPDIR to a folder "
        "of this machine's own disk with free space, whose file system has file locks (flock)."
    )


def _remove_if_left(entry: "os.DirEntry[str]") -> bool | None:
    """Remove a folder unless its owner is alive; return whether it was removed, None where that is not known."""
    try:
        if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
            return None
        with open(os.path.join(entry.path, _LOCK), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(entry.path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return _remove_unlocked(entry.path)
    except OSError:
        return None
    return True


def _remove(folder: str) -> None:
    """Remove a folder, its lock last: without it, the rest would never be found again after a kill in between."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(os.path.join(folder, _FILES))
    shutil.rmtree(folder)


def _remove_unlocked(path: str) -> bool | None:
    """Remove a folder without a lock: one that was just made is empty, and its owner makes another one."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return None
    return True
