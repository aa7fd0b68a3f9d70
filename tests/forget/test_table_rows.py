from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray import storage
from hydra_ray.errors import StorageError
from hydra_ray.forget.file_kinds import Artefact, Kind
from hydra_ray.forget.table_rows import count_rows, drop_rows, read_rows
from hydra_ray.rows import Rejected, to_table

SCHEMA = pa.schema([("user_id", pa.string()), ("code", pa.list_(pa.float32()))], {b"own": b"metadata"})


def artefact(location: str, kind: Kind = Kind.TABLE) -> Artefact:
    return Artefact(kind=kind, path="table", location=location)


@examples(max_examples=40)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=4), max_size=4), st.sets(st.sampled_from("abcde")))
def test_rows_of_users_are_counted_read_and_left_out(tmp_path_factory, groups: list[list[str]], user_ids: set[str]):
    location = str(tmp_path_factory.mktemp("table") / "part.parquet")
    rows = [[{"user_id": each, "code": [place, 0.5]} for place, each in enumerate(group)] for group in groups]
    tables = [pa.Table.from_pylist(group, schema=SCHEMA) for group in rows]
    storage.write_row_groups(location, SCHEMA, tables, {"rows": 7})
    flat = [row for group in rows for row in group]
    counts = count_rows(artefact(location), user_ids)
    assert counts == {each: n for each in user_ids if (n := sum(row["user_id"] == each for row in flat))}
    assert list(read_rows(artefact(location), user_ids)) == [row for row in flat if row["user_id"] in user_ids]
    drop_rows(artefact(location), user_ids)
    assert storage.read_part(location, SCHEMA).to_pylist() == [row for row in flat if row["user_id"] not in user_ids]
    with storage.open_part(location) as file:
        kept = [sum(row["user_id"] not in user_ids for row in group) for group in rows]
        sizes = [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)]
        assert sizes == ([each for each in kept if each] or [0])
        assert file.schema_arrow.metadata[b"own"] == b"metadata"
    assert storage.read_counters(location) == {"rows": 7}


def test_no_statistics_of_the_footer_keep_an_id(tmp_path: Path):
    location = str(tmp_path / "part.parquet")
    storage.write_part(location, pa.table({"user_id": ["an unusual id", "b"]}))
    drop_rows(artefact(location), {"an unusual id"})
    assert b"an unusual id" not in Path(location).read_bytes()
    assert pq.read_metadata(location).row_group(0).column(0).statistics.min == "b"


def test_answers_of_the_generator_are_known_by_pseudonym(tmp_path: Path):
    location = str(tmp_path / "answers.parquet")
    storage.write_part(location, pa.table({"request_id": ["1", "2", "3"], "user": ["p-ann", "p-bob", "p-ann"]}))
    table = artefact(location, Kind.ANSWERS)
    assert count_rows(table, {"p-ann", "ann", "p-cyd"}) == {"p-ann": 2}
    drop_rows(table, {"p-ann"})
    assert storage.read_part(location)["request_id"].to_pylist() == ["2"]


def test_answers_that_were_kept_with_user_ids_are_refused(tmp_path: Path):
    location = str(tmp_path / "answers.parquet")
    storage.write_part(location, pa.table({"user_id": ["ann"]}))
    with pytest.raises(StorageError, match=r"no column 'user' that names the owner"):
        count_rows(artefact(location, Kind.ANSWERS), {"p-ann"})


def test_a_rejected_sample_belongs_to_the_user_it_was_to_become(tmp_path: Path):
    location = str(tmp_path / "part.parquet")

    def rejected(source: str, sample_id: str) -> Rejected:
        return Rejected(source=source, position=0, sample_id=sample_id, reason=f"text of {sample_id}")

    rows = [rejected("train_questions.json", "7"), rejected("dev_questions.json", "7"), rejected("/own.jsonl", "ann")]
    storage.write_part(location, to_table(rows, Rejected))
    table = artefact(location, Kind.REJECTED)
    assert count_rows(table, {"train:7", "ann", "7"}) == {"train:7": 1, "ann": 1}
    drop_rows(table, {"train:7", "ann", "7"})
    assert [row["source"] for row in storage.read_part(location).to_pylist()] == ["dev_questions.json"]


def test_a_table_that_does_not_tell_whose_its_rows_are_is_refused(tmp_path: Path):
    location = str(tmp_path / "part.parquet")
    storage.write_part(location, pa.table({"text": ["mine"]}))
    with pytest.raises(StorageError, match=r"columns \['text'\], but no column 'user_id'"):
        count_rows(artefact(location), {"ann"})
