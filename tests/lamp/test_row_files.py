"""Users' rows in every format, told by content."""

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from bad_input import user_row
from own_files import PACKERS, arrow_file, arrow_stream, lines, parquet, read, table, users

from hydra_ray.errors import InputError
from hydra_ray.rows import Record, Rejected

ROWS = [user_row("ann"), user_row("bob")]
FORMS = {
    "users.json": lines(ROWS),
    "users.ndjson": lines(ROWS),
    "users.txt": b"\n  \n" + lines(ROWS),
    "users": b"\xef\xbb\xbf" + lines(ROWS),
    "array.json": json.dumps(ROWS, indent=1).encode(),
    "users.pq": parquet(table(ROWS)),
    "part-0": parquet(table(ROWS)),
    "users.feather": arrow_file(table(ROWS)),
    "users.arrow": arrow_stream(table(ROWS)),
    **{f"users.jsonl.{name}": pack(lines(ROWS)) for name, pack in PACKERS.items()},
    # As parallel programs write it: a frame without content first.
    "skipped.jsonl.zst": b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + PACKERS["zst"](lines(ROWS)),
    **{f"{name}.unnamed": pack(lines(ROWS)) for name, pack in PACKERS.items()},
}


@pytest.mark.parametrize("name", FORMS)
def test_rows_are_the_same_users_in_whatever_form_and_under_whatever_name(tags, tmp_path, name):
    (tmp_path / "plain.jsonl").write_bytes(lines(ROWS))
    (tmp_path / name).write_bytes(FORMS[name])
    assert users(tags, tmp_path / name) == users(tags, tmp_path / "plain.jsonl")


def test_a_line_that_has_no_end_is_told_before_memory_is_full(tags, tmp_path, monkeypatch):
    monkeypatch.setattr("hydra_ray.lamp.row_files._MAX_LINE", len(lines(ROWS[:1])))
    (tmp_path / "users.jsonl").write_bytes(lines(ROWS))
    assert len(users(tags, tmp_path / "users.jsonl")) == 2
    (tmp_path / "users.jsonl").write_bytes(lines(ROWS).replace(b"\n", b"\r"))
    with pytest.raises(InputError, match="lines ended by a line feed"):
        read(tags, tmp_path / "users.jsonl")


def test_a_folder_may_mix_formats(tags, tmp_path):
    rows = [user_row(f"user-{number}") for number in range(6)]
    forms = (lines, lambda each: parquet(table(each)), lambda each: arrow_file(table(each)))
    forms = (*forms, lambda each: json.dumps(each).encode(), lambda each: PACKERS["xz"](lines(each)), lines)
    for number, (row, form) in enumerate(zip(rows, forms, strict=True)):
        (tmp_path / f"part-{number}").write_bytes(form([row]))
    assert [user.user_id for user in users(tags, tmp_path)] == [row["user_id"] for row in rows]


@pytest.mark.parametrize("name", [name for name in FORMS if name.startswith("users.jsonl.")])
def test_a_packed_file_that_was_cut_off_is_named(tags, tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name][:-12])
    with pytest.raises(InputError, match=f"{name}.*cut off"):
        read(tags, tmp_path / name)


def record(kind: pa.DataType, name: str, value: object) -> pa.Table:
    """A table of one user with one record, one of whose fields has a type and value of Arrow."""
    fields = {"input": pa.array(["a text"]), "output": pa.array(["comedy"]), name: pa.array([value], kind)}
    inner = pa.StructArray.from_arrays(list(fields.values()), list(fields))
    history = pa.ListArray.from_arrays([0, 1], inner)
    return pa.table({"user_id": ["ann"], "history": history, "queries": pa.array([[]], pa.list_(pa.null()))})


MOMENT = datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (pa.large_string(), "output", "comedy", "comedy"),
        (pa.string_view(), "output", "comedy", "comedy"),
        (pa.binary(), "output", b"comedy", "comedy"),
        (pa.large_binary(), "input", "é".encode(), "é"),
        (pa.binary(), "id", b"r1", "r1"),
        (pa.binary(16), "id", uuid.UUID(int=7).bytes, str(uuid.UUID(int=7))),
        (pa.binary(16), "id", b"abcdefghijklmnop", str(uuid.UUID(bytes=b"abcdefghijklmnop"))),
        (pa.binary(4), "id", b"\x00\x01\xfe\xff", "0001feff"),
        (pa.decimal128(20, 2), "id", Decimal("7.00"), "7"),
        (pa.decimal256(50, 0), "id", Decimal(10**40), str(10**40)),
        (pa.uint64(), "id", 2**64 - 1, str(2**64 - 1)),
        (pa.float16(), "id", 7.0, "7"),
        (pa.date32(), "date", MOMENT.date(), 1_599_955_200),
        (pa.date64(), "date", MOMENT.date(), 1_599_955_200),
        (pa.decimal128(20, 3), "date", Decimal("1600000000.5"), 1_600_000_000),
        *((pa.timestamp(unit), "date", MOMENT.replace(tzinfo=None), 1_600_000_000) for unit in ("s", "ms", "us", "ns")),
        (pa.timestamp("ns"), "date", 1_600_000_000_000_000_001, 1_600_000_000),
        (pa.timestamp("us", "UTC"), "date", MOMENT, 1_600_000_000),
        (pa.timestamp("ms", "America/New_York"), "date", MOMENT, 1_600_000_000),
        (pa.timestamp("s", "+05:30"), "date", MOMENT, 1_600_000_000),
    ],
    ids=str,
)
@pytest.mark.parametrize("write", [parquet, arrow_file])
def test_every_type_of_arrow_that_can_be_a_field_is_read(tags, tmp_path, kind, name, value, expected, write):
    path = tmp_path / "users"
    path.write_bytes(write(record(kind, name, value)))
    (user,) = users(tags, path)
    found = user.history[0]
    assert {"id": found.record_id, "input": found.input, "output": found.output, "date": found.date}[name] == expected


