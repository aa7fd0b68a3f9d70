"""Refreshes of a run without a generator and its updates, in this process instead of Ray's."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from builders import encode, run_config
from killed_writes import killed_until_it_ends
from own_files import written
from planted_preferences import ASKED, PREFERENCE, preferences

from hydra_ray.cli import main
from hydra_ray.commands.drift.drift import drift
from hydra_ray.commands.refresh import Refreshed, refresh_config, refresh_run, refresh_summary
from hydra_ray.commands.update import update_run
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.forget.removal import forget_users
from hydra_ray.rows import AnsweredUser, User, UserLabelLogs, arrow_schema, from_table
from hydra_ray.runs.lease import lease, run_lease
from hydra_ray.runs.run_folder import read_config
from hydra_ray.runs.updates import updates_of
from hydra_ray.scorer.heads.store import heads_table
from hydra_ray.seeds import seed_of
from hydra_ray.stages.own_heads import LABELS
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.storage import read_json, read_part

pytestmark = [
    pytest.mark.usefixtures("without_label_encoder"),
    pytest.mark.ray,
    # Third parties: what imports Ray and torch uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]

Row = dict[str, Any]
NUM_FIRST = 6


def named(rows: Iterable[Row], letter: str = "r") -> list[Row]:
    """Rows whose records and queries have ids."""
    return [
        {
            **row,
            "history": [{"id": f"{letter}{place}", **each} for place, each in enumerate(row["history"])],
            "queries": [{"id": f"{letter}q{place}", **each} for place, each in enumerate(row["queries"])],
        }
        for row in rows
    ]


TAUGHT = named(preferences(12, NUM_FIRST + 3, 1, seed=0, is_new=False))
ASKED_USERS = named(preferences(4, NUM_FIRST + 2, 2, seed=1, is_new=True))
COMERS = named(preferences(3, NUM_FIRST, 1, seed=2, is_new=True))
BACK, CORRECTED, GONE = (row["user_id"] for row in TAUGHT[:3])
ANSWERED, OTHER = (row["user_id"] for row in ASKED_USERS[:2])
FIRST = [{**row, "history": row["history"][:NUM_FIRST]} for row in [*TAUGHT, *ASKED_USERS]]


def monday() -> list[Row]:
    """New users, and records of one who taught and one who was asked."""
    query = {"id": "later", **preferences(1, 0, 1, seed=7, is_new=True)[0]["queries"][0]}
    untold = {key: value for key, value in query.items() if key != "target"} | {"id": "untold"}
    return [
        *({key: value for key, value in row.items() if key != "is_new"} for row in COMERS),
        {"user_id": BACK, "history": TAUGHT[0]["history"][NUM_FIRST:], "queries": [query]},
        {"user_id": OTHER, "history": ASKED_USERS[1]["history"][NUM_FIRST:], "queries": [untold]},
    ]


def tuesday() -> list[Row]:
    """Records replaced and deleted, and one that answers a query of the run."""
    query = ASKED_USERS[0]["queries"][0]
    (other,) = {*query["candidates"]} - {query["target"]}
    told = {"id": "told", "input": ASKED, "chosen": query["target"], "rejected": other}
    turned = {**TAUGHT[1]["history"][2], "op": "replace"}
    turned |= {"chosen": turned["rejected"], "rejected": turned["chosen"]}
    return [
        {"user_id": CORRECTED, "history": [turned, {"id": "r4", "op": "delete"}]},
        {"user_id": COMERS[0]["user_id"], "history": [{"id": "r1", "op": "delete"}]},
        {"user_id": ANSWERED, "history": [told]},
    ]


def whole() -> list[Row]:
    """Everybody as of Tuesday in one file, put together by hand."""
    users = {row["user_id"]: {**row} for row in FIRST}
    for row in COMERS:
        users[row["user_id"]] = {**row, "is_new": False}
    for row in [*monday(), *tuesday()]:
        own = users[row["user_id"]]
        records = {each["id"]: each for each in own["history"]}
        for each in row.get("history", []):
            if each.get("op") == "delete":
                del records[each["id"]]
            else:
                records[each["id"]] = {key: value for key, value in each.items() if key != "op"}
        own["history"] = list(records.values())
    users[BACK]["queries"] = [*users[BACK]["queries"], *monday()[-2]["queries"]]
    users[ANSWERED]["queries"] = users[ANSWERED]["queries"][1:]
    del users[GONE]
    return list(users.values())


def run_on(folder: Path, rows: Iterable[Row], **sections: Any) -> Plan:
    folder.mkdir(parents=True, exist_ok=True)
    lamp = {
        "task": PREFERENCE.model_dump(exclude_defaults=True),
        "planted": None,
        "users_files": [written(folder / "users.jsonl", rows)],
    }
    config = run_config(str(folder / "root"), generator={"engine": "none", "model": ""}, lamp=lamp, **sections)
    return personalize(config)


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run after two updates, from which somebody was removed. Its files are gone."""
    folder = tmp_path_factory.mktemp("judged")
    plan = run_on(folder, FIRST)
    for day, rows in (("monday", monday()), ("tuesday", tuesday())):
        update_run(plan.run_folder, [written(folder / f"{day}.jsonl", rows)])
    forget_users(plan.config.storage.root, [GONE])
    for file in folder.glob("*.jsonl"):
        file.unlink()
    return plan


