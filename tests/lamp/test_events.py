"""Users given as single events."""

import json
import random
from pathlib import Path

import pytest
from own_files import COLUMNS, EVENTS, arrow_file, csv, lines, parquet, read, table, users

from hydra_ray.lamp import bucket_files
from hydra_ray.lamp.events import Events
from hydra_ray.lamp.lamp_files import Sample
from hydra_ray.lamp.users import ingest
from hydra_ray.rows import Query, Record, Rejected, User

ANN = User(
    user_id="ann",
    is_new=False,
    history=(
        Record(record_id="0", input="a joke", output="comedy", date=86400),
        Record(record_id="1", input="a laugh", output="dark comedy", date=0),
    ),
    queries=(Query(query_id="0", input="which?", target="comedy"),),
)
BOB = User(
    user_id="bob",
    is_new=True,
    history=(Record(record_id="0", input='a kiss, "long"\nand slow', output="romance", date=172800),),
    queries=(Query(query_id="0", input="and this?", target="romance"),),
)
HEADER = "user_id,input,output,date\n"


def by_id(found: list[User]) -> dict[str, User]:
    assert len({user.user_id for user in found}) == len(found)
    return {user.user_id: user for user in found}


def tables() -> dict[str, bytes]:
    rows = table([{name: row.get(name) for name in COLUMNS} for row in EVENTS])
    return {"events.csv": csv(rows), "events.jsonl": lines(EVENTS), "e.parquet": parquet(rows), "e": arrow_file(rows)}


@pytest.mark.parametrize("name", tables())
def test_events_are_grouped_into_users_in_every_format(tags, tmp_path, name):
    (tmp_path / name).write_bytes(tables()[name])
    assert by_id(users(tags, tmp_path / name)) == {"ann": ANN, "bob": BOB}


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_csv_with_other_delimiters_is_read(tags, tmp_path, delimiter):
    text = "\r\n".join(delimiter.join(row) for row in (["user_id", "input", "output"], ["ann", "a, b", "comedy"] * 1))
    (tmp_path / "events.csv").write_text("\ufeff" + text)
    (user,) = users(tags, tmp_path / "events.csv")
    assert user.queries[0].input == "a, b"


def test_events_of_one_user_are_joined_over_parts_and_formats(tags, tmp_path):
    for number, row in enumerate(EVENTS):
        content = lines([row]) if number % 2 else parquet(table([row]))
        (tmp_path / f"part-{number}").write_bytes(content)
    assert by_id(users(tags, tmp_path)) == {"ann": ANN, "bob": BOB}


def test_many_events_are_grouped_on_disk_as_in_memory(tags, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_files, "SPILL_BUFFER_CHARACTERS", 200)
    chance = random.Random(0)
    rows = [{"user_id": f"u{chance.randrange(300)}", "input": str(n), "output": "comedy"} for n in range(2000)]
    rows.append({"user_id": "u0", "input": "?", "target": "romance"})
    (tmp_path / "events.jsonl").write_bytes(lines(rows))
    expected: dict[str, list[str]] = {}
    for row in rows[:-1]:
        expected.setdefault(row["user_id"], []).append(row["input"])
    found = users(tags, tmp_path / "events.jsonl")
    assert {user.user_id: [record.input for record in user.history] for user in found} == expected


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "query", "input": "which?", "output": "comedy"},
        {"kind": "Query", "input": "which?", "target": "comedy", "id": "0"},
        {"is_query": True, "input": "which?", "output": "comedy"},
        {"is_query": "true", "input": "which?", "target": "comedy", "query_id": 0},
        {"input": "which?", "target": "comedy"},
    ],
)
def test_a_query_is_told_by_its_kind_or_its_target(tags, tmp_path, row):
    rows = [{"user_id": "ann", "input": "a", "output": "comedy"}, {"user_id": "ann", **row}]
    (tmp_path / "events.jsonl").write_bytes(lines(rows))
    (user,) = users(tags, tmp_path / "events.jsonl")
    assert user.queries == (Query(query_id="0", input="which?", target="comedy"),)
    assert len(user.history) == 1


def test_a_row_with_neither_output_nor_target_is_a_query_where_the_file_has_targets(tags, tmp_path):
    (tmp_path / "e.csv").write_text("user_id,input,output,target\nann,a,comedy,\nann,which?,,\n")
    (user,) = users(tags, tmp_path / "e.csv")
    assert user.queries == (Query(query_id="0", input="which?", target=None),)
    (tmp_path / "e.csv").write_text(HEADER + "ann,a,comedy,\nann,which?,,\n")
    (rejected,) = read(tags, tmp_path / "e.csv")
    assert isinstance(rejected, Rejected)
    assert (rejected.position, rejected.sample_id) == (1, "ann")
    assert "the output is missing" in rejected.reason
    assert "column kind" in rejected.reason