def test_unusual_layouts_of_tables_are_read(tags, tmp_path):
    plain = Record(record_id="0", input="a text", output="comedy", date=None)
    texts = {"input": "a text", "output": "comedy"}
    item = pa.struct({name: pa.string() for name in texts})
    layouts = {
        "struct of lists": pa.array([{name: [text] for name, text in texts.items()}]),
        "maps": pa.array([[list(texts.items())]], pa.list_(pa.map_(pa.string(), pa.string()))),
        "fixed size": pa.array([[texts]], pa.list_(item, 1)),
        "large": pa.array([[texts]], pa.large_list(item)),
        "view": pa.array([[texts]], pa.list_view(item)),
        "large view": pa.array([[texts]], pa.large_list_view(item)),
        "dictionary": pa.ListArray.from_arrays(
            [0, 1], pa.StructArray.from_arrays([pa.array([t]).dictionary_encode() for t in texts.values()], list(texts))
        ),
    }
    for name, history in layouts.items():
        content = pa.table({"user_id": [name], "history": history, "queries": pa.array([[]], pa.list_(pa.null()))})
        (tmp_path / name).write_bytes(arrow_file(content))
        (user,) = users(tags, tmp_path / name)
        assert user.history == (plain,), name


def test_uuids_of_parquets_own_type_are_ids(tags, tmp_path):
    ids = [uuid.UUID(int=number) for number in (1, 2)]
    content = table(ROWS).set_column(0, "user_id", pa.array([each.bytes for each in ids], pa.uuid()))
    (tmp_path / "users.parquet").write_bytes(parquet(content))
    assert [user.user_id for user in users(tags, tmp_path / "users.parquet")] == [str(each) for each in ids]


def test_an_object_of_lists_is_a_list_of_objects(tags, tmp_path):
    rows = [
        {**user_row("ann"), "history": {"input": ["a", "b"], "output": ["comedy", "romance"], "date": None}},
        {**user_row("bob"), "history": {"input": ["a", "b"], "output": ["comedy"]}},
        {**user_row("eve"), "history": {"input": [], "output": []}},
        {**user_row("joe"), "history": {"input": "a", "output": "comedy"}},
    ]
    (tmp_path / "users.jsonl").write_bytes(lines(rows))
    ann, bob, eve, joe = read(tags, tmp_path / "users.jsonl")
    assert [(each.input, each.output) for each in ann.user.history] == [("a", "comedy"), ("b", "romance")]
    assert isinstance(bob, Rejected)
    assert "lists of the lengths [1, 2]" in bob.reason
    assert eve.user.history == ()
    assert isinstance(joe, Rejected)


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("s", "No/Where")], ids=str)
def test_a_date_that_python_cannot_hold_rejects_its_row_alone(tags, tmp_path, kind):
    rows = pa.concat_tables([record(kind, "date", 10**15), record(kind, "date", None)])
    (tmp_path / "users.arrow").write_bytes(arrow_file(rows))
    rejected, good = read(tags, tmp_path / "users.arrow")
    assert isinstance(rejected, Rejected)
    assert "the row cannot be read" in rejected.reason
    assert good.user.history[0].date is None


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("users.zip", b"PK\x03\x04rest", "a zip archive"),
        ("users.feather", b"FEA1rest", "Feather of version 1"),
        ("users.parquet.gz", PACKERS["gz"](parquet(table(ROWS))), "a table packed with gzip"),
        ("users.txt", b"once upon a time", "none of JSON lines"),
        ("users.csv", b"name,input,output\nann,a,comedy\n", "the columns user_id, input and output"),
        ("users.csv", b"user_id,input,input\nann,a,comedy\n", "a column twice"),
        ("users.json", "{}".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_is_no_table_of_users_is_named_with_what_to_do(tags, tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        read(tags, tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "once upon" not in str(caught.value)
