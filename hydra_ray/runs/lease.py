"""Leases: one owner at a time of a place below a root, such as the folder of a stage that is being computed.

A lease is a small file. The process that creates it owns the place and rewrites the file every few seconds (a
heartbeat). Waiting processes watch whether it changes, by their own monotonic clocks, so wall clocks need not agree. A
lease that has not changed for a minute, or whose process on this machine has ended, is taken over. Every change of
owner is a compare-and-swap: of several contenders, exactly one wins.

Leases avoid duplicate work; correctness does not depend on them. A part is written atomically and is determined by its
inputs, so an owner that was suspended and resumes after a take-over writes valid parts too, and logs a warning.
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
    """Intervals of heartbeats and polls, in seconds."""

    beat_seconds: float = 10
    """Time between two heartbeats of the owner."""
    poll_seconds: float = 1
    """Time between two polls of a waiting process."""
    patience_seconds: float = 60
    """Time without a heartbeat after which the owner counts as dead."""


PACE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Content of a lease: the process that holds it. Key: name."""

    name: str
    """Unique identifier of this acquisition."""
    host: str
    pid: int
    machine: str
    """Boot id and PID namespace within which the process id is meaningful; empty where they cannot be read."""
    started: str
    """Start time of the process in the kernel's clock ticks since boot."""
    beat: int = 0
    """Number of heartbeats so far."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Return whether the process has certainly ended; known only for processes of this machine."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started

    def is_here(self) -> bool:
        """Return whether the process is certainly alive; known only for processes of this machine."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) == self.started

    def content(self) -> bytes:
        """Return the content of the lease file."""
        return json.dumps(asdict(self)).encode()


@contextmanager
def lease(location: str, what: str, pace: Pace = PACE, *, is_of_part: bool = False) -> Iterator[None]:
    """Hold the lease at `location` for the duration of the block; wait first until it is free.

    Args:
        what: the work that the lease protects, for log lines.
        is_of_part: whether the lease is that of one part, within those of a run and a stage. It is released without
            another look at it, if its last heartbeat is recent.

    Raises:
        StorageError: the lease cannot be read or written.
    """
    owner = _acquire(location, what, pace)
    holding = _Holding(location=location, what=what, pace=pace, owner=owner, is_of_part=is_of_part)
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
    """Hold the lease of a stage once no other run computes the stage and no user is being removed from the root."""
    forgetting, what = root_lease(stage.root), f"stage {stage.name}"
    while True:
        with lease(stage.lease_location, what, pace):
            # `alone` takes the root's lease first and then looks for leases of stages, so one of the two sees the
            # other.
            if storage.read_if_there(forgetting) is None:
                yield
                return
        with lease(forgetting, what, pace):
            pass


@contextmanager
def alone(root: str, what: str) -> Iterator[None]:
    """Hold the lease of a whole root while no run is active below it.

    Raises:
        StorageError: a run is active below the root.
    """
    with lease(root_lease(root), what):
        paths = [path for path in storage.list_tree(root) if path.endswith(LEASE) and path != LEASE]
        live = live_owners(storage.join(root, path) for path in paths)
        if live:
            location, owner = next(iter(live.items()))
            raise StorageError(
                f"a run is active below {root}: {owner} holds {location}. Nothing was changed. Repeat the "
                f"command ({what}) when no run is under way."
            )
        yield


def root_lease(root: str) -> str:
    """Return the location of the lease of a whole root, which is held while users are removed."""
    return storage.join(root, LEASE)


def run_lease(root: str, run: str) -> str:
    """Return the location of a run's lease, outside the run's own folder, which a run may recreate."""
    return storage.join(root, "leases", run, LEASE)


def owner_at(location: str) -> Owner | None:
    """Return the owner whom a lease names, without waiting for a heartbeat; None where there is none, or the process
    has certainly ended."""
    found = storage.read_if_there(location)
    owner = None if found is None else _owner(found)
    return None if owner is None or owner.is_gone() else owner


