"""What a process writes below a folder: size, digest and counters of each file, so that none need be read again.

A stage records what it writes while it is being computed, on its workers too; its manifest then lists the digests.
Whatever is written in a way that tells no digest is left out, and so is what was removed or renamed.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file as it was written."""

    num_bytes: int
    digest: str
    """As its folder's listing has it; see `content_digest`."""
    counters: Mapping[str, float] = field(default_factory=dict)
    """Counters of a part of a table; none for other files."""


@dataclass(frozen=True, slots=True)
class _Recording:
    folder: str
    files: dict[str, Written]


_lock = threading.Lock()
_recordings: list[_Recording] = []


@contextmanager
def recording(folder: str, files: dict[str, Written] | None = None) -> Iterator[dict[str, Written]]:
    """Record, during the block, what this process writes below a folder, by path.

    Args:
        files: what is recorded already; is added to.
    """
    own = _Recording(folder.rstrip("/") + "/", {} if files is None else files)
    with _lock:
        _recordings.append(own)
    try:
        yield own.files
    finally:
        with _lock:
            _recordings[:] = [each for each in _recordings if each is not own]


def is_recorded(location: str) -> bool:
    """Return whether what is written to a location is recorded, because its folder is still being made."""
    return any(location.startswith(each.folder) for each in _recordings)


def record(location: str, written: Written | None) -> None:
    """Record that a file was written; None where it is not known as what, or where it is gone."""
    with _lock:
        for each in _recordings:
            if location.startswith(each.folder):
                path = location.removeprefix(each.folder)
                if written is None:
                    each.files.pop(path, None)
                else:
                    each.files[path] = written


def recorded_at(location: str) -> Written | None:
    """Return what was recorded of a file; None where it is not."""
    with _lock:
        for each in _recordings:
            if location.startswith(each.folder):
                found = each.files.get(location.removeprefix(each.folder))
                if found is not None:
                    return found
    return None


def recorded_below(folder: str) -> dict[str, Written]:
    """Return what was recorded of the files below a folder, by path; nothing where it is not recorded."""
    below = folder.rstrip("/") + "/"
    found: dict[str, Written] = {}
    with _lock:
        for each in _recordings:
            if below.startswith(each.folder):
                start = below.removeprefix(each.folder)
                found |= {path.removeprefix(start): file for path, file in each.files.items() if path.startswith(start)}
    return found


def record_text(folder: str, text: str) -> None:
    """Record what another process has recorded below a folder."""
    for path, (num_bytes, digest, counters) in json.loads(text).items():
        record(f"{folder}/{path}", Written(num_bytes=num_bytes, digest=digest, counters=counters))


def record_removed(folder: str) -> None:
    """Record that everything below a folder is gone."""
    with _lock:
        for each in _recordings:
            below = folder.rstrip("/") + "/"
            for path in [path for path in each.files if f"{each.folder}{path}".startswith(below)]:
                del each.files[path]


def to_text(files: Mapping[str, Written]) -> str:
    """Return what was recorded as text, to be sent to another process; see `record_text`."""
    return json.dumps({path: astuple(each) for path, each in files.items()})
