"""Drift of a whole run without a generator and its updates, in this process instead of Ray's."""

import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
from builders import run_config
from planted_preferences import PREFERENCE, preferences

from hydra_ray.cli import main
from hydra_ray.commands.drift.drift import drift
from hydra_ray.commands.update import update_run
from hydra_ray.config import RunConfig
from hydra_ray.errors import InputError
from hydra_ray.forget.removal import forget_users
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize

pytestmark = [
    pytest.mark.usefixtures("without_label_encoder"),
    pytest.mark.ray,
    # Third parties: what imports Ray and torch uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]

NUM_FIRST, NUM_LATER = 12, 4
PEOPLE = preferences(40, NUM_FIRST + 2 * NUM_LATER, 0, seed=0, is_new=False)
STRANGERS = preferences(24, NUM_FIRST, 1, seed=1, is_new=True)


def turned(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "chosen": record["rejected"], "rejected": record["chosen"]}


def first_rows() -> list[dict[str, Any]]:
    return [{**row, "history": row["history"][:NUM_FIRST]} for row in PEOPLE] + STRANGERS[:4]


def handed_in(number: int, *, is_turned: bool) -> list[dict[str, Any]]:
    """What half of the people judge next, and at first new ones."""
    start = NUM_FIRST + number * NUM_LATER
    rows: list[dict[str, Any]] = []
    for row in PEOPLE[number::2]:
        judged = row["history"][start : start + NUM_LATER]
        named = [
            {**(turned(each) if is_turned else each), "id": f"{number}-{place}"} for place, each in enumerate(judged)
        ]
        rows.append({"user_id": row["user_id"], "history": named})
    return [*rows, *({**row, "is_new": True} for row in STRANGERS[4:])] if number == 0 else rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def no_encoder(_: RunConfig) -> NoReturn:
    pytest.fail("vectors are kept, and yet texts are encoded")


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run after two updates, in the second of which people prefer what they disliked before."""
    folder = tmp_path_factory.mktemp("judged")
    lamp = {
        "task": PREFERENCE.model_dump(exclude_defaults=True),
        "planted": None,
        "users_files": [write_rows(folder / "users.jsonl", first_rows())],
    }
    plan = personalize(run_config(str(folder / "root"), generator={"engine": "none", "model": ""}, lamp=lamp))
    for number in range(2):
        file = write_rows(folder / f"day-{number}.jsonl", handed_in(number, is_turned=number == 1))
        update_run(plan.run_folder, [file])
    return plan


def test_each_update_is_compared_with_the_start_by_what_is_new_in_it(updated: Plan):
    found = drift(updated.run_folder, no_encoder)
    assert (found.run, found.kind, found.is_of_records, found.deciding) == ("test", "preference", True, "own heads")
    assert (found.start.num_users, found.start.num) == (44, 44 * NUM_FIRST)
    calm, other = found.updates
    # What is judged twice alike, without an id, is one record.
    judged = [{(each["chosen"], each["rejected"]) for each in row["history"]} for row in STRANGERS[4:]]
    assert (calm.runs, calm.num_users) == (("test+day-0",), 20 + len(judged))
    assert calm.num == 20 * NUM_LATER + sum(map(len, judged))
    assert (other.num_users, other.num) == (20, 20 * NUM_LATER)
    changes = [each.figure("own heads").change for each in (calm, other)]
    assert changes[0] is not None
    assert changes[1] is not None
    assert not changes[0].is_above_zero
    assert changes[1].is_above_zero
    assert found.present.runs == ("test+day-0", "test+day-1")


def test_the_command_prints_the_verdict_and_an_update_is_refused(updated: Plan, capsys: pytest.CaptureFixture[str]):
    assert main(["drift", updated.run_folder, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(["drift", updated.run_folder]) == 0
    text = capsys.readouterr().out
    assert text.startswith("REFRESH" if told["verdict"] == "refresh" else "NO SIGN OF DRIFT")
    assert "test+day-1: 20 users, 80 records" in text
    with pytest.raises(InputError, match="give test instead"):
        drift(f"{updated.run_folder}+day-0", no_encoder)


def test_who_was_forgotten_is_in_no_figure(updated: Plan):
    gone = PEOPLE[1]["user_id"]
    forget_users(updated.config.storage.root, [gone])
    found = drift(updated.run_folder, no_encoder)
    assert found.start.num_users == 43
    assert [each.num_users for each in found.updates] == [40, 19]