def live_owners(locations: Iterable[str], pace: Pace = PACE) -> dict[str, Owner]:
    """Return the owners of those leases that are held, by location; leases of dead owners are left out.

    Takes up to `patience_seconds` where an owner on another machine sends no heartbeat.
    """
    locations = list(locations)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda location: _live_owner(location, pace), locations)
        return {location: owner for location, owner in zip(locations, found, strict=True) if owner is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """A moment by two clocks, of which at least one goes on while a machine is suspended."""

    boot: float
    wall: float

    @classmethod
    def now(cls) -> "_Moment":
        return cls(boot=time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)), wall=time.time())

    def seconds_since(self) -> float:
        """Return the seconds that may have passed since; without end where the clocks do not agree."""
        now = _Moment.now()
        boot, wall = now.boot - self.boot, now.wall - self.wall
        return boot if 0 <= wall <= boot + 1 else float("inf")


@dataclass(slots=True, kw_only=True)
class _Holding:
    """A lease held by this process."""

    location: str
    what: str
    pace: Pace
    owner: Owner
    is_of_part: bool
    renewed: _Moment = field(default_factory=_Moment.now)
    is_over: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Send heartbeats until the lease is released or lost."""
        while not self.is_over.wait(self.pace.beat_seconds):
            try:
                is_kept = self._renew()
            except StorageError as error:
                logger.warning("%s: cannot renew the lease, will retry: %s", self.what, error)
            else:
                if not is_kept:
                    logger.warning("%s: another run took over after missed heartbeats; both go on", self.what)
                    return

    def release(self) -> None:
        """Remove the lease if this process still holds it."""
        try:
            if self._is_surely_held() or self._is_held():
                storage.remove_file(self.location)
        except StorageError as error:
            logger.warning("%s: cannot remove the lease, it will expire: %s", self.what, error)

    def _is_held(self) -> bool:
        found = storage.read_if_there(self.location)
        return found is not None and _owner(found).name == self.owner.name

    def _is_surely_held(self) -> bool:
        """Return whether so little time has passed since the last heartbeat that nobody can have taken over."""
        return self.is_of_part and self.renewed.seconds_since() < self.pace.patience_seconds / 2

    def _renew(self) -> bool:
        renewed = replace(self.owner, beat=self.owner.beat + 1)
        if not storage.write_over(self.location, self.owner.content(), renewed.content()):
            # A heartbeat whose answer was lost may have been written all the same.
            found = storage.read_if_there(self.location)
            if found is None or _owner(found).name != self.owner.name:
                return False
            if not storage.write_over(self.location, found, renewed.content()):
                return False
        self.owner, self.renewed = renewed, _Moment.now()
        return True


class _Watch:
    """Measures how long a lease has not changed."""

    def __init__(self) -> None:
        self._content: bytes | None = None
        self._since = time.monotonic()

    def silence_seconds(self, content: bytes) -> float:
        """Return for how many seconds the content has been the given one, as far as this process has seen."""
        if content != self._content:
            self._content, self._since = content, time.monotonic()
        return time.monotonic() - self._since


def _acquire(location: str, what: str, pace: Pace) -> Owner:
    own, watch, logged = _new_owner(), _Watch(), ""
    while not storage.write_new(location, own.content()):
        found = storage.read_if_there(location)
        if found is None:
            continue
        owner = _owner(found)
        if owner.is_gone() or watch.silence_seconds(found) > pace.patience_seconds:
            if storage.write_over(location, found, own.content()):
                logger.info("%s: takes over from %s, which has ended", what, owner)
                return own
            continue
        if owner.name != logged:
            logger.info("%s: waits for %s, which is working on it", what, owner)
            logged = owner.name
        time.sleep(pace.poll_seconds)
    return own


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
    """Return the owner that a lease names; an unknown one where the content is cut off or of another version."""
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
    """Return the start time of a process of this machine; None where there is none, or only a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]
