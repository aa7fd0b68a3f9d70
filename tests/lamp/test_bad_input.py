"""Each row of the table of bad input, through the stage that reads users."""

import logging
import os
from pathlib import Path

import pytest
from bad_input import ACCEPTED, CASES, ERROR, LAMP, RATINGS, REJECTED, TEXT, files_of, page, user_row
from bytes_below import files_below

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.lamp.field_checks import MAX_REASON_CHARACTERS
from hydra_ray.lamp.users import ingest
from hydra_ray.rows import Rejected, User, arrow_schema, from_table

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-input.md"
TRAINING_USER = {**user_row("trained"), "is_new": False}
ROWS = [(case, format_) for case in CASES for format_ in case.formats]


def lamp_section(folder: Path, format_: str, files: dict[str, bytes], task: object) -> dict:
    """The configuration of users who are in `files`, beside one good training user."""
    folder.mkdir()
    if format_ == LAMP:
        training = files_of(LAMP, [TRAINING_USER])
        files = {**files, **{name.replace("dev", "train"): content for name, content in training.items()}}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if format_ == LAMP:
        return {"task": task, "root": str(folder)}
    (folder / "trained.jsonl").write_bytes(files_of(".jsonl", [TRAINING_USER])["users.jsonl"])
    return {"task": task, "users_files": [str(folder / name) for name in ("trained.jsonl", *files)]}


def rows_of(stage, table, row_type):
    return [
        row
        for part in stage.parts(table)
        for row in from_table(storage.read_part(part, arrow_schema(row_type)), row_type)
    ]


@pytest.mark.parametrize(("case", "format_"), ROWS, ids=[f"{case.wrong} in {format_}" for case, format_ in ROWS])
def test_what_is_wrong_has_the_outcome_that_the_table_says(case, format_, make_config, stage, tags, tmp_path, caplog):
    section = lamp_section(tmp_path / "in", format_, case.make(format_), tags.model_dump())
    config = make_config(section, max_rejected_fraction=0.9)
    if case.outcome == ERROR:
        with pytest.raises(InputError) as caught:
            ingest(config, stage)
        assert case.detail in str(caught.value)
        assert str(tmp_path / "in") in str(caught.value)
        assert not list(stage.committed_buckets("users"))
        return
    if case.wrong.startswith("NaN in the place"):  # a column of numbers, so that no good user can stand beside it
        section["users_files"].append(str(tmp_path / "in" / "good.jsonl"))
        (tmp_path / "in" / "good.jsonl").write_bytes(files_of(".jsonl", [user_row("good")])["users.jsonl"])
        config = make_config(section, max_rejected_fraction=0.9)
    ingest(config, stage)
    prefix = "dev:" if format_ == LAMP else ""
    users = {user.user_id: user for user in rows_of(stage, "users", User)}
    rejected = rows_of(stage, "rejected", Rejected)
    assert f"{prefix}good" in users
    accepted = users.keys() - {f"{prefix}good", "trained", "train:trained"}
    if case.outcome == ACCEPTED:
        assert not rejected
        (user_id,) = accepted
        (query,) = users[user_id].queries
        found = {"query": query.input, "target": query.target}
        for record in users[user_id].history:
            found |= {name: getattr(record, name) for name in ("record_id", "input", "output", "date")}
        assert not case.field or found[case.field] == case.value
    else:
        assert case.outcome == REJECTED
        (row,) = rejected
        assert case.detail in row.reason
        assert row.source.endswith(("dev_questions.json", "users.jsonl", "users.parquet", "users.csv"))
        assert len(row.reason) <= MAX_REASON_CHARACTERS
        assert any(record.levelno == logging.WARNING for record in caplog.records)
        assert all(each.isprintable() for each in row.reason)


@pytest.mark.parametrize("format_", TEXT)
@pytest.mark.parametrize(("written", "rating"), RATINGS)
def test_a_rating_is_a_label_however_it_is_written_or_rejected(written, rating, format_, make_config, stage, tmp_path):
    task = {
        "name": "stars",
        "kind": "rating",
        "instruction": "Which tag?",
        "input_pattern": r"Which tag\? text:(?P<input>.+)",
        "labels": list("12345"),
        "record_output": "tag",
    }
    history = [{"id": "r", "input": "a text", "output": written}]
    queries = [{"id": "q", "input": "a query", "target": "3"}]
    people = [user_row(history=history, queries=queries), user_row("good", history=[], queries=queries)]
    section = lamp_section(tmp_path / "in", format_, files_of(format_, people), task)
    for path in (tmp_path / "in").glob("t*"):  # the training user's own labels
        path.write_bytes(path.read_bytes().replace(b"comedy", b"1").replace(b"romance", b"1"))
    ingest(make_config(section, max_rejected_fraction=0.9), stage)
    outputs = [record.output for user in rows_of(stage, "users", User) for record in user.history]
    assert sorted(outputs) == sorted(["1"] + ([] if rating is None else [rating]))
    assert len(rows_of(stage, "rejected", Rejected)) == (rating is None)


def test_an_id_that_looks_like_a_path_changes_no_path(make_config, stage, tags, tmp_path):
    written = []
    for place, user_id in enumerate(["../../etc/passwd", "ann", "/tmp/x", "..", "s3://bucket/x"]):
        files = files_of(".jsonl", [user_row(user_id)])
        config = make_config(lamp_section(tmp_path / str(place), ".jsonl", files, tags.model_dump()))
        ingest(config, stage)
        written.append(sorted(files_below(stage.root)))
        for part in [*stage.parts("users"), *stage.parts("rejected")]:
            os.unlink(part)
    assert all(each == written[0] for each in written)


def test_the_document_is_the_table():
    assert DOCUMENT.read_text(encoding="utf-8") == page()
