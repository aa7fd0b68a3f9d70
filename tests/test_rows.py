import dataclasses
import inspect
import json
import subprocess
import sys
import types
import typing

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray import rows, storage
from hydra_ray.rows import Query, Record, User, arrow_schema, from_dict, from_table, to_dict, to_table

ROW_TYPES = [value for _, value in inspect.getmembers(rows, dataclasses.is_dataclass)]
SCALARS = {
    str: st.text(max_size=5),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    type(None): st.none(),
}


def _values(hint):
    if hint in SCALARS:
        return SCALARS[hint]
    if isinstance(hint, types.UnionType):
        return st.one_of([_values(member) for member in typing.get_args(hint)])
    if typing.get_origin(hint) is tuple:
        return st.lists(_values(typing.get_args(hint)[0]), max_size=2).map(tuple)
    return _instances(hint)


def _instances(row_type):
    hints = typing.get_type_hints(row_type)
    fields = {field.name: _values(hints[field.name]) for field in dataclasses.fields(row_type)}
    return st.builds(row_type, **fields)


@pytest.mark.parametrize("row_type", ROW_TYPES)
@examples(max_examples=15)
@given(st.data())
def test_rows_survive_dicts_and_tables(row_type, data):
    rows = data.draw(st.lists(_instances(row_type), max_size=3))
    table = to_table(rows, row_type)
    assert table.schema == arrow_schema(row_type)
    assert list(from_table(table, row_type)) == rows
    assert list(from_table(table.slice(1, 1), row_type)) == rows[1:2]
    for row in rows:
        assert json.dumps(to_dict(row)) == json.dumps(dataclasses.asdict(row))
        assert from_dict(to_dict(row), row_type) == from_dict(dataclasses.asdict(row), row_type) == row


def test_reading_rows_imports_nothing_that_takes_longer_than_to_read_them(tmp_path):
    location = str(tmp_path / "part.parquet")
    user = User(user_id="u", is_new=True, history=(), queries=(Query(query_id="q", input="a", target=None),))
    storage.write_part(location, to_table([user], User))
    program = f"""
import sys
from hydra_ray import rows, storage
table = storage.read_part({location!r}, rows.arrow_schema(rows.User))
assert [user.user_id for user in rows.from_table(table, rows.User)] == ["u"]
assert not {{"pandas", "pyarrow.compute"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@examples(max_examples=15)
@given(st.lists(_instances(User), max_size=3))
def test_rows_survive_a_part(tmp_path_factory, rows):
    location = str(tmp_path_factory.mktemp("records") / "part.parquet")
    storage.write_part(location, to_table(rows, User))
    assert list(from_table(storage.read_part(location, arrow_schema(User)), User)) == rows


@pytest.mark.parametrize("row_type", ROW_TYPES)
def test_row_types_are_frozen_slotted_keyword_only_and_described(row_type):
    assert row_type.__dataclass_params__.frozen
    assert "__slots__" in vars(row_type)
    assert all(field.kw_only for field in dataclasses.fields(row_type))
    assert row_type.__doc__
    assert not row_type.__doc__.startswith(f"{row_type.__name__}(")


def test_only_fields_that_may_be_none_are_nullable():
    schema = arrow_schema(Record)
    assert {field.name for field in schema if field.nullable} == {"date"}
    assert arrow_schema(User).field("history").type == pa.list_(
        pa.field("element", pa.struct(list(schema)), nullable=False)
    )