@pytest.fixture(scope="module")
def before(updated: Plan) -> dict[Path, bytes]:
    """All files as they were before the refresh."""
    return contents(updated)


@pytest.fixture(scope="module")
def refreshed(updated: Plan, before: dict[Path, bytes]) -> Refreshed:
    assert before
    return refresh_run(updated.run_folder)


@pytest.fixture
def run_folder(updated: Plan, before: dict[Path, bytes], tmp_path: Path) -> str:
    """A copy of the updated run, for the test alone."""
    root = Path(updated.config.storage.root)
    for path, content in before.items():
        copy = tmp_path / "root" / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    return f"{tmp_path}/root/runs/{updated.config.run}"


def contents(plan: Plan) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(plan.config.storage.root).rglob("*") if path.is_file()}


def rows_of(plan: Plan, stage: str, table: str, row_type: type) -> dict[str, Any]:
    parts = [read_part(location, arrow_schema(row_type)) for location in plan.stage(stage).parts(table)]
    return {row.user_id: row for part in parts for row in from_table(part, row_type)}


def users_of(plan: Plan) -> dict[str, User]:
    return rows_of(plan, "users", "users", User)


def codes_of(plan: Plan) -> dict[str, Row]:
    locations = plan.stage("adapter.codes").parts(heads_table(0))
    return {row["user_id"]: row for location in locations for row in read_part(location).to_pylist()}


def test_it_is_a_fresh_run_on_one_file_with_the_whole_history(refreshed: Refreshed, tmp_path: Path):
    fresh = run_on(tmp_path / "fresh", whole())
    assert users_of(refreshed.plan) == users_of(fresh)
    assert codes_of(refreshed.plan) == codes_of(fresh)
    assert any(abs(value) > 0.01 for row in codes_of(fresh).values() for value in row["code"])
    for stage, table, row_type in (
        ("adapter.codes", LABELS, UserLabelLogs),
        ("answers", "answers", AnsweredUser),
    ):
        assert rows_of(refreshed.plan, stage, table, row_type) == rows_of(fresh, stage, table, row_type)
    assert {row.user_id for row in rows_of(fresh, "answers", "answers", AnsweredUser).values() if row.queries}
    for name in ("predictions.json", "predictions.parquet"):
        found, expected = (Path(each.run_folder, name).read_bytes() for each in (refreshed.plan, fresh))
        assert found == expected


def test_the_run_and_its_updates_stay_as_they_are_to_the_byte(
    refreshed: Refreshed, updated: Plan, before: dict[Path, bytes]
):
    after = contents(updated)
    assert {path: after.get(path) for path in before} == before
    assert refreshed.plan.run_folder == f"{updated.run_folder}.refreshed"
    assert [each.run for each in updates_of(updated.config.storage.root, "test")] == ["test+monday", "test+tuesday"]


def test_what_is_taken_and_left_out_is_told(refreshed: Refreshed):
    summary = refresh_summary(refreshed)
    records = sum(len(row["history"]) for row in whole())
    queries = sum(len(row["queries"]) for row in whole())
    assert summary["run"] == "test.refreshed"
    assert (summary["of"], summary["is_made_now"]) == ("test", True)
    assert (summary["num_users"], summary["users_of_updates"]) == (len(whole()), len(COMERS))
    assert (summary["num_records"], summary["num_queries"], summary["left_out_queries"]) == (records, queries, 1)
    assert (summary["requests"], summary["kept"], summary["asked_now"]) == (0, 0, 0)


