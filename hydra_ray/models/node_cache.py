"""Local cache of converted and fetched models, and of files' digests."""

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_THREADS = 8
_LOG = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return this node's folder of models: below HYDRA_CACHE_DIR, or ~/.cache/hydra_ray."""
    root = os.environ.get("HYDRA_CACHE_DIR") or Path.home() / ".cache" / "hydra_ray"
    return Path(root).absolute() / "models"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a lock that keeps other processes of this node from fetching the same model; it is released if the process
    dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _LOG.info("another process of this node is fetching %s; waiting for it", folder.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files below `folder`, by name; unchanged files are read only once."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: file_digest(folder / name), names), strict=True))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; it is read only if it has changed since the last call."""
    path = path.resolve()
    found = path.stat()
    state = [str(path), found.st_size, found.st_mtime_ns]
    known = cache_folder() / "digests" / f"{hashlib.blake2b(str(path).encode(), digest_size=16).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        *recorded, digest = json.loads(known.read_bytes())
        if recorded == state:
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, hashlib.sha256).hexdigest()
    with contextlib.suppress(OSError):  # the cost of a failure is only that the file is read again
        known.parent.mkdir(parents=True, exist_ok=True)
        write_whole(known, json.dumps([*state, digest]).encode())
    return digest


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