def test_a_row_with_neither_is_a_query_of_an_update(tags, tmp_path):
    events = Events(tags, tmp_path, is_update=True)
    for position, row in enumerate([{"input": "a", "output": "comedy"}, {"input": "which?", "output": None}]):
        assert events.add("e.csv", position, {"user_id": "ann", **row}) is None
    (sample,) = events.users()
    assert isinstance(sample, Sample)
    assert sample.user.queries == (Query(query_id="0", input="which?", target=None),)
    assert [record.output for record in sample.user.history] == ["comedy"]


def test_without_queries_each_users_newest_record_becomes_one(tags, tmp_path):
    text = "ann,old,comedy,1970-01-01\nann,new,romance,1970-01-05\nann,mid,comedy,1970-01-02\nbob,only,comedy,\n"
    (tmp_path / "events.csv").write_text(HEADER + text)
    found = by_id(users(tags, tmp_path / "events.csv"))
    assert [record.input for record in found["ann"].history] == ["old", "mid"]
    assert found["ann"].queries == (Query(query_id="1", input="new", target="romance"),)
    assert found["bob"].queries == (Query(query_id="0", input="only", target="comedy"),)


def test_plain_events_are_a_cross_fitted_runs_users(make_config, stage, tags, tmp_path):
    rows = "".join(f"u{n % 20},text {n},comedy,{n}\n" for n in range(100))
    (tmp_path / "events.csv").write_text(HEADER + rows)
    lamp = {"task": tags.model_dump(), "users_files": f"{tmp_path}/events.csv"}
    counters = ingest(make_config(lamp, num_folds=2), stage)
    assert (counters["users"], counters["records"], counters["queries"]) == (20, 80, 20)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"user_id": " ", "input": "a", "output": "comedy"}, "user_id is empty"),
        ({"user_id": "bad", "input": "a", "output": "horror"}, "is not a label"),
        ({"user_id": "bad", "input": None, "output": "comedy"}, "the input is missing"),
        ({"user_id": "bad", "input": "a", "output": "comedy", "target": "comedy"}, "`kind`"),
        ({"user_id": "bad", "input": "a", "output": "comedy", "kind": "event"}, "kind is neither"),
        ({"user_id": "bad", "input": "a", "output": "comedy", "is_new": "perhaps"}, "not true or false"),
        ({"user_id": "bad", "input": "a", "output": "comedy", "date": "soon"}, "ISO date"),
    ],
)
def test_one_bad_event_rejects_its_user_with_file_and_row(tags, tmp_path, row, reason):
    rows = [*EVENTS, {"user_id": "bad", "input": "fine", "output": "comedy"}, row]
    if not row["user_id"].strip():
        rows.remove({"user_id": "bad", "input": "fine", "output": "comedy"})
    (tmp_path / "events.jsonl").write_bytes(lines(rows))
    (rejected,) = [each for each in read(tags, tmp_path / "events.jsonl") if isinstance(each, Rejected)]
    assert reason in rejected.reason
    assert (rejected.source, rejected.position) == (str(tmp_path / "events.jsonl"), len(rows) - 1)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"is_new": True}, {"is_new": False}], "is_new is true in one row"),
        ([{"id": "r"}, {"id": "r"}], "record 'r' comes twice"),
        ([{"is_new": False}, {"kind": "query", "output": None}], "a query of a training user has no target"),
    ],
)
def test_events_that_contradict_each_other_reject_their_user(tags, tmp_path, rows, reason):
    rows = [{"user_id": "bad", "input": "a", "output": "comedy", **row} for row in rows]
    (tmp_path / "events.jsonl").write_bytes(lines([*rows, *EVENTS]))
    (rejected,) = [each for each in read(tags, tmp_path / "events.jsonl") if isinstance(each, Rejected)]
    assert reason in rejected.reason


def test_a_csv_row_with_too_many_cells_or_a_lone_quote_is_rejected_alone(tags, tmp_path):
    (tmp_path / "e.csv").write_text(HEADER + 'ann,a,comedy,,more\nbob,"a"b,comedy,\neve,a,comedy,1\n')
    found = read(tags, tmp_path / "e.csv")
    assert sorted(each.reason.split(":")[0] for each in found if isinstance(each, Rejected)) == [
        "the row has 5 cells, the header 4",
        "the row is not CSV",
    ]
    assert [each.sample_id for each in found if not isinstance(each, Rejected)] == ["eve"]


def test_max_users_and_forgetting_hold_for_events_too(make_config, stage, tags, tmp_path):
    rows = [{**row, "user_id": f"{row['user_id']}{n}"} for n in range(5) for row in EVENTS]
    (tmp_path / "events.jsonl").write_bytes(lines(rows))
    lamp = {"task": tags.model_dump(), "users_files": [f"{tmp_path}/events.jsonl"]}
    counters = ingest(make_config(lamp, max_users=2), stage)
    assert (counters["train_users"], counters["new_users"]) == (2, 2)
    assert not list(Path(stage.root).rglob("events*"))
    assert json.dumps(counters)
