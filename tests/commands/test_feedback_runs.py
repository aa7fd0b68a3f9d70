"""Feedback on the answers of a run and of its updates, without a generator and without Ray."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import run_config
from killed_writes import killed_until_it_ends
from own_files import written
from planted_preferences import PREFERENCE, preferences

from hydra_ray.cli import main
from hydra_ray.commands.update import update_config, update_run
from hydra_ray.errors import InputError, NothingNewError
from hydra_ray.forget.removal import forget_users
from hydra_ray.lamp.choices import Choice, choices_told
from hydra_ray.rows import AnsweredUser, Rejected, User, arrow_schema, from_table
from hydra_ray.runs.run_folder import write_config
from hydra_ray.runs.updates import updates_of
from hydra_ray.scorer.heads.store import heads_table
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.storage import read_part

pytestmark = pytest.mark.usefixtures("without_ray")
ROWS = [*preferences(12, 6, 1, seed=0, is_new=False), *preferences(6, 4, 2, seed=1, is_new=True)]
ANN, BOB, EVE, DAN, *_ = [row["user_id"] for row in ROWS if row["is_new"]]
ASKED = {row["user_id"]: [query["candidates"] for query in row["queries"]] for row in ROWS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("feedback")
    lamp = {"planted": None, "task": PREFERENCE.model_dump(exclude_defaults=True)}
    lamp["users_files"] = [written(folder / "users.jsonl", ROWS)]
    return personalize(run_config(str(folder / "root"), generator={"engine": "none", "model": ""}, lamp=lamp))


@pytest.fixture
def run_folder(finished: Plan, tmp_path: Path) -> str:
    """A copy of the finished run, for the test alone."""
    shutil.copytree(finished.config.storage.root, tmp_path / "root")
    return f"{tmp_path}/root/runs/{finished.config.run}"


def rows_of(plan: Plan, stage: str, table: str, row_type: type) -> list[Any]:
    parts = [read_part(location, arrow_schema(row_type)) for location in plan.stage(stage).parts(table)]
    return [row for part in parts for row in from_table(part, row_type)]


def users_of(plan: Plan) -> dict[str, User]:
    return {user.user_id: user for user in rows_of(plan, "users", "users", User)}


def answer_of(plan: Plan, user_id: str, place: int = 0) -> str:
    (user,) = (row for row in rows_of(plan, "answers", "answers", AnsweredUser) if row.user_id == user_id)
    return next(each.value for each in user.queries[place].answers if each.system == "hydra")


def codes_of(plan: Plan) -> dict[str, Any]:
    locations = plan.stage("adapter.codes").parts(heads_table(0))
    return {row["user_id"]: row for location in locations for row in read_part(location).to_pylist()}


def told_by(user: User) -> list[tuple[str, list[str]]]:
    """The preferred candidate and the others, of each choice that a user's feedback tells."""
    records = [each for each in user.history if each.record_id.startswith("feedback:")]
    return [
        (each.output, [other for other in Choice.of_text(each.input).candidates if other != each.output])
        for record in records
        for each in choices_told(record)
    ]


def test_what_people_say_is_learned_from_as_if_it_had_been_a_record(finished: Plan, run_folder: str, tmp_path: Path):
    given = {each: answer_of(finished, each) for each in (ANN, BOB, EVE, DAN)}
    first, second = ASKED[EVE][0]
    (other,) = {*ASKED[BOB][0]} - {given[BOB]}
    said = [
        {"user_id": ANN, "query_id": "0", "thumb": "up"},
        {"user_id": BOB, "query_id": "0", "thumb": "down"},
        {"user_id": EVE, "query_id": "0", "chosen": 1},
        {"user_id": DAN, "query_id": "0", "edited": "The story of my own."},
    ]
    plan = update_run(run_folder, [written(tmp_path / "said.jsonl", said)], is_feedback=True).plan
    users = users_of(plan)
    assert set(users) == {ANN, BOB, EVE, DAN}
    counters = plan.users.manifest()["counters"]
    assert (counters["feedback"], counters["judged_answers"]) == (4, 4)
    assert counters["preferred_answers"] == 1 + (given[EVE] == second)
    expected = {ANN: given[ANN], BOB: other, EVE: second, DAN: "The story of my own."}
    assert {name: told_by(user)[0][0] for name, user in users.items()} == expected
    assert told_by(users[EVE]) == [(second, [first])]
    assert told_by(users[DAN]) == [("The story of my own.", sorted(ASKED[DAN][0]))]
    # The same choice, handed in as a record.
    record = {"user_id": EVE, "history": [{"input": "Which story?", "chosen": second, "rejected": first}]}
    other_root = shutil.copytree(finished.config.storage.root, tmp_path / "other")
    as_record = update_run(f"{other_root}/runs/test", [written(tmp_path / "records.jsonl", [record])]).plan
    found, expected_code = (codes_of(each)[EVE] for each in (plan, as_record))
    assert found["num_groups"] == expected_code["num_groups"] == 5
    np.testing.assert_allclose(found["code"], expected_code["code"], atol=1e-12)


