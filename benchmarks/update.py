"""Daily updates: what a day takes where users are many and few of them are active, and what compaction saves.

    python benchmarks/update.py [--users 100000] [--active 1000] [--days 30] [--records 10]
    python benchmarks/update.py --only-users --users 1000000 --active 100 --days 3

Half of those who are active have a new record, the others a query. A day is a whole update on Ray, from the file that
is handed in to predictions: new histories, own heads fitted to all records, answers. The run has no generator, whose
time is no part of an update's, and its encoder has no layers. A day before the first, on which Ray's workers start, is
not counted. With `--only-users` no more than the users stage is made, which alone has to find who was active among
everybody.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
from harness import Figure, tell
from memory import tree_bytes, watched
from scaling import hashed_encoder

from hydra_ray.commands.update import update_run
from hydra_ray.config import RunConfig, Task, UpdateConfig
from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.lamp.users import USERS, ingest
from hydra_ray.runs.run_folder import open_finished, record_stages, run_folder_of, write_config
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.updates import layer_parts, layers_of, line_of, updates_of
from hydra_ray.scorer.heads.store import heads_table
from hydra_ray.serving.compaction import compact_updates
from hydra_ray.serving.export_folder import FOLD
from hydra_ray.serving.known import CODES
from hydra_ray.stages.run import personalize

USERS_PER_BUCKET = 1000
LABELS = ("comedy", "romance", "fantasy")
MAX_SECONDS, MAX_BYTES = 20.0, 2e9
"""Most that a day may take, and of memory beside what Ray's processes need at rest."""
MAX_STAGE_SECONDS = 10.0
"""Most that the users stage may take."""
MAX_RATIO = 1.2
"""Most that the last days may take, in days as the first."""
COMPARED = 3
"""Number of days at both ends that are compared."""
SECONDS_BETWEEN_SAMPLES = 0.5


