"""Fault injection points: faults strike at chosen moments of a run.

`install` wraps the places that all work passes: the generator, the writing of tables, manifests, leases and exports,
and the reading of users. A run is disturbed if there is a folder `faults` beside its storage root, which must be named
`root` (an export: `export`). Processes of one machine share the folder:

    counts/POINT        one byte for each time that the point was reached
    orders/POINT-N      JSON of the fault that strikes when it is reached for the N-th time; then moved to struck/
    payments            one line per batch of requests: paid (answered), and kept (stored for later requests)

Faults that last until they are called off are in `fault_conditions.py`.
"""

import errno
import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import fault_conditions
import psutil
import pyarrow as pa

import hydra_ray.generate.engines.opening
import hydra_ray.lamp.users
import hydra_ray.storage.files
import hydra_ray.storage.local
from hydra_ray import storage
from hydra_ray.config import GeneratorConfig
from hydra_ray.errors import GenerationError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engine import Engine, Keep, keep_nowhere
from hydra_ray.generate.failures import FailureKind
from hydra_ray.rows import Completion, Prompt
from hydra_ray.runs.stage import LEASE, MANIFEST

BATCH_REQUESTS = 5
"""Number of requests that are answered and stored at a time."""


class Point(StrEnum):
    """Moment at which a fault can strike."""

    GENERATE = "generate"
    """Before a batch is answered."""
    ANSWERED = "answered"
    """After it is answered and before it is stored: it is paid, and lost if this process dies."""
    KEPT = "kept"
    """After it is stored, and before a part is made of it."""
    COMMIT = "commit"
    """Before a table is written."""
    COMMITTED = "committed"
    """After it is written."""
    MANIFEST = "manifest"
    """After all parts of a stage are committed, and before its manifest is; in the driver."""
    LEASE = "lease"
    """Before a lease changes hands: it is created, taken over or released."""
    LEASED = "leased"
    """After it has."""
    READ = "user read"
    """Before a user's sample is taken in; in a driver that reads users."""
    EXPORT = "exported file"
    """Before the content of an exported file is complete on disk."""


class Fault(StrEnum):
    """Kind of fault."""

    KILL_WORKER = "killed worker"
    KILL_ACTOR = "killed generator actor"
    ENGINE_DEATH = "engine death"
    KILL_NODE = "killed node"
    KILL_DRIVER = "killed driver"
    STOP_DRIVER = "stopped driver"
    DISK_FULL = "full disk"
    TRUNCATE = "truncated part"
    FAILED_ROWS = "failed answers"
    KILL_HOLDER = "killed at a lease change"
    """Death of the process, whichever it is, that is changing a lease, while a second run waits."""
    DISK_STAYS_FULL = "disk that stays full"
    READ_ONLY = "read-only root"
    CLOCK_BACK = "clock set back"
    """Wall clock of all processes set back by hours, while leases are held."""


_KILLS = (Fault.KILL_WORKER, Fault.KILL_ACTOR, Fault.KILL_NODE, Fault.KILL_DRIVER, Fault.KILL_HOLDER)
_BROKEN_DISKS = {Fault.DISK_STAYS_FULL: errno.ENOSPC, Fault.READ_ONLY: errno.EROFS}
_BACK_SECONDS = 5 * 3600


def order(folder: Path, point: Point, count: int, fault: Fault, pid: int = 0) -> None:
    """Schedule a fault for the `count`-th time that `point` is reached.

    Args:
        pid: process that is signalled, if it is not the one that reaches the point.
    """
    orders = folder / "orders"
    orders.mkdir(parents=True, exist_ok=True)
    (folder / "struck").mkdir(exist_ok=True)
    (orders / f"{point}-{count}").write_text(json.dumps({"fault": fault, "pid": pid}))


def call_off(folder: Path, *faults: Fault) -> None:
    """Cancel scheduled faults of these kinds."""
    for path in folder.glob("orders/*"):
        if Fault(json.loads(path.read_text())["fault"]) in faults:
            path.unlink()