def test_the_same_again_changes_nothing_and_the_last_word_counts(run_folder: str, tmp_path: Path):
    file = written(tmp_path / "said.jsonl", [{"user_id": EVE, "query_id": "0", "chosen": 1}])
    first = update_run(run_folder, [file], is_feedback=True)
    copy = shutil.copy(file, tmp_path / "copy.jsonl")
    again = update_run(run_folder, [str(copy)], is_feedback=True)
    assert (first.is_made_now, again.is_made_now, again.plan.run_folder) == (True, False, first.plan.run_folder)
    said = [{"user_id": EVE, "query_id": "0", "chosen": 0}, {"user_id": EVE, "query_id": "0", "chosen": "1"}]
    with pytest.raises(NothingNewError):
        update_run(run_folder, [written(tmp_path / "more.jsonl", said)], is_feedback=True)
    said.append({"user_id": EVE, "query_id": "0", "chosen": 0})
    other = update_run(run_folder, [written(tmp_path / "other.jsonl", said)], is_feedback=True)
    assert [best for best, _ in told_by(users_of(other.plan)[EVE])] == [ASKED[EVE][0][0]]
    counters = other.plan.users.manifest()["counters"]
    assert (counters["feedback"], counters["judged_answers"]) == (3, 1)


def test_the_newest_answer_to_a_query_is_meant_unless_its_run_is_named(run_folder: str, tmp_path: Path):
    asked = {"user_id": EVE, "queries": [{"id": "0", "candidates": ["new", "old"]}]}
    update_run(run_folder, [written(tmp_path / "june.jsonl", [asked])])
    said = {"user_id": EVE, "query_id": "0", "chosen": 0}
    newest = update_run(run_folder, [written(tmp_path / "a.jsonl", [said])], is_feedback=True).plan
    assert told_by(users_of(newest)[EVE]) == [("new", ["old"])]
    named = [said | {"run": "test"}, said | {"query_id": "1"}]
    plan = update_run(run_folder, [written(tmp_path / "b.jsonl", named)], is_feedback=True).plan
    assert {best for best, _ in told_by(users_of(plan)[EVE])} == {"new", ASKED[EVE][0][0], ASKED[EVE][1][0]}


def test_bad_rows_are_rejected_with_their_reason_and_others_count(run_folder: str, tmp_path: Path):
    good = [{"user_id": user_id, "query_id": each, "chosen": 0} for user_id in (ANN, BOB, EVE, DAN) for each in "01"]
    bad = [
        {"user_id": "nobody", "query_id": "0", "thumb": "up"},
        {"user_id": ANN, "query_id": "9", "thumb": "up"},
        {"user_id": ANN, "query_id": "0", "chosen": "none of them"},
        {"user_id": ANN, "query_id": "0", "run": "test+never", "chosen": 0},
        {"user_id": ROWS[0]["user_id"], "query_id": "0", "chosen": 0},
        {"user_id": ANN, "query_id": "0", "chosen": 0, "thumb": "up"},
    ]
    file = written(tmp_path / "said.jsonl", [*good, *bad])
    with pytest.raises(InputError, match=r"rejected 6 of 14 samples.*neither the run nor an update"):
        update_run(run_folder, [file], is_feedback=True)
    assert not updates_of(f"{tmp_path}/root", "test")
    plan = update_run(run_folder, [file], None, ["users.max_rejected_fraction=0.5"], is_feedback=True).plan
    assert {name: len(told_by(user)) for name, user in users_of(plan).items()} == dict.fromkeys((ANN, BOB, EVE, DAN), 2)
    reasons = {each.position: each.reason for each in rows_of(plan, "users", "rejected", Rejected)}
    assert reasons == {
        8: "neither the run nor an update of it has answered this user",
        9: "the run and its updates have answered no query '9' of this user",
        10: "the chosen answer is none of the 2 candidates, nor the place of one",
        11: "the run 'test+never' has answered no query '0' of this user",
        12: "neither the run nor an update of it has answered this user",
        13: "the row has chosen and thumb to say; expected one of chosen, thumb, edited",
    }


def test_killed_it_goes_on_and_forgotten_users_are_in_none(
    run_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said = [{"user_id": each, "query_id": "0", "chosen": 0} for each in (ANN, BOB)]
    file = written(tmp_path / "said.jsonl", said)
    # At every write once.
    plan, num_kills = killed_until_it_ends(
        monkeypatch, lambda: update_run(run_folder, [file], is_feedback=True).plan, lambda number: number
    )
    assert num_kills > 2
    assert set(users_of(plan)) == {ANN, BOB}
    (outcome,) = forget_users(f"{tmp_path}/root", [ANN])
    assert outcome.is_removed_now
    assert set(users_of(plan)) == {BOB}
    more = written(tmp_path / "later.jsonl", [*said, {**said[1], "query_id": "1"}])
    later = update_run(run_folder, [more], is_feedback=True).plan
    assert set(users_of(later)) == {BOB}


def test_it_is_a_command(run_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "said.csv"
    file.write_text(f"user_id,query_id,thumb\n{ANN},0,up\n")
    assert main(["feedback", run_folder, "--file", str(file), "--name", "monday"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("test+monday: 1 user came back, 0 new users, 1 new record, ")
    assert main(["feedback", run_folder, "--file", str(file)]) == 0
    assert capsys.readouterr().out.startswith("nothing is changed")


def test_records_that_are_documents_learn_nothing_from_it(tmp_path: Path):
    config = run_config(str(tmp_path), lamp={"task": "LaMP_7", "planted": None, "root": "/lamp"})
    write_config(f"{tmp_path}/runs/test", config)
    with pytest.raises(InputError, match="are documents of the user and no answers"):
        update_config(f"{tmp_path}/runs/test", [str(tmp_path / "said.csv")], is_feedback=True)