def test_the_same_again_is_nothing_to_do(refreshed: Refreshed, updated: Plan, capsys: pytest.CaptureFixture[str]):
    files = contents(updated)
    again = refresh_run(updated.run_folder)
    assert (again.is_made_now, again.plan.run_folder) == (False, refreshed.plan.run_folder)
    assert main(["refresh", updated.run_folder, "placement.train_threads=1"]) == 0
    assert capsys.readouterr().out.startswith("nothing to do: test.refreshed is the refresh of test as of its newest")
    assert main(["refresh", updated.run_folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_made_now"] is False
    assert contents(updated) == files


def test_updates_drift_and_the_next_refresh_go_on_from_it(refreshed: Refreshed, run_folder: str, tmp_path: Path):
    first = refresh_run(run_folder).plan
    shutil.rmtree(run_folder)  # who is refreshed needs the former run no more
    rows = [{"user_id": each["user_id"], "history": [{**each["history"][0], "id": "new"}]} for each in TAUGHT[3:]]
    update = update_run(first.run_folder, [written(tmp_path / "friday.jsonl", rows)]).plan
    assert update.config.run == "test.refreshed+friday"
    assert len(users_of(update)[TAUGHT[3]["user_id"]].history) == NUM_FIRST + 1
    found = drift(first.run_folder, lambda _: encode)
    assert (found.run, found.start.num_users) == ("test.refreshed", len(whole()))
    assert [each.runs for each in found.updates] == [("test.refreshed+friday",)]
    again = refresh_run(first.run_folder).plan
    assert again.config.run == "test.refreshed-2"
    assert len(users_of(again)) == len(users_of(first)) == len(users_of(refreshed.plan))


def test_after_another_update_or_with_other_settings_it_is_another_run(
    refreshed: Refreshed, run_folder: str, tmp_path: Path
):
    assert refreshed.is_made_now
    refresh_run(run_folder)
    row = {"user_id": OTHER, "history": [{"id": "wednesday", **ASKED_USERS[2]["history"][0]}]}
    row["history"][0]["id"] = "wednesday"
    update_run(run_folder, [written(tmp_path / "wednesday.jsonl", [row])])
    assert refresh_config(run_folder).run == "test.refreshed-2"
    with pytest.raises(InputError, match=r"there is a run test.refreshed already.*give another --name"):
        refresh_run(run_folder, "test.refreshed")
    with pytest.raises(InputError, match="there is a run test already"):
        refresh_run(run_folder, "test")
    plan = refresh_run(run_folder, "anew", ["adapter.heads.seed=1"]).plan
    assert users_of(plan)[OTHER].history[-1].record_id == "wednesday"


def test_killed_again_and_again_it_ends_alike(refreshed: Refreshed, run_folder: str, monkeypatch: pytest.MonkeyPatch):
    made, num_kills = killed_until_it_ends(monkeypatch, lambda: refresh_run(run_folder), lambda number: number)
    assert num_kills > 3
    assert made.plan.config.run == "test.refreshed"
    ended, expected = (Path(each.run_folder, "predictions.json").read_bytes() for each in (made.plan, refreshed.plan))
    assert ended == expected
    assert codes_of(made.plan) == codes_of(refreshed.plan)


def test_who_is_forgotten_in_the_middle_is_not_taken(run_folder: str, monkeypatch: pytest.MonkeyPatch):
    root = run_folder.removesuffix("/runs/test")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hydra_ray.stages.run.publish", stopped)
        with pytest.raises(KeyboardInterrupt):
            refresh_run(run_folder)
    forget_users(root, [BACK, COMERS[0]["user_id"]])
    plan = refresh_run(run_folder).plan
    assert not {BACK, COMERS[0]["user_id"], GONE} & users_of(plan).keys()


def test_an_update_that_was_not_finished_is_refused(
    run_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    Path(f"{run_folder}+tuesday", "stages.json").unlink()
    assert main(["refresh", run_folder]) == 2
    assert f"the update test+tuesday was not finished: hand its files in to `hydra-ray update {run_folder}` again" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "said"), [("test", "is at work on the run test: "), ("test+", "an update of the run test is under way")]
)
def test_a_run_at_work_is_refused(run_folder: str, name: str, said: str):
    with (
        lease(run_lease(run_folder.removesuffix("/runs/test"), name), "a test"),
        pytest.raises(InputError, match=said),
    ):
        refresh_run(run_folder)


def test_runs_that_cannot_be_refreshed_are_mistakes(run_folder: str, tmp_path: Path):
    with pytest.raises(InputError, match="is an update of the run test: give test instead"):
        refresh_run(f"{run_folder}+monday")
    with pytest.raises(InputError, match="no run at"):
        refresh_run(str(tmp_path / "runs" / "none"))
    Path(run_folder, "stages.json").unlink()
    with pytest.raises(InputError, match="is not finished: run its configuration to the end first"):
        refresh_run(run_folder)


@pytest.mark.parametrize(
    "override",
    ["lamp.users_files=[/a.jsonl]", "users.num_folds=2", "storage.root=/tmp", "taught_by=other", "refresh.of=other"],
)
def test_who_the_users_are_cannot_be_overridden(run_folder: str, override: str):
    with pytest.raises(ConfigError, match=rf"{override.partition('=')[0]} cannot be overridden: a refresh takes users"):
        refresh_config(run_folder, None, [override])


def test_a_stage_that_a_retry_removed_is_missed(run_folder: str):
    config = read_config(run_folder)
    recorded = read_json(f"{run_folder}/stages.json")["users"]["fingerprint"]
    Path(config.storage.root, "stages", "users", recorded, "manifest.json").unlink()
    with pytest.raises(InputError, match="the stage users of the run test is not there any more"):
        refresh_run(run_folder)


def test_everybody_of_a_cross_fitted_run_gets_a_fold(tmp_path: Path):
    people = [{**row, "is_new": True} for row in FIRST]
    plan = run_on(tmp_path, people, users={"num_folds": 2})
    update_run(plan.run_folder, [written(tmp_path / "monday.jsonl", monday())])
    found = users_of(refresh_run(plan.run_folder).plan)
    folds = {row["user_id"]: seed_of(0, "fold", row["user_id"]) % 2 for row in COMERS}
    assert {name: found[name].fold for name in folds} == folds
    assert {name: user.fold for name, user in users_of(plan).items()} == {
        name: user.fold for name, user in found.items() if name not in folds
    }
