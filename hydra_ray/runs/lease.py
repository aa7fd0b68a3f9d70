"""One owner at a time of a place below a root, such as the folder of a stage that is being made.

A lease is a small file. Whoever puts it there first owns the place, and changes the file every few seconds. Those who
wait watch whether it changes, by a clock of their own that never jumps, so that nobody's time of day matters. A lease
that has not changed for a minute, or whose process on this machine is gone, is taken over. Every change of owner is a
conditional write: of several who try, one wins.

Leases save work, results do not rest on them: a part is put whole and by its content, so an owner who was stopped for
long and comes back after a take-over leaves whole parts too, and is told.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hydra_ray import storage
from hydra_ray.errors import StorageError
from hydra_ray.rows import from_dict
from hydra_ray.runs.stage import LEASE, Stage

logger = logging.getLogger(__name__)

_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often owners and waiters look, in seconds."""

    beat_seconds: float = 10
    """Between two changes of a lease by its owner."""
    poll_seconds: float = 1
    """Between two looks of a waiter."""
    patience_seconds: float = 60
    """Without a change, after which the owner counts as dead."""


PACE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Content of a lease: who holds it. Key: name."""

    name: str
    """Of this holding alone."""
    host: str
    pid: int
    machine: str
    """Where the process number means this process: boot and process namespace; empty where that cannot be told."""
    started: str
    """When the process started, in the kernel's own count since the boot."""
    beat: int = 0
    """How often the owner has changed the lease."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Whether it is certain that the process has ended: only of processes of this machine."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started

    def is_here(self) -> bool:
        """Whether it is certain that the process lives."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) == self.started

    def content(self) -> bytes:
        """As the lease holds it."""
        return json.dumps(asdict(self)).encode()


@contextmanager
def lease(location: str, what: str, pace: Pace = PACE) -> Iterator[None]:
    """Hold the lease at `location` for the length of the block; first wait until nobody else does.

    Args:
        what: is to be done, for the log.

    Raises:
        StorageError: the lease cannot be read or written.
    """
    holding = _Holding(location=location, what=what, pace=pace, owner=_acquire(location, what, pace))
    beating = threading.Thread(target=holding.beat, name=f"lease of {what}", daemon=True)
    beating.start()
    try:
        yield
    finally:
        holding.is_over.set()
        beating.join()
        holding.release()


@contextmanager
def claim(stage: Stage, pace: Pace = PACE) -> Iterator[None]:
    """Hold a stage that is to be made, when no other run makes it and nobody is being forgotten."""
    forgetting, what = root_lease(stage.root), f"stage {stage.name}"
    while True:
        with lease(stage.lease_location, what, pace):
            # Whoever forgets holds the root's lease first and looks for stages' leases then, so one sees the other.
            if storage.read_if_there(forgetting) is None:
                yield
                return
        with lease(forgetting, what, pace):
            pass


@contextmanager
def alone(root: str, what: str) -> Iterator[None]:
    """Hold a whole root, below which no run is under way meanwhile.

    Raises:
        StorageError: a run is.
    """
    with lease(root_lease(root), what):
        paths = [path for path in storage.list_tree(root) if path.endswith(LEASE) and path != LEASE]
        live = live_owners(storage.join(root, path) for path in paths)
        if live:
            location, owner = next(iter(live.items()))
            raise StorageError(
                f"{owner} is at work below {root} ({location}). Nothing was changed: come back to {what} when no run "
                "is under way."
            )
        yield


def root_lease(root: str) -> str:
    """Location of the lease of a whole root, which is held while users are forgotten."""
    return storage.join(root, LEASE)


def run_lease(root: str, run: str) -> str:
    """Location of the lease of a run: not in the run's own folder, which a run may make anew."""
    return storage.join(root, "leases", run, LEASE)


def live_owners(locations: Iterable[str], pace: Pace = PACE) -> dict[str, Owner]:
    """Who holds which of the leases; leases whose owners are dead are left out.

    It takes as long as an owner may be silent where one on another machine does not change its lease.
    """
    locations = list(locations)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda location: _live_owner(location, pace), locations)
        return {location: owner for location, owner in zip(locations, found, strict=True) if owner is not None}


@dataclass(slots=True, kw_only=True)
class _Holding:
    """A lease that is held."""

    location: str
    what: str
    pace: Pace
    owner: Owner
    is_over: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Change the lease again and again until the holding is over or lost."""
        while not self.is_over.wait(self.pace.beat_seconds):
            try:
                is_kept = self._renew()
            except StorageError as error:
                logger.warning("%s: its lease could not be renewed, which will be tried again: %s", self.what, error)
            else:
                if not is_kept:
                    logger.warning("%s: another run took over after a silence, and both go on", self.what)
                    return

    def release(self) -> None:
        """Remove the lease, if it is still this one's."""
        try:
            found = storage.read_if_there(self.location)
            if found is not None and _owner(found).name == self.owner.name:
                storage.remove_file(self.location)
        except StorageError as error:
            logger.warning("%s: its lease could not be removed and will expire: %s", self.what, error)

    def _renew(self) -> bool:
        found = storage.read_if_there(self.location)
        if found is None or _owner(found).name != self.owner.name:
            return False
        self.owner = replace(self.owner, beat=self.owner.beat + 1)
        return storage.write_over(self.location, found, self.owner.content())


class _Watch:
    """For how long a lease has not changed."""

    def __init__(self) -> None:
        self._content: bytes | None = None
        self._since = time.monotonic()

    def silence_seconds(self, content: bytes) -> float:
        """Since when the content is this one, as far as was seen."""
        if content != self._content:
            self._content, self._since = content, time.monotonic()
        return time.monotonic() - self._since


def _acquire(location: str, what: str, pace: Pace) -> Owner:
    own, watch, told = _new_owner(), _Watch(), ""
    while True:
        found = storage.read_if_there(location)
        if found is None:
            if storage.write_new(location, own.content()):
                return own
            continue
        owner = _owner(found)
        if owner.is_gone() or watch.silence_seconds(found) > pace.patience_seconds:
            if storage.write_over(location, found, own.content()):
                logger.info("%s: takes over from %s, which is gone", what, owner)
                return own
            continue
        if owner.name != told:
            logger.info("%s: waits for %s, which is at it", what, owner)
            told = owner.name
        time.sleep(pace.poll_seconds)


def _live_owner(location: str, pace: Pace) -> Owner | None:
    watch, first = _Watch(), storage.read_if_there(location)
    found = first
    while found is not None:
        owner = _owner(found)
        if owner.is_here() or found != first:
            return owner
        if owner.is_gone() or watch.silence_seconds(found) > pace.patience_seconds:
            return None
        time.sleep(pace.poll_seconds)
        found = storage.read_if_there(location)
    return None


def _owner(content: bytes) -> Owner:
    """Who holds a lease; of one that is cut off or of another version, somebody of whom nothing is known."""
    try:
        return from_dict(json.loads(content), Owner)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Owner(name="", host="(unknown)", pid=0, machine="", started="")


def _new_owner() -> Owner:
    pid = os.getpid()
    return Owner(
        name=uuid.uuid4().hex, host=socket.gethostname(), pid=pid, machine=_machine(), started=_started(pid) or ""
    )


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine started; None where there is none, or only what its parent has not collected."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]
