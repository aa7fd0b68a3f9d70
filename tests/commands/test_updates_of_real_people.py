"""Updates on what real people judged: ten daily slices end where one fit ends. Needs HYDRA_JESTER_DIR."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import run_config
from own_files import written

from hydra_ray.commands.update import update_run
from hydra_ray.rows import UserLabelLogs, arrow_schema, from_table
from hydra_ray.runs.updates import updates_of
from hydra_ray.scorer.heads.store import heads_table
from hydra_ray.stages.own_heads import LABELS
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.storage import read_part

pytestmark = [
    pytest.mark.skipif("HYDRA_JESTER_DIR" not in os.environ, reason="HYDRA_JESTER_DIR is not set"),
    pytest.mark.usefixtures("without_label_encoder"),  # what is compared does not depend on the encoder
]
TASK = {"name": "jokes", "kind": "preference", "instruction": "Which joke does this person find funnier?"}
NUM_TAUGHT, NUM_NEW, NUM_DAYS = 24, 8, 10


def people(name: str, number: int) -> list[dict[str, Any]]:
    with gzip.open(Path(os.environ["HYDRA_JESTER_DIR"], name), "rt") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(number), strict=False)]


@pytest.fixture(scope="module")
def newcomers() -> list[dict[str, Any]]:
    """People of whom the finished run has nobody."""
    return people("jester_pairs_dev.jsonl.gz", NUM_NEW)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run on other people; whom it asks is not compared."""
    folder = tmp_path_factory.mktemp("people")
    taught = [{**each, "is_new": False} for each in people("jester_pairs_train.jsonl.gz", NUM_TAUGHT)]
    (someone,) = people("jester_pairs_dev.jsonl.gz", NUM_NEW + 1)[NUM_NEW:]
    lamp = {"task": TASK, "planted": None, "users_files": [written(folder / "users.jsonl", [*taught, someone])]}
    return personalize(run_config(str(folder / "root"), generator={"engine": "none", "model": ""}, lamp=lamp))


def codes_of(plan: Plan) -> dict[str, dict[str, Any]]:
    locations = plan.stage("adapter.codes").parts(heads_table(0))
    return {row["user_id"]: row for location in locations for row in read_part(location).to_pylist()}


def logs_of(plan: Plan) -> dict[tuple[str, str], tuple[float, ...]]:
    """Log probabilities by own heads of the candidates of every query."""
    parts = [read_part(location, arrow_schema(UserLabelLogs)) for location in plan.stage("adapter.codes").parts(LABELS)]
    users = [user for part in parts for user in from_table(part, UserLabelLogs)]
    asked = [(user.user_id, logs) for user in users for logs in user.queries if not logs.query_id.startswith("record:")]
    return {(user_id, logs.query_id): logs.by_own for user_id, logs in asked}


def test_ten_daily_slices_end_where_one_fit_ends(finished: Plan, newcomers: list[dict[str, Any]], tmp_path: Path):
    folder = f"{shutil.copytree(finished.config.storage.root, tmp_path / 'root')}/runs/test"
    whole = update_run(finished.run_folder, [written(tmp_path / "whole.jsonl", newcomers)]).plan
    days = [
        [
            {
                "user_id": each["user_id"],
                # What was sent the day before is sent again, and counts once.
                "history": [*each["history"][max(day - 1, 0) :: NUM_DAYS][:1], *each["history"][day::NUM_DAYS]],
                "queries": each["queries"] if day == NUM_DAYS - 1 else [],
            }
            for each in newcomers
        ]
        for day in range(NUM_DAYS)
    ]
    files = [written(tmp_path / f"day-{number}.jsonl", rows) for number, rows in enumerate(days)]
    *_, last = [update_run(folder, [file]).plan for file in files]
    assert len(updates_of(str(tmp_path / "root"), "test")) == NUM_DAYS
    found, expected = codes_of(last), codes_of(whole)
    assert set(found) == {each["user_id"] for each in newcomers}
    for each in newcomers:
        mine, theirs = found[each["user_id"]], expected[each["user_id"]]
        assert mine["num_groups"] == theirs["num_groups"] == len(each["history"])
        np.testing.assert_allclose(mine["code"], theirs["code"], atol=1e-6)
        np.testing.assert_allclose(mine["precision"], theirs["precision"], rtol=2e-3)  # of 16 bits
        assert np.abs(theirs["code"]).max() > 0.05
    logs, expected_logs = logs_of(last), logs_of(whole)
    assert logs
    assert set(logs) == set(expected_logs)
    for key, values in logs.items():
        np.testing.assert_allclose(values, expected_logs[key], atol=1e-6)
