"""The folder in which this node keeps models that it converted or brought, and what it knows of files' content."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_THREADS = 8


def cache_folder() -> Path:
    """Return the node's folder of models: below HYDRA_CACHE_DIR, or ~/.cache/hydra_ray."""
    root = os.environ.get("HYDRA_CACHE_DIR") or Path.home() / ".cache" / "hydra_ray"
    return Path(root).absolute() / "models"


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files below `folder`, by name; each is read once, and again only after it has changed."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: file_digest(folder / name), names), strict=True))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, which is read only if it has changed since it was last asked for."""
    path = path.resolve()
    found = path.stat()
    state = [str(path), found.st_size, found.st_mtime_ns]
    known = cache_folder() / "digests" / f"{hashlib.blake2b(str(path).encode(), digest_size=16).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        *told, digest = json.loads(known.read_bytes())
        if told == state:
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, hashlib.sha256).hexdigest()
    with contextlib.suppress(OSError):  # without it the file is read again, no more
        known.parent.mkdir(parents=True, exist_ok=True)
        write_whole(known, json.dumps([*state, digest]).encode())
    return digest


def write_whole(path: Path, content: bytes) -> None:
    """Put a file at `path`, all or nothing."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
