"""Users of daily updates: what it takes to find who was active among everybody, day after day.

    python benchmarks/update.py [--users 100000] [--active 1000] [--days 30] [--records 10]

Half of those who are active have a new record, the others a query. Timed is the users stage of each update: reading
what is handed in, finding each user's newest history in the run and the updates before, and writing the active users.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from harness import Figure, tell

from hydra_ray.config import RunConfig, Task, UpdateConfig
from hydra_ray.lamp.users import ingest
from hydra_ray.runs.run_folder import record_stages, run_folder_of, write_config
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.updates import line_of

USERS_PER_BUCKET = 1000
LABELS = ("comedy", "romance", "fantasy")
MAX_RATIO = 1.2
"""Most that the last days may take, in days as the first."""
COMPARED = 3
"""Number of days at both ends that are compared."""


def main() -> int:
    """Print seconds, objects and bytes of the days; exit status 1 if the last days take longer than they may."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("users", 100_000), ("active", 1000), ("days", 30), ("records", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hydra_ray-update-") as folder:
        days = Days(Path(folder), given.users, given.records)
        seconds: list[float] = []
        for day in range(1, given.days + 1):
            taken, num_objects, num_bytes = days.update(day, given.active)
            seconds.append(taken)
            print(f"day {day}: {taken:.2f} s, {num_objects} objects, {num_bytes / 1e6:.2f} MB", flush=True)
    first, last = fmean(seconds[:COMPARED]), fmean(seconds[-COMPARED:])
    detail = f"{given.active} of {given.users} users active, days {given.days}: {first:.2f} s and {last:.2f} s"
    figure = Figure(
        part="update, users stage",
        against="the first days",
        value=last / first,
        bound="at most",
        bar=MAX_RATIO,
        detail=detail,
    )
    return tell([figure])


class Days:
    """A finished run and the updates that follow it, of which the users stages alone are made."""

    def __init__(self, folder: Path, num_users: int, num_records: int) -> None:
        """Make the finished run."""
        self._folder, self._num_users, self._num_records = folder, num_users, num_records
        self._last = "base"
        self._base = self._stage(0)
        rows = (self._user(n, num_records) for n in range(num_users))
        self._make(self._config("base", rows), self._base)

    def update(self, day: int, num_active: int) -> tuple[float, int, int]:
        """Hand in a day; return its seconds, and the number and bytes of the objects that its users stage wrote."""
        chance = random.Random(day)
        active = chance.sample(range(self._num_users), num_active)
        rows = (self._user(n, 1, day) if place % 2 else self._asking(n) for place, n in enumerate(active))
        update = UpdateConfig(follows=(self._last,), handed_in=str(day))
        config = self._config(f"base+{day}", rows).model_copy(update={"taught_by": "base", "update": update})
        stage, started = self._stage(day), time.monotonic()
        self._make(config, stage)
        self._last = config.run
        written = [path.stat().st_size for path in Path(stage.folder).rglob("*.parquet")]
        return time.monotonic() - started, len(written), sum(written)

    def _make(self, config: RunConfig, stage: Stage) -> None:
        known = None if config.update is None else self._base
        stage.complete(1, ingest(config, stage, known, line_of(config)))
        folder = run_folder_of(config.storage.root, config.run)
        write_config(folder, config)
        record_stages(folder, [stage])

    def _stage(self, number: int) -> Stage:
        num_buckets = max(1, self._num_users // USERS_PER_BUCKET)
        root = str(self._folder / "root")
        return Stage(name="users", fingerprint=f"{number:016x}", root=root, num_buckets=num_buckets)

    def _config(self, run: str, rows: Iterator[dict[str, Any]]) -> RunConfig:
        path = self._folder / f"{run}.jsonl"
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        task = Task(name="films", kind="classification", instruction="Which?", labels=LABELS)
        scorer = {"base": {"encoder": "none"}}
        return RunConfig.model_validate(
            {
                "run": run,
                "storage": {"root": str(self._folder / "root")},
                "lamp": {"task": task.model_dump(), "users_files": [str(path)]},
                "users": {"num_buckets": max(1, self._num_users // USERS_PER_BUCKET), "bucket_key": "test"},
                "generator": {"model": "none", "engine": "fake"},
                "reranker": scorer,
                "adapter": scorer,
            }
        )

    def _user(self, number: int, num_records: int, day: int = 0) -> dict[str, Any]:
        chance = random.Random(f"{number} {day}")
        history = [
            {"input": f"a film {chance.random()} that somebody saw on day {day}", "output": chance.choice(LABELS)}
            for _ in range(num_records)
        ]
        return {"user_id": f"user-{number}", "is_new": number % 10 > 0, "history": history, "queries": []}

    def _asking(self, number: int) -> dict[str, Any]:
        return {"user_id": f"user-{number}", "queries": [{"input": "a film that somebody will see"}]}


if __name__ == "__main__":
    sys.exit(main())