def struck(folder: Path) -> list[Fault]:
    """Return the faults that struck."""
    return [Fault(json.loads(path.read_text())["fault"]) for path in sorted((folder / "struck").glob("*"))]


def reached(folder: Path) -> dict[Point, int]:
    """Return how often each point was reached."""
    return {point: path.stat().st_size for point in Point if (path := folder / "counts" / point).exists()}


def payments(folder: Path) -> list[tuple[str, list[str]]]:
    """Return the events of requests in order: "paid", "kept" or "dropped", and their ids."""
    path = folder / "payments"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(event, ids) for event, *ids in map(str.split, lines)]


def install(folder: Path | None = None) -> None:
    """Install the fault points in this process; for Ray as `worker_process_setup_hook`.

    Args:
        folder: folder of faults of the run that this process drives, if it is a driver.
    """
    fault_conditions.install(folder_beside)
    hydra_ray.lamp.users._Spill.add = _disturbed_read(hydra_ray.lamp.users._Spill.add, folder or Path(os.devnull))
    hydra_ray.storage.local._flush = _disturbed_flush(hydra_ray.storage.local._flush)
    hydra_ray.generate.engines.opening.open_engine = _disturbed_open(hydra_ray.generate.engines.opening.open_engine)
    disturbed = {
        "write_row_groups": _disturbed_write(storage.write_row_groups),
        "write_json": _disturbed_json(storage.write_json),
        **{name: _disturbed_lease(getattr(storage, name)) for name in ("write_new", "write_over", "remove_file")},
    }
    for name, function in disturbed.items():
        setattr(storage, name, function)
        setattr(hydra_ray.storage.files, name, function)


def strike(folder: Path, point: Point) -> Fault | None:
    """Reach a point: a scheduled fault is executed, or returned if the caller must execute it."""
    if not folder.is_dir():
        return None
    ordered = folder / "orders" / f"{point}-{_count(folder / 'counts' / point)}"
    if not ordered.exists():
        return None
    found = json.loads(ordered.read_text())
    pid = found["pid"] or os.getpid()
    if not psutil.pid_exists(pid):
        return None  # another process was first
    ordered.rename(folder / "struck" / ordered.name)
    fault = Fault(found["fault"])
    if fault == Fault.ENGINE_DEATH:
        raise GenerationError("the generator died on purpose")
    if fault in _BROKEN_DISKS:
        fault_conditions.break_disk(folder, _BROKEN_DISKS[fault])
    elif fault == Fault.CLOCK_BACK:
        fault_conditions.set_clock(-_BACK_SECONDS)
    elif fault in _KILLS:
        os.kill(pid, signal.SIGKILL)
    elif fault == Fault.STOP_DRIVER:
        os.kill(pid, signal.SIGTERM)
    return fault


