"""Faults at chosen moments of a run: what may fail by accident fails here on purpose.

`install` wraps three places that all work passes: the generator, the writing of tables, and that of manifests. A
run is disturbed if there is a folder `faults` beside its storage root, which must be named `root`. Processes of one
machine share the folder:

    counts/POINT        as many bytes as the point was reached
    orders/POINT-N      JSON of the fault that is to strike when it is reached for the N-th time; then moved to struck/
    payments            one line a batch of requests: paid (answered), and kept (found again by whoever asks later)
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

import psutil
import pyarrow as pa

import hydra_ray.generate.engines.opening
import hydra_ray.storage.files
import hydra_ray.storage.local
from hydra_ray import storage
from hydra_ray.config import GeneratorConfig
from hydra_ray.errors import GenerationError
from hydra_ray.generate.engine import Engine, Keep, keep_nowhere
from hydra_ray.generate.failures import FailureKind
from hydra_ray.rows import Completion, Request
from hydra_ray.runs.stage import MANIFEST

BATCH_REQUESTS = 5
"""So many requests are answered and kept at a time."""


class Point(StrEnum):
    """Where a fault can strike."""

    GENERATE = "generate"
    """Before a batch is answered."""
    ANSWERED = "answered"
    """When it is answered and not yet kept: it is paid, and lost where this process dies."""
    KEPT = "kept"
    """When it is kept, and no part made of it."""
    COMMIT = "commit"
    """Before a table is written."""
    COMMITTED = "committed"
    """When it is."""
    MANIFEST = "manifest"
    """When all parts of a stage are there, and the manifest is not; in the driver."""


class Fault(StrEnum):
    """What can happen there."""

    KILL_WORKER = "killed worker"
    KILL_ACTOR = "killed generator actor"
    ENGINE_DEATH = "engine death"
    KILL_NODE = "killed node"
    KILL_DRIVER = "killed driver"
    STOP_DRIVER = "stopped driver"
    DISK_FULL = "full disk"
    TRUNCATE = "truncated part"
    FAILED_ROWS = "failed answers"


def order(folder: Path, point: Point, count: int, fault: Fault, pid: int = 0) -> None:
    """Let a fault strike when `point` is reached for the `count`-th time.

    Args:
        pid: the process that is signalled, where it is not the one that reaches the point.
    """
    orders = folder / "orders"
    orders.mkdir(parents=True, exist_ok=True)
    (folder / "struck").mkdir(exist_ok=True)
    (orders / f"{point}-{count}").write_text(json.dumps({"fault": fault, "pid": pid}))


def call_off(folder: Path, *faults: Fault) -> None:
    """Let these no longer strike."""
    for path in folder.glob("orders/*"):
        if Fault(json.loads(path.read_text())["fault"]) in faults:
            path.unlink()


def struck(folder: Path) -> list[Fault]:
    """The faults that struck."""
    return [Fault(json.loads(path.read_text())["fault"]) for path in sorted((folder / "struck").glob("*"))]


def reached(folder: Path) -> dict[Point, int]:
    """How often each point was reached."""
    return {point: path.stat().st_size for point in Point if (path := folder / "counts" / point).exists()}


def payments(folder: Path) -> list[tuple[str, list[str]]]:
    """What happened to requests, in order: "paid" or "kept", and their ids."""
    path = folder / "payments"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(event, ids) for event, *ids in map(str.split, lines)]


def install() -> None:
    """Let faults strike in this process; for Ray as `worker_process_setup_hook`."""
    hydra_ray.generate.engines.opening.open_engine = _disturbed_open(hydra_ray.generate.engines.opening.open_engine)
    disturbed = {
        "write_row_groups": _disturbed_write(storage.write_row_groups),
        "write_json": _disturbed_json(storage.write_json),
    }
    for name, function in disturbed.items():
        setattr(storage, name, function)
        setattr(hydra_ray.storage.files, name, function)


def strike(folder: Path, point: Point) -> Fault | None:
    """Reach a point: what is ordered happens, or is returned where the caller must do it."""
    if not folder.is_dir():
        return None
    ordered = folder / "orders" / f"{point}-{_count(folder / 'counts' / point)}"
    if not ordered.exists():
        return None
    found = json.loads(ordered.read_text())
    pid = found["pid"] or os.getpid()
    if not psutil.pid_exists(pid):
        return None  # another fault was first
    ordered.rename(folder / "struck" / ordered.name)
    fault = Fault(found["fault"])
    if fault == Fault.ENGINE_DEATH:
        raise GenerationError("the generator died on purpose")
    if fault in (Fault.KILL_WORKER, Fault.KILL_ACTOR, Fault.KILL_NODE, Fault.KILL_DRIVER):
        os.kill(pid, signal.SIGKILL)
    elif fault == Fault.STOP_DRIVER:
        os.kill(pid, signal.SIGTERM)
    return fault


def _count(path: Path) -> int:
    """One more; returns how many there are now."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b".")
        file.flush()
        return os.fstat(file.fileno()).st_size


def _folder_beside(location: str) -> Path:
    """The folder of faults of the root that a location is in."""
    before, root, _ = location.partition("/root/")
    return Path(before, "faults") if root else Path(os.devnull)


def _disturbed_open(open_engine: Callable[..., Engine]) -> Callable[..., Engine]:
    def disturbed(config: GeneratorConfig, *arguments: Any) -> Engine:
        # A model's answer may depend on what is answered with it, and after a fault that is something else.
        size = 1 if config.engine == "vllm" else BATCH_REQUESTS
        return _DisturbedEngine(open_engine(config, *arguments), size)

    return disturbed


class _DisturbedEngine:
    def __init__(self, engine: Engine, batch_requests: int):
        self._engine, self._batch_requests = engine, batch_requests

    def generate(self, requests: Sequence[Request], keep: Keep = keep_nowhere) -> list[Completion]:
        store: Any = getattr(getattr(keep, "func", None), "__self__", None)
        folder = _folder_beside(f"{store.root}/") if store else Path(os.devnull)
        completions: list[Completion] = []
        for start in range(0, len(requests), self._batch_requests):
            fault = strike(folder, Point.GENERATE)
            made = self._engine.generate(requests[start : start + self._batch_requests])
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
    ids = [each.request_id for each in completions if each.error is None]
    if ids and folder.is_dir():
        with (folder / "payments").open("a") as file:
            file.write(" ".join([event, *ids]) + "\n")


def _disturbed_write(write: Callable[..., None]) -> Callable[..., None]:
    def disturbed(location: str, schema: pa.Schema, tables: Iterable[pa.Table], counters: Mapping[str, float]) -> None:
        folder = _folder_beside(location)
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


def _disturbed_json(write: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    def disturbed(location: str, value: Any) -> None:
        if location.endswith(f"/{MANIFEST}"):
            strike(_folder_beside(location), Point.MANIFEST)
        write(location, value)

    return disturbed
