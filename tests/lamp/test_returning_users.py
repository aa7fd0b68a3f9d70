"""Users stage of an update: who was there comes back with what was there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from user_runs import Runs, queries, record, rows_of

from hydra_ray import storage
from hydra_ray.config import Task, UpdateConfig
from hydra_ray.errors import InputError, NothingNewError
from hydra_ray.lamp.changes import content_id
from hydra_ray.rows import Rejected, User
from hydra_ray.runs.updates import updates_of


@pytest.fixture
def no_runs(make_config: Any, tags: Task, tmp_path: Path) -> Runs:
    return Runs(make_config, tags, tmp_path)


@pytest.fixture
def runs(no_runs: Runs) -> Runs:
    """With a finished run of users a to f, who have two records each, and a training user t."""
    runs = no_runs
    rows = [{"user_id": each, "history": [record(f"{each}1"), record(f"{each}2")], "queries": []} for each in "abcdef"]
    runs.finish(runs.config("base", [*rows, {**rows[0], "user_id": "t", "is_new": False}]))
    return runs


def inputs(user: User) -> list[str]:
    return [each.input for each in user.history]


def test_users_come_back_with_what_they_had_and_nobody_else_is_in_it(runs: Runs):
    rows = [
        {"user_id": "a", "history": [record("new")], "queries": queries("q")},
        {"user_id": "t", "queries": queries("q")},
        {"user_id": "x", "history": [record("first")], "queries": []},
    ]
    counters = runs.update("base+1", rows, "base")
    found = runs.users("base+1")
    assert {name: inputs(user) for name, user in found.items()} == {
        "a": ["a1", "a2", "new"],
        "t": ["a1", "a2"],
        "x": ["first"],
    }
    assert [len(found[each].queries) for each in "atx"] == [1, 1, 0]
    assert all(user.is_new and user.fold is None for user in found.values())
    assert (counters["users"], counters["returning_users"], counters["added_records"]) == (3, 2, 2)


def test_each_update_goes_on_from_the_newest_that_has_the_user(runs: Runs):
    runs.update(
        "base+1", [{"user_id": "a", "history": [record("1")]}, {"user_id": "x", "history": [record("x")]}], "base"
    )
    runs.update("base+2", [{"user_id": "b", "history": [record("2")]}], "base+1")
    runs.update("base+3", [{"user_id": each, "history": [record("3")]} for each in "abx"], "base+2")
    found = runs.users("base+3")
    assert [inputs(found[each]) for each in "abx"] == [["a1", "a2", "1", "3"], ["b1", "b2", "2", "3"], ["x", "3"]]
    where = runs.whereabouts("base+3")
    assert [where[each] for each in "abx"] == [("base+3", "base+1"), ("base+3", "base+2"), ("base+3", "base+1")]
    assert [each.run for each in updates_of(runs.stages["base"].root, "base")] == ["base+1", "base+2", "base+3"]


def test_what_is_there_already_changes_nothing(runs: Runs):
    rows = [{"user_id": "a", "history": [record("new"), record("a1")]}]
    runs.update("base+1", rows, "base")
    with pytest.raises(NothingNewError):
        runs.update("base+2", [*rows, {"user_id": "b", "history": [record("b2")], "queries": []}], "base+1")
    assert not list(Path(runs.stages["base"].root, "stages/users", f"{2:016x}").rglob("*"))


def test_only_those_of_whom_something_is_new_are_in_an_update(runs: Runs):
    rows = [{"user_id": each, "history": [record(f"{each}1")]} for each in "abcd"]
    rows += [{"user_id": "e", "history": [record("e3")]}, {"user_id": "f", "history": [{"op": "delete", "id": "0"}]}]
    counters = runs.update("base+1", rows, "base")
    assert {each: inputs(user) for each, user in runs.users("base+1").items()} == {"e": ["e1", "e2", "e3"], "f": ["f2"]}
    assert (counters["users"], counters["added_records"], counters["changed_records"]) == (2, 1, 1)


def test_records_are_replaced_and_deleted(runs: Runs):
    named = [record("wrong", id="r1"), record("right", id="r2")]
    runs.update("base+1", [{"user_id": "a", "history": named}], "base")
    changes = [record("corrected", id="r1", op="replace"), {"id": "0", "op": "delete"}, record("a2", op="delete")]
    runs.update("base+2", [{"user_id": "a", "history": changes}], "base+1")
    assert inputs(runs.users("base+2")["a"]) == ["corrected", "right"]


def test_single_events_may_hold_operations_and_no_newest_record_becomes_a_query(runs: Runs):
    events = [
        {"user_id": "a", "input": "new", "output": "comedy", "op": None},
        {"user_id": "a", "id": "0", "op": "delete"},
        {"user_id": "b", "input": "asked", "op": ""},
    ]
    runs.update("base+1", events, "base")
    found = runs.users("base+1")
    assert inputs(found["a"]) == ["a2", "new"]
    assert found["a"].history[1].record_id == content_id(replace(found["a"].history[1], record_id=""))
    assert [query.input for query in found["b"].queries] == ["asked"]
    assert not found["a"].queries


def test_another_content_under_a_known_id_is_rejected_with_its_user(runs: Runs):
    rows = [{"user_id": "a", "history": [record("other", id="0")]}, {"user_id": "b", "history": [record("new")]}]
    runs.update("base+1", rows, "base")
    assert set(runs.users("base+1")) == {"b"}
    (rejected,) = rows_of(runs.stages["base+1"], "rejected", Rejected)
    assert rejected.sample_id == "a"
    assert "op: replace" in rejected.reason


def test_too_many_rejected_users_stop_an_update(runs: Runs):
    rows = [{"user_id": each, "history": [record("other", id="0")]} for each in "abc"]
    with pytest.raises(InputError, match="rejected 3 of 3 samples"):
        runs.update("base+1", rows, "base")


def test_users_whom_an_earlier_version_added_come_back_too(runs: Runs):
    config = runs.config("base+former", [{"user_id": "x", "history": [record("x1")], "queries": []}], taught_by="base")
    runs.finish(config)
    update = UpdateConfig(follows=("base", "base+former"), handed_in="1")
    rows = [{"user_id": each, "history": [record("new")]} for each in "ax"]
    runs.finish(runs.config("base+1", rows, taught_by="base", update=update))
    assert [inputs(runs.users("base+1")[each]) for each in "ax"] == [["a1", "a2", "new"], ["x1", "new"]]
    assert runs.whereabouts("base+1")["x"] == ("base+1", "base+former")


def test_only_row_groups_of_active_users_are_read(no_runs: Runs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hydra_ray.lamp.users.USERS_PER_CHUNK", 1)
    runs = no_runs
    rows = [{"user_id": each, "is_new": each != "t", "history": [record(each)], "queries": []} for each in "abcdefgt"]
    runs.finish(runs.config("base", rows))
    read: list[int] = []
    known = storage.Part.read_row_group
    monkeypatch.setattr(
        storage.Part, "read_row_group", lambda *given, **named: (read.append(1), known(*given, **named))[1]
    )
    runs.update("base+1", [{"user_id": "c", "queries": queries("q")}], "base")
    assert len(read) == 1
    assert inputs(runs.users("base+1")["c"]) == ["c"]


def written(runs: Runs, run: str) -> dict[Path, bytes]:
    folder = Path(runs.stages[run].folder)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the write of a number fail as if the process had been killed."""

    def stop_at(number: int) -> None:
        left = [number]

        def write(known: Any) -> Any:
            def writing(*given: Any, **named: Any) -> None:
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt
                known(*given, **named)

            return writing

        for name, known in WRITES.items():
            monkeypatch.setattr(f"hydra_ray.storage.{name}", write(known))

    return stop_at


WRITES = {name: getattr(storage, name) for name in ("write_part", "write_row_groups")}


def test_killed_at_any_write_an_update_ends_alike(runs: Runs, stopping: Callable[[int], None]):
    runs.update("base+1", [{"user_id": each, "history": [record("1")]} for each in "abx"], "base")
    rows = [{"user_id": each, "history": [record("2")], "queries": queries("q")} for each in "abcxy"]
    stopping(10**9)
    runs.update("base+whole", rows, "base+1")
    whole, users = written(runs, "base+whole"), runs.users("base+whole")
    num_killed = 0
    for number in range(1, 100):
        stopping(number)
        name = f"base+killed-{number}"
        try:
            runs.update(name, rows, "base+1")
        except KeyboardInterrupt:
            num_killed += 1
            stopping(10**9)
            runs.update(name, rows, "base+1")
        assert runs.users(name) == users
        assert written(runs, name).keys() == whole.keys()
        if num_killed < number:
            break
    assert num_killed == len(whole) >= 6