def _count(path: Path) -> int:
    """Increment a counter and return its value."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b".")
        file.flush()
        return os.fstat(file.fileno()).st_size


def folder_beside(location: str) -> Path:
    """Return the folder of faults of the root, or of the export, that contains a location.

    A root in a store has the key that its folder of faults has as a path.
    """
    path = "/" + location.partition("://")[2].partition("/")[2] if storage.is_uri(location) else location
    for name in ("/root/", "/export/"):
        before, found, _ = path.partition(name)
        if found:
            return Path(before, "faults")
    return Path(os.devnull)


def _disturbed_open(open_engine: Callable[..., Engine]) -> Callable[..., Engine]:
    def disturbed(config: GeneratorConfig, *arguments: Any) -> Engine:
        # A model's answer may depend on its batch, and after a fault the batches differ.
        size = 1 if config.engine == "vllm" else BATCH_REQUESTS
        return _DisturbedEngine(open_engine(config, *arguments), size)

    return disturbed


class _DisturbedEngine:
    max_parts = 1

    def __init__(self, engine: Engine, batch_requests: int):
        self._engine, self._batch_requests = engine, batch_requests

    async def answer(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        store = next((each for each in getattr(keep, "args", ()) if isinstance(each, CompletionStore)), None)
        folder = folder_beside(f"{store.root}/") if store else Path(os.devnull)
        completions: list[Completion] = []
        for start in range(0, len(prompts), self._batch_requests):
            fault = strike(folder, Point.GENERATE)
            made = await self._engine.answer(prompts[start : start + self._batch_requests])
            if fault == Fault.FAILED_ROWS:
                made = [_failed(each) for each in made]
            _note(folder, "paid", made)
            strike(folder, Point.ANSWERED)
            keep(made)
            _note(folder, "kept", made)
            strike(folder, Point.KEPT)
            completions += made
        return completions

    def close(self) -> None:
        self._engine.close()


def _failed(made: Completion) -> Completion:
    return replace(made, generations=(), error="no answer came in time", failure=FailureKind.TIMEOUT)


def _note(folder: Path, event: str, completions: Sequence[Completion]) -> None:
    note(folder, event, [each.request_id for each in completions if each.error is None])


def note(folder: Path, event: str, ids: Sequence[str]) -> None:
    """Record an event of requests."""
    if ids and folder.is_dir():
        with (folder / "payments").open("a") as file:
            file.write(" ".join([event, *ids]) + "\n")


def _disturbed_write(write: Callable[..., None]) -> Callable[..., None]:
    def disturbed(location: str, schema: pa.Schema, tables: Iterable[pa.Table], counters: Mapping[str, float]) -> None:
        folder = folder_beside(location)
        if "/root/stages/" not in location or not folder.is_dir():
            return write(location, schema, tables, counters)
        if strike(folder, Point.COMMIT) == Fault.DISK_FULL:
            return _write_to_full_disk(lambda: write(location, schema, tables, counters))
        write(location, schema, tables, counters)
        if strike(folder, Point.COMMITTED) == Fault.TRUNCATE:
            os.truncate(location, os.path.getsize(location) // 2)
        return None

    return disturbed


def _write_to_full_disk(write: Callable[[], None]) -> None:
    def flush(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept = hydra_ray.storage.local._flush  # where a file's content reaches the disk
    hydra_ray.storage.local._flush = flush
    try:
        write()
    finally:
        hydra_ray.storage.local._flush = kept


def _disturbed_read(add: Callable[..., None], folder: Path) -> Callable[..., None]:
    def disturbed(spill: Any, sample: Any) -> None:
        strike(folder, Point.READ)
        add(spill, sample)

    return disturbed


def _disturbed_flush(flush: Callable[[Any], None]) -> Callable[[Any], None]:
    def disturbed(file: Any) -> None:
        if "/export/" in file.name:
            strike(folder_beside(file.name), Point.EXPORT)
        flush(file)

    return disturbed


def _disturbed_lease(change: Callable[..., Any]) -> Callable[..., Any]:
    def disturbed(location: str, *arguments: Any) -> Any:
        if not location.endswith(f"/{LEASE}") or _is_heartbeat(*arguments):
            return change(location, *arguments)
        folder = folder_beside(location)
        strike(folder, Point.LEASE)
        done = change(location, *arguments)
        strike(folder, Point.LEASED)
        return done

    return disturbed


def _is_heartbeat(*contents: bytes) -> bool:
    """Return whether a lease stays with its owner."""
    try:
        owners = [json.loads(each)["name"] for each in contents]
    except (ValueError, TypeError, KeyError):  # a lease that is damaged
        return False
    return len(owners) == 2 and owners[0] == owners[1]


def _disturbed_json(write: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    def disturbed(location: str, value: Any) -> None:
        if location.endswith(f"/{MANIFEST}"):
            strike(folder_beside(location), Point.MANIFEST)
        write(location, value)

    return disturbed
