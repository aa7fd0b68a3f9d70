import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray import storage
from hydra_ray.errors import ConfigError, StorageError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@examples(max_examples=20)
@given(st.binary(max_size=100), st.binary(max_size=100))
def test_bytes_are_read_as_they_were_last_written(tmp_path_factory, first, second):
    location = str(tmp_path_factory.mktemp("storage") / "a" / "b")
    for content in (first, second):
        storage.write_bytes(location, content)
        assert storage.read_bytes(location) == content
        assert storage.file_state(location)[0] == len(content)
        with storage.open_input(location) as file:
            assert file.read() == content


@examples(max_examples=20)
@given(json_values)
def test_json_comes_back_equal(tmp_path_factory, value):
    location = str(tmp_path_factory.mktemp("storage") / "value.json")
    storage.write_json(location, value)
    assert storage.read_json(location) == value == json.loads(Path(location).read_text(encoding="utf-8"))


@examples(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | st.text()), max_size=10),
    st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3),
)
def test_a_part_comes_back_with_its_counters(tmp_path_factory, rows, counters):
    location = str(tmp_path_factory.mktemp("storage") / "part.parquet")
    schema = pa.schema([pa.field("number", pa.int64(), nullable=False), pa.field("text", pa.string())])
    table = pa.Table.from_pylist([{"number": number, "text": text} for number, text in rows], schema=schema)
    storage.write_part(location, table, counters)
    assert storage.read_part(location, schema).to_pylist() == table.to_pylist()
    assert storage.read_counters(location) == counters


def test_row_groups_come_back_one_by_one_with_counters_that_grew_while_they_were_made(tmp_path):
    location = str(tmp_path / "part.parquet")
    tables = [pa.table({"a": values, "b": values}) for values in ([1, 2], [3], pa.array([], pa.int64()))]
    counters = {"rows": 0}

    def growing():
        for table in tables:
            counters["rows"] += table.num_rows
            yield table

    schema = tables[0].schema.with_metadata({"key": "value"})
    storage.write_row_groups(location, schema, growing(), counters)
    assert [each.to_pydict() for each in storage.read_row_groups(location, schema)] == [t.to_pydict() for t in tables]
    assert [each.column_names for each in storage.read_row_groups(location, schema, ["b"])] == [["b"]] * 3
    assert storage.read_counters(location) == {"rows": 3}
    assert storage.open_part(location, schema).schema_arrow.metadata[b"key"] == b"value"
    again = storage.read_part(location, schema)
    storage.write_part(location, again, {"rows": 4})
    assert storage.read_counters(location) == {"rows": 4}


def test_only_what_repeats_is_written_with_a_dictionary(tmp_path):
    location, lists = str(tmp_path / "part.parquet"), pa.list_(pa.field("element", pa.float32()))
    struct = pa.struct([pa.field("name", pa.string()), pa.field("scores", lists)])
    schema = pa.schema([("a", pa.float64()), ("b", pa.string()), ("c", pa.list_(pa.field("element", struct)))])
    row = {"a": 1.0, "b": "x", "c": [{"name": "y", "scores": [0.5]}]}
    storage.write_part(location, pa.Table.from_pylist([row], schema=schema))
    group = storage.open_part(location).metadata.row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    assert {column.path_in_schema: column.has_dictionary_page for column in columns} == {
        "a": False,
        "b": True,
        "c.list.element.name": True,
        "c.list.element.scores.list.element": False,
    }
    assert storage.read_part(location, schema).to_pylist() == [row]


def test_row_groups_that_cannot_all_be_made_leave_no_part(tmp_path):
    def failing():
        yield pa.table({"a": [1]})
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        storage.write_row_groups(str(tmp_path / "part.parquet"), pa.schema([("a", pa.int64())]), failing(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_part_with_another_schema_is_refused(tmp_path):
    location = str(tmp_path / "part.parquet")
    storage.write_part(location, pa.table({"a": [1]}))
    with pytest.raises(StorageError, match="schema"):
        storage.read_part(location, pa.schema([("a", pa.string())]))
    with pytest.raises(StorageError, match="schema"):
        next(storage.read_row_groups(location, pa.schema([("a", pa.string())])))


def test_what_is_missing_or_damaged_is_a_storage_error_that_names_it(tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    readers = (storage.read_part, storage.read_counters, storage.read_bytes, storage.open_input, storage.file_state)
    for read in readers[:2]:
        with pytest.raises(StorageError, match=r"broken\.parquet"):
            read(str(broken))
    for read in readers:
        with pytest.raises(StorageError, match="absent"):
            read(str(tmp_path / "absent"))


def _fail_halfway(location: str) -> None:
    with pytest.raises(RuntimeError, match="stopped"), storage.open_output(location) as file:  # noqa: PT012
        file.write(b"half of the new")
        raise RuntimeError("stopped")


def test_an_object_store_is_sent_a_file_only_when_it_is_whole(tmp_path, monkeypatch):
    # Any file system of pyarrow but the local one stands for a store that cannot rename.
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr(storage, "_open", lambda location: (store, location.removeprefix("s3://")))
    _fail_halfway("s3://object")
    assert list(tmp_path.iterdir()) == []
    storage.write_bytes("s3://object", b"whole")
    assert (tmp_path / "object").read_bytes() == storage.read_bytes("s3://object") == b"whole"


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch):
    location = str(tmp_path / "file")
    storage.write_bytes(location, b"old")
    _fail_halfway(location)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        storage.write_bytes(location, b"new")
    assert storage.read_bytes(location) == b"old"
    assert storage.list_files(str(tmp_path)) == ["file"]


def test_files_appear_under_their_name_only_when_whole(tmp_path):
    location = str(tmp_path / "file")
    with storage.open_output(location) as file:
        file.write(b"half")
        file.flush()
        assert not storage.exists(location)
    assert storage.exists(location)


def test_folders_are_listed_sorted_and_without_folders(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("b", "a"):
        storage.write_bytes(str(tmp_path / name), b"")
    assert storage.list_files(str(tmp_path)) == ["a", "b"]
    assert storage.list_files(str(tmp_path / "absent")) == []
    assert not storage.exists(str(tmp_path / "folder"))


def test_only_relative_locations_are_refused():
    for location in ("/tmp/x", "s3://bucket/x"):
        assert storage.require_absolute(location, "storage.root") == location
    with pytest.raises(ConfigError, match=r"storage\.root.*'runs/x'"):
        storage.require_absolute("runs/x", "storage.root")


def test_an_unknown_scheme_is_a_config_error():
    with pytest.raises(ConfigError, match="nosuch://x"):
        storage.exists("nosuch://x/y")


@examples(max_examples=20)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 100)), max_size=5))
def test_counters_add_up_by_name(counters):
    total = storage.add_counters(counters)
    assert total == {name: sum(each.get(name, 0) for each in counters) for each in counters for name in each}
