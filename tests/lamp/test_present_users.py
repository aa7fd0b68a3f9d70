"""Users stage of a refreshed run: everybody as of now, and which queries are still asked."""

from pathlib import Path
from typing import Any

import pytest
from user_runs import Row, Runs, record

from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.forget.removal import forget_users


def query(text: str, target: str | None = "romance", **fields: Any) -> Row:
    return {"input": text, **({} if target is None else {"target": target}), **fields}


def taught(name: str) -> Row:
    return {"user_id": name, "is_new": False, "history": [record(f"{name}1"), record(f"{name}2")], "queries": []}


@pytest.fixture
def runs(make_config: Any, tags: Task, tmp_path: Path) -> Runs:
    """A finished run: a and b teach, n is new."""
    made = Runs(make_config, tags, tmp_path)
    rows = [
        {**taught("a"), "queries": [query("a asks", id="q")]},
        taught("b"),
        {**taught("n"), "is_new": True, "queries": [query("n asks", None, id="q"), query("n asks more", id="p")]},
    ]
    made.finish(made.config("base", rows))
    return made


def asked(runs: Runs, user_id: str) -> dict[str, tuple[str, str | None]]:
    return {each.query_id: (each.input, each.target) for each in runs.users("refreshed")[user_id].queries}


def test_without_updates_it_is_the_run_itself(runs: Runs):
    counters = runs.refresh("refreshed", "base")
    assert runs.users("refreshed") == runs.users("base")
    told = ("users", "train_users", "new_users", "records", "queries", "users_of_updates", "left_out_queries")
    assert [counters[each] for each in told] == [3, 2, 1, 6, 3, 0, 0]


def test_everybody_has_the_newest_history_and_who_came_teaches(runs: Runs):
    runs.update("base+1", [{"user_id": "a", "history": [record("a3", id="r")]}, taught("z")], "base")
    changes = [record("a4", id="r", op="replace"), {"id": "0", "op": "delete"}]
    runs.update("base+2", [{"user_id": "a", "history": changes}], "base+1")
    counters = runs.refresh("refreshed", "base+2")
    found = runs.users("refreshed")
    assert [each.input for each in found["a"].history] == ["a2", "a4"]
    assert {name: user.is_new for name, user in found.items()} == {"a": False, "b": False, "n": True, "z": False}
    assert (counters["users_of_updates"], counters["records"]) == (1, 8)


def test_queries_of_updates_are_asked_again_where_their_targets_are_known(runs: Runs):
    rows = [
        {"user_id": "a", "queries": [query("a asks", "comedy", id="q"), query("nobody knows", None, id="u")]},
        {"user_id": "n", "queries": [query("n asks", "comedy", id="q"), query("another", id="p")]},
        {**taught("z"), "is_new": True, "queries": [query("z asks", id="q"), query("nobody knows", None, id="u")]},
    ]
    runs.update("base+1", rows, "base")
    runs.refresh("refreshed", "base+1")
    assert asked(runs, "a") == {"q": ("a asks", "comedy")}
    expected = {"q": ("n asks", "comedy"), "p": ("n asks more", "romance"), "base+1:p": ("another", "romance")}
    assert asked(runs, "n") == expected
    assert asked(runs, "z") == {"q": ("z asks", "romance")}


def test_a_query_is_left_out_once_a_record_answers_it(runs: Runs):
    runs.update("base+1", [{"user_id": "n", "history": [record("N  asks")]}], "base")
    named = [{**taught("z"), "queries": [query("soon a record", id="record:r")]}]
    runs.update("base+2", [*named, {"user_id": "a", "queries": [query("a1", id="known")]}], "base+1")
    runs.update("base+3", [{"user_id": "z", "history": [record("other", id="r")]}], "base+2")
    counters = runs.refresh("refreshed", "base+3")
    assert asked(runs, "n") == {"p": ("n asks more", "romance")}
    assert asked(runs, "z") == {}
    # It was known when it was asked, as in a file that has both.
    assert "known" in asked(runs, "a")
    assert (counters["left_out_queries"], counters["leaking_users"]) == (2, 1)


def test_forgotten_users_are_not_there(runs: Runs):
    runs.update("base+1", [taught("z"), {"user_id": "a", "history": [record("a3")]}], "base")
    forget_users(runs.stages["base"].root, ["a", "z"])
    runs.refresh("refreshed", "base+1")
    assert set(runs.users("refreshed")) == {"b", "n"}


@pytest.mark.parametrize(("gone", "said"), [(["n"], "who is answered"), (["a", "b"], "who teaches")])
def test_without_anybody_to_teach_or_to_answer_there_is_no_run(runs: Runs, gone: list[str], said: str):
    forget_users(runs.stages["base"].root, gone)
    with pytest.raises(InputError, match=f"of the run base and its updates nobody is left {said}"):
        runs.refresh("refreshed", "base")
