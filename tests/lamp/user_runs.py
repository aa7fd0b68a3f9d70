"""A finished run and its updates, of which only the users are made."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra_ray import storage
from hydra_ray.config import RefreshConfig, RunConfig, Task, UpdateConfig
from hydra_ray.lamp.users import ingest
from hydra_ray.rows import User, arrow_schema, from_table
from hydra_ray.runs.run_folder import record_stages, run_folder_of, write_config
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.updates import WHEREABOUTS, Whereabouts, line_of

NUM_BUCKETS = 4
Row = dict[str, Any]


def rows_of(stage: Stage, table: str, row_type: type) -> list[Any]:
    locations = [stage.part(table, bucket) for bucket in stage.committed_buckets(table)]
    return [row for each in locations for row in from_table(storage.read_part(each, arrow_schema(row_type)), row_type)]


class Runs:
    """A finished run and its updates, of which only the users are made."""

    def __init__(self, make_config: Any, task: Task, folder: Path):
        self._make_config, self._task, self._folder = make_config, task, folder
        self.stages: dict[str, Stage] = {}

    def config(self, run: str, rows: Iterable[Row], **changes: Any) -> RunConfig:
        path = self._folder / f"{run}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        lamp = {"task": self._task.model_dump(), "users_files": [str(path)]}
        config: RunConfig = self._make_config(
            lamp, num_buckets=NUM_BUCKETS, bucket_key="test", max_rejected_fraction=0.5
        )
        return config.model_copy(update={"run": run, **changes})

    def update(self, name: str, rows: Iterable[Row], follows: str) -> dict[str, float]:
        """Hand in an update; return its counters."""
        update = UpdateConfig(follows=(follows,), handed_in=name)
        return self.finish(self.config(name, rows, taught_by="base", update=update))

    def refresh(self, name: str, follows: str) -> dict[str, float]:
        """Take everybody as of a run; return its counters."""
        refresh = RefreshConfig(of="base", follows=(follows,), taken=name)
        return self.finish(self.config(name, [], refresh=refresh))

    def finish(self, config: RunConfig) -> dict[str, float]:
        fingerprint = f"{len(self.stages):016x}"
        stage = Stage(name="users", fingerprint=fingerprint, root=config.storage.root, num_buckets=NUM_BUCKETS)
        known = self.stages["base"] if config.taught_by else None
        counters = ingest(config, stage, known, line_of(config))
        stage.complete(1, counters)
        folder = run_folder_of(config.storage.root, config.run)
        write_config(folder, config)
        record_stages(folder, [stage])
        self.stages[config.run] = stage
        return counters

    def users(self, run: str) -> dict[str, User]:
        return {each.user_id: each for each in rows_of(self.stages[run], "users", User)}

    def whereabouts(self, run: str) -> dict[str, tuple[str, str | None]]:
        rows = rows_of(self.stages[run], WHEREABOUTS, Whereabouts)
        return {each.user_id: (each.run, each.before) for each in rows}


def record(text: str, **fields: Any) -> Row:
    return {"input": text, "output": "comedy", **fields}


def queries(*texts: str) -> list[Row]:
    return [{"input": text} for text in texts]
