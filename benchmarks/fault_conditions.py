"""Lasting faults, until they are called off: a root that takes no writes, and a wall clock that is wrong.

Both are injected below everything that this package does: the first at the calls to the operating system of
`hydra_ray/storage/local.py`, because permissions mean nothing to a process of root's; the second at `time.time`.
Processes of one machine share them, by a file each: `broken-disk` in the folder of faults of a root, with the number
of the error; the file that CLOCK names in the environment, with seconds.
"""

import builtins
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra_ray.storage.local

CLOCK = "HYDRA_CHAOS_CLOCK"
"""Environment variable that names the file of the clock's error."""
_BROKEN = "broken-disk"
_true_time = time.time


def break_disk(folder: Path, error: int) -> None:
    """Let every write below the root beside `folder` fail.

    Args:
        error: EROFS, or ENOSPC, at which files can still be removed.
    """
    (folder / _BROKEN).write_text(str(error))


def mend_disk(folder: Path) -> None:
    """Let writes succeed again."""
    (folder / _BROKEN).unlink(missing_ok=True)


def set_clock(seconds: float) -> None:
    """Set the wall clock of all disturbed processes ahead by `seconds`, or back."""
    Path(os.environ[CLOCK]).write_text(str(seconds))


def right_clock() -> None:
    """Set the wall clock right."""
    if CLOCK in os.environ:
        Path(os.environ[CLOCK]).unlink(missing_ok=True)


def install(folder_of: Callable[[str], Path]) -> None:
    """Let this process meet lasting faults.

    Args:
        folder_of: returns the folder of faults of a location.
    """
    disk = _Disk(folder_of)
    local: Any = hydra_ray.storage.local
    local.open, local.os, local.shutil = disk.open, _Os(disk), _Shutil(disk)
    time.time = _wrong_time


def _wrong_time() -> float:
    try:
        with builtins.open(os.environ[CLOCK]) as file:
            return _true_time() + float(file.read() or 0)
    except (KeyError, OSError):
        return _true_time()


class _Disk:
    """What a disk permits."""

    def __init__(self, folder_of: Callable[[str], Path]):
        self._folder_of = folder_of

    def require(self, path: str, *errors: int) -> None:
        """Raise the disk's error, if it is one of `errors`."""
        try:
            error = int((self._folder_of(path) / _BROKEN).read_text())
        except (OSError, ValueError):
            return
        if error in errors:
            raise OSError(error, os.strerror(error), path)

    def open(self, path: str, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        """Open a file, for reading only if nothing can be written."""
        if set(mode) & set("wax+"):
            self.require(path, errno.EROFS, *([errno.ENOSPC] if "w" in mode else []))
        return builtins.open(path, mode, *arguments, **options)


class _Os:
    """The module `os`, on the disk."""

    def __init__(self, disk: _Disk):
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        if not os.path.isdir(path):
            self._disk.require(path, errno.EROFS, errno.ENOSPC)
        os.makedirs(path, exist_ok=exist_ok)

    def link(self, path: str, new: str) -> None:
        self._disk.require(new, errno.EROFS, errno.ENOSPC)
        os.link(path, new)

    def replace(self, path: str, new: str) -> None:
        self._disk.require(new, errno.EROFS)
        os.replace(path, new)

    def unlink(self, path: str) -> None:
        if os.path.lexists(path):
            self._disk.require(path, errno.EROFS)
        os.unlink(path)


class _Shutil:
    """The module `shutil`, on the disk."""

    def __init__(self, disk: _Disk):
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(shutil, name)

    def rmtree(self, path: str, *arguments: Any, **options: Any) -> None:
        if os.path.isdir(path):
            self._disk.require(path, errno.EROFS)
        shutil.rmtree(path, *arguments, **options)