def main() -> int:
    """Print what days take; exit status 1 if a day takes more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("users", 100_000), ("active", 1000), ("days", 30), ("records", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only-users", action="store_true", help="make no more than the users stage")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hydra_ray-update-") as folder:
        return tell((of_users_stage if given.only_users else of_updates)(Days(Path(folder), given), given))


class Days:
    """What is handed in, day by day."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self._folder, self._num_users, self._num_records = folder, given.users, given.records
        self.root = str(folder / "root")
        self.num_buckets = max(1, given.users // USERS_PER_BUCKET)
        self._encoder = hashed_encoder(folder / "encoder")

    def config(self) -> RunConfig:
        """Write everybody's file; return the configuration of the run that is finished before the first day."""
        everybody = self._write("base", (self._user(n, self._num_records) for n in range(self._num_users)))
        return self.config_of("base", everybody)

    def config_of(self, run: str, file: str) -> RunConfig:
        """Return the configuration of a run on a file."""
        task = Task(name="films", kind="classification", instruction="Which?", labels=LABELS)
        scorer = {"base": {"encoder": self._encoder, "max_text_tokens": 32, "num_epochs": 0}}
        return RunConfig.model_validate(
            {
                "run": run,
                "storage": {"root": self.root, "compact_after": 0},
                "lamp": {"task": task.model_dump(), "users_files": [file]},
                "users": {"num_buckets": self.num_buckets, "bucket_key": "test"},
                "generator": {"model": "", "engine": "none"},
                "reranker": scorer,
                "adapter": scorer,
            }
        )

    def handed_in(self, day: int, num_active: int) -> str:
        """Write the file of a day; return its path."""
        chance = random.Random(day)
        active = chance.sample(range(self._num_users), num_active)
        rows = (self._user(n, 1, day) if place % 2 else self._asking(n) for place, n in enumerate(active))
        return self._write(f"day-{day}", rows)

    def _write(self, name: str, rows: Iterable[dict[str, Any]]) -> str:
        path = self._folder / f"{name}.jsonl"
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        return str(path)

    def _user(self, number: int, num_records: int, day: int = 0) -> dict[str, Any]:
        chance = random.Random(f"{number} {day}")
        history = [
            {"input": f"a film {chance.random()} that somebody saw on day {day}", "output": chance.choice(LABELS)}
            for _ in range(num_records)
        ]
        # A report needs somebody whose query has a target.
        queries = [{"input": "a film at the end", "target": LABELS[0]}] if number % 100 == 1 and not day else []
        return {"user_id": f"user-{number}", "is_new": number % 10 > 0, "history": history, "queries": queries}

    def _asking(self, number: int) -> dict[str, Any]:
        return {"user_id": f"user-{number}", "queries": [{"input": "a film that somebody will see"}]}


def of_updates(days: Days, given: argparse.Namespace) -> Iterator[Figure]:
    """Make whole updates; yield what they take, and what compaction of them saves."""
    import ray

    started = time.monotonic()
    run_folder = personalize(days.config()).run_folder
    print(f"{given.users} users: a finished run in {time.monotonic() - started:.0f} s", flush=True)
    ray.shutdown()  # workers that hold what the run needed would hide what a day needs
    start_ray()
    own = psutil.Process()
    at_rest = tree_bytes(own)
    with watched(own, SECONDS_BETWEEN_SAMPLES) as samples:
        yield from _figures("update", days, given, lambda file: update_run(run_folder, [file]), MAX_SECONDS)
    yield Figure(
        part=f"update, {_size(given)}",
        against="Ray at rest",
        value=(max(samples) - at_rest) / 1e9,
        unit="GB more",
        bound="at most",
        bar=MAX_BYTES / 1e9,
        detail=f"{at_rest / 1e9:.2f} GB at rest",
    )
    yield _compaction(run_folder, days.root)


def of_users_stage(days: Days, given: argparse.Namespace) -> Iterator[Figure]:
    """Make the users stages of updates, of a run that has no other; yield what they take."""
    root, line = days.root, ["base"]

    def make(config: RunConfig, number: int) -> None:
        known = None if config.update is None else base
        stage = base if config.update is None else stage_of(number)
        stage.complete(1, ingest(config, stage, known, line_of(config)))
        folder = run_folder_of(root, config.run)
        write_config(folder, config)
        record_stages(folder, [stage])

    def stage_of(number: int) -> Stage:
        return Stage(name=USERS, fingerprint=f"{number:016x}", root=root, num_buckets=days.num_buckets)

    def update(file: str) -> None:
        number = len(line)
        follows = UpdateConfig(follows=(line[-1],), handed_in=str(number))
        config = days.config_of(f"base+{number}", file)
        line.append(config.run)
        make(config.model_copy(update={"taught_by": "base", "update": follows}), number)

    base = stage_of(0)
    make(days.config(), 0)
    yield from _figures("update, users stage alone", days, given, update, MAX_STAGE_SECONDS)


def _figures(
    part: str, days: Days, given: argparse.Namespace, update: Callable[[str], object], max_seconds: float
) -> Iterator[Figure]:
    update(days.handed_in(0, given.active))  # not counted: Ray's workers start and import
    seconds: list[float] = []
    objects: list[int] = []
    for day in range(1, given.days + 1):
        file, before, started = days.handed_in(day, given.active), _files_below(days.root), time.monotonic()
        update(file)
        seconds.append(time.monotonic() - started)
        sizes = {path: size for path, size in _files_below(days.root).items() if path not in before}
        objects.append(len(sizes))
        print(f"day {day}: {seconds[-1]:.2f} s, {len(sizes)} objects, {sum(sizes.values()) / 1e6:.2f} MB", flush=True)
    part = f"{part}, {_size(given)}"
    slowest, first, last = max(seconds), fmean(seconds[:COMPARED]), fmean(seconds[-COMPARED:])
    detail = f"of {given.days} days; the mean is {fmean(seconds):.3g} s"
    yield Figure(
        part=part, against="the slowest day", value=slowest, unit="s", bound="at most", bar=max_seconds, detail=detail
    )
    yield Figure(
        part=part,
        against=f"the last {COMPARED} days, of the first",
        value=last / first,
        bound="at most",
        bar=MAX_RATIO if given.days >= 2 * COMPARED else None,
        detail=f"{last:.3g} s and {first:.3g} s",
    )
    yield Figure(
        part=part,
        against="-",
        value=max(objects),
        unit="objects written on a day",
        detail=f"most of a day; {days.num_buckets} buckets",
    )


def _compaction(run_folder: str, root: str) -> Figure:
    """Compact the updates; return how many parts whoever reads everybody reads before, and after it."""
    buckets = open_finished(root, "base").stages[USERS].buckets

    def num_parts() -> int:
        layers = layers_of(root, "base", updates_of(root, "base"))
        tables = {USERS: USERS, CODES: heads_table(FOLD)}
        return sum(
            len(layer_parts(stage, layers, table, bucket)) for stage, table in tables.items() for bucket in buckets
        )

    before, started = num_parts(), time.monotonic()
    compact_updates(run_folder)
    seconds = time.monotonic() - started
    return Figure(
        part="parts of updates that a reader of everybody reads",
        against="the same compacted",
        value=before / num_parts(),
        detail=f"{before} parts before; compacted in {seconds:.1f} s",
    )


def _size(given: argparse.Namespace) -> str:
    return f"{given.users:,} users, {given.active:,} of them active"


def _files_below(root: str) -> dict[Path, int]:
    return {path: path.stat().st_size for path in Path(root).rglob("*") if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
