"""Removal of users' rows from tables, found by the column that names the owner."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hydra_ray import storage
from hydra_ray.errors import StorageError
from hydra_ray.forget.file_kinds import Artefact, Kind
from hydra_ray.lamp.lamp_files import rejected_user_id
from hydra_ray.rows import Rejected, from_table

USER_ID = "user_id"
_OWNER = {Kind.TABLE: USER_ID, Kind.ANSWERS: "user"}
"""Column that names the owner of a row."""


def count_rows(table: Artefact, users: Collection[str]) -> Counter[str]:
    """Return the number of rows of each of some users in a table.

    Args:
        users: pseudonyms for stored answers, ids for other tables.

    Raises:
        StorageError: the table has no column that names the owner.
    """
    columns = None if table.kind == Kind.REJECTED else [_OWNER[table.kind]]
    counts: Counter[str] = Counter()
    for rows in storage.read_row_groups(table.location, _schema(table), columns):
        counts.update(_owners(table, rows).filter(_is_theirs(table, rows, users)).to_pylist())
    return counts


def read_rows(table: Artefact, users: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of some users, given as for `count_rows`."""
    for rows in storage.read_row_groups(table.location, _schema(table)):
        yield from rows.filter(_is_theirs(table, rows, users)).to_pylist()


def drop_rows(table: Artefact, users: Collection[str]) -> None:
    """Rewrite a table without the rows of some users, given as for `count_rows`, with the same counters and row
    groups."""
    schema = _schema(table)
    groups = storage.read_row_groups(table.location, schema)
    kept = (rows.filter(pc.invert(_is_theirs(table, rows, users))) for rows in groups)  # pyright: ignore[reportAttributeAccessIssue]
    counters = storage.read_counters(table.location)
    storage.write_row_groups(table.location, schema, _or_empty(kept, schema), counters)


def _or_empty(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the tables that have rows; one empty table where none has."""
    num_rows = 0
    for rows in tables:
        num_rows += rows.num_rows
        if rows.num_rows:
            yield rows
    if not num_rows:
        yield schema.empty_table()


def _schema(table: Artefact) -> pa.Schema:
    with storage.open_part(table.location) as file:
        schema = file.schema_arrow
    owner = _OWNER.get(table.kind)
    if owner is not None and owner not in schema.names:
        raise StorageError(
            f"the table {table.location} has the columns {schema.names}, but no column {owner!r} that names the owner "
            "of a row. Nothing was changed. Add the column, or declare the table in hydra_ray.forget.file_kinds."
        )
    return schema


def _owners(table: Artefact, rows: pa.Table) -> pa.Array | pa.ChunkedArray:
    if table.kind in _OWNER:
        return rows[_OWNER[table.kind]]
    return pa.array([rejected_user_id(row) for row in from_table(rows, Rejected)], pa.string())


def _is_theirs(table: Artefact, rows: pa.Table, users: Collection[str]) -> pa.Array | pa.ChunkedArray:
    return pc.is_in(_owners(table, rows), pa.array(sorted(users), pa.string()))  # pyright: ignore[reportAttributeAccessIssue]
