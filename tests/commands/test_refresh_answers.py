"""Refresh of a run with a generator: what it has answered is kept. The fake generator, in this process instead of
Ray's."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from builders import run_config
from own_files import written

from hydra_ray.cli import main
from hydra_ray.commands.refresh import Refreshed, refresh_config, refresh_run, refresh_summary
from hydra_ray.commands.update import update_run
from hydra_ray.rows import AnsweredUser, ProbedUser, User, arrow_schema, from_table
from hydra_ray.stages.came_back import earlier_rows
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize
from hydra_ray.stages.tables import read_users
from hydra_ray.storage import read_part

pytestmark = [
    pytest.mark.usefixtures("without_ray"),
    pytest.mark.ray,
    # Third parties: what imports Ray and torch uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]

LABELS = ("comedy", "romance", "fantasy", "mystery")
TEACHING, NEW = [f"train-{n}" for n in range(6)], ["new-0", "new-1"]
BACK, COMER = NEW[0], "june-0"


def rows_of(ids: list[str], *, is_new: bool) -> list[dict[str, Any]]:
    """Users with five records and a query each."""
    rows: list[dict[str, Any]] = []
    for user_id in ids:
        random = Random(user_id)
        pairs = [random.sample(LABELS, 2) for _ in range(6)]
        told = [{"id": f"{n}", "input": f"a story of {a} and {b}", "output": a} for n, (a, b) in enumerate(pairs)]
        query = {"id": "q", "input": f"the {told[-1]['input']}", "target": told[-1]["output"]}
        rows.append({"user_id": user_id, "is_new": is_new, "history": told[:-1], "queries": [query]})
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("finished")
    rows = [*rows_of(TEACHING, is_new=False), *rows_of(NEW, is_new=True)]
    lamp = {"planted": None, "users_files": [written(folder / "users.jsonl", rows)]}
    scorer = {"base": {**run_config().reranker.base.model_dump(), "num_epochs": 0, "width": 0}}
    return personalize(run_config(str(folder / "root"), lamp=lamp, reranker=scorer, adapter=scorer))


@pytest.fixture(scope="module")
def updated(finished: Plan, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The update, by a user who comes back with a record and by a new one."""
    back = {"user_id": BACK, "history": [{"id": "new", "input": "a story of comedy and war", "output": "comedy"}]}
    file = written(tmp_path_factory.mktemp("june") / "june.jsonl", [back, *rows_of([COMER], is_new=True)])
    return update_run(finished.run_folder, [file]).plan


@pytest.fixture(scope="module")
def known(finished: Plan, updated: Plan) -> dict[str, set[str]]:
    """Requests that were answered before the refresh."""
    assert updated.is_complete()
    return answered_requests(finished)


@pytest.fixture(scope="module")
def refreshed(finished: Plan, known: dict[str, set[str]]) -> Refreshed:
    assert known
    return refresh_run(finished.run_folder)


def answered_requests(plan: Plan) -> dict[str, set[str]]:
    """The ids of the requests in every file of the store of answers."""
    files = Path(plan.completions.folder).rglob("*.parquet")
    return {str(file): set(read_part(str(file))["request_id"].to_pylist()) for file in files}


def table_of(plan: Plan, stage: str, row_type: type) -> dict[str, Any]:
    parts = [read_part(location, arrow_schema(row_type)) for location in plan.stage(stage).parts(stage)]
    return {row.user_id: row for part in parts for row in from_table(part, row_type)}


def test_no_request_is_asked_that_was_answered_before(refreshed: Refreshed, known: dict[str, set[str]]):
    now = answered_requests(refreshed.plan)
    former = set().union(*known.values())
    asked = {file: found for file, found in now.items() if file not in known}
    assert asked
    assert all(found.isdisjoint(former) for found in asked.values())
    assert {file: now.get(file) for file in known} == known
    summary = refresh_summary(refreshed)
    assert summary["asked_now"] == len(set().union(*asked.values()))
    assert summary["kept"] == summary["requests"] - summary["asked_now"]
    assert summary["kept"] > summary["asked_now"]


def test_pseudo_queries_and_probes_go_on_from_the_newest_run(refreshed: Refreshed, finished: Plan, updated: Plan):
    found = table_of(refreshed.plan, "probes", ProbedUser)
    before = table_of(finished, "probes", ProbedUser) | table_of(updated, "probes", ProbedUser)
    assert found.keys() == before.keys() == {*TEACHING, *NEW, COMER}
    for user_id, row in found.items():
        now, then = ([each for each in own.queries if each.is_pseudo] for own in (row, before[user_id]))
        assert now
        assert now == then


def test_who_is_asked_of_the_run_is_answered_again(refreshed: Refreshed, finished: Plan):
    users, answers = table_of(refreshed.plan, "users", User), table_of(refreshed.plan, "answers", AnsweredUser)
    assert [users[COMER].is_new, users[BACK].is_new, len(users[BACK].history)] == [False, True, 6]
    assert answers.keys() >= set(NEW)
    assert {each.query_id for each in answers[BACK].queries} == {"q"}
    systems = [{each.system for each in table_of(plan, "answers", AnsweredUser)[BACK].queries[0].answers}
               for plan in (refreshed.plan, finished)]  # fmt: skip
    assert systems[0] == systems[1]


def test_other_prompts_begin_with_other_probes(refreshed: Refreshed, finished: Plan):
    users = read_users(refreshed.plan, 0)
    assert earlier_rows(refreshed.plan, 0, users).keys() == {user.user_id for user in users}
    assert not earlier_rows(refreshed.plan, 0, users, has_drafts=True)
    for override in ("generator.seed=1", "probes.num_records=4", "retrieve.k1=2"):
        plan = plan_run(refresh_config(finished.run_folder, "other", [override]))
        assert not earlier_rows(plan, 0, users)


def test_the_command_tells_what_was_kept(refreshed: Refreshed, finished: Plan, capsys: pytest.CaptureFixture[str]):
    assert main(["refresh", finished.run_folder]) == 0
    printed = capsys.readouterr().out
    summary = refresh_summary(refreshed)
    assert f"test.refreshed: 9 users, 1 of whom came with updates; 46 records; {summary['num_queries']} queries" in (
        printed
    )
    assert f"{summary['requests']} requests: {summary['kept']} answers kept, {summary['asked_now']} asked" in printed
    assert f"from now on: hydra-ray update {finished.run_folder}.refreshed" in printed
