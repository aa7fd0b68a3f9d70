"""Users' own files: JSONL or Parquet with one user per row.

A row is {user_id, is_new?, history: [{id?, input, output, date?}], queries: [{id?, input, target?}]}. `is_new` is true
by default; an input is a text or a list of messages; records and queries without an id are numbered by their position.
"""

# pyarrow comes without type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from hydra_ray import storage
from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.field_checks import (
    MalformedError,
    checked_output,
    checked_question,
    id_of,
    input_of,
    list_of,
    make_record,
    mapping_of,
    require_distinct,
    text_of,
    truth_of,
)
from hydra_ray.lamp.json_files import open_utf8
from hydra_ray.lamp.lamp_files import Sample
from hydra_ray.rows import Query, Record, Rejected, User

ROWS_PER_BATCH = 64
"""Number of rows of a Parquet file that are decoded at a time."""


def read_user_file(task: Task, location: str) -> Iterator[Sample | Rejected]:
    """Yield the users of one file, in its order, or the reason for their rejection.

    Raises:
        InputError: there is no such file, it is neither JSONL nor Parquet, or it has no rows.
    """
    if not storage.exists(location):
        if not storage.is_uri(location) and os.path.isdir(location):
            raise InputError(
                f"{location} is a folder, expected .jsonl and .parquet files in lamp.users_files: list those in it"
            )
        raise InputError(f"no file {location}; check lamp.users_files")
    is_empty = True
    for position, row in _rows(location):
        is_empty = False
        try:
            user = _read_user(task, _decoded(row))
        except MalformedError as error:
            yield Rejected(source=location, position=position, sample_id=_id_or_empty(row), reason=error.reason)
        else:
            yield Sample(source=location, position=position, sample_id=user.user_id, user=user, awaits_target=False)
    if is_empty:
        raise InputError(f"{location} holds no row; expected one a user. Leave it out of lamp.users_files.")


def _rows(location: str) -> Iterator[tuple[int, object]]:
    """Yield positions and rows: non-blank lines of JSONL, or rows of Parquet, or the error that stands for one."""
    if location.endswith(".jsonl"):
        yield from _lines(location)
    elif location.endswith(".parquet"):
        with storage.open_input(location) as file:
            yield from enumerate(_parquet_rows(location, file))
    else:
        raise InputError(f"{location} ends in neither .jsonl nor .parquet; lamp.users_files takes these two")


def _lines(location: str) -> Iterator[tuple[int, bytes]]:
    with open_utf8(location) as file:
        is_first = True
        for position, line in enumerate(io.BufferedReader(cast(io.RawIOBase, file))):
            start = line.lstrip()[:60]
            if is_first and start.startswith(b"<"):
                raise InputError(
                    f"{location} is a web page or XML, it starts with {start.decode('utf-8', 'replace')!r}; expected "
                    "one JSON object a line. Download it again: it may be an error page in its place."
                )
            if start:
                is_first = False
                yield position, line


def _parquet_rows(location: str, file: IO[bytes]) -> Iterator[object]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS_PER_BATCH):
            yield from _python_rows(batch)
    # ValueError: names or values that pyarrow reads and Python cannot represent, such as a column name that is not
    # UTF-8.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{location} cannot be read as Parquet ({error}); write it again") from error


def _python_rows(batch: pa.RecordBatch) -> list[object]:
    """Return the rows of a batch, each that Python cannot represent replaced by an error."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date after the year 9999
        if batch.num_rows == 1:
            return [MalformedError(f"the row cannot be read: {error}")]
        return [row for place in range(batch.num_rows) for row in _python_rows(batch.slice(place, 1))]


def _decoded(row: object) -> object:
    if isinstance(row, MalformedError):
        raise row
    if not isinstance(row, bytes):
        return row
    try:
        return json.loads(row.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise MalformedError(f"the line is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"the line is not JSON: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no value")


def _read_user(task: Task, row: object) -> User:
    fields = mapping_of(row, "the row")
    user_id = id_of(fields.get("user_id"), "user_id")
    is_new = fields.get("is_new") is None or truth_of(fields["is_new"], "is_new")
    history = tuple(
        _read_record(task, position, record)
        for position, record in enumerate(list_of(fields.get("history"), "history"))
    )
    queries = tuple(
        _read_query(task, position, query, is_new)
        for position, query in enumerate(list_of(fields.get("queries"), "queries"))
    )
    require_distinct(history, queries)
    return User(user_id=user_id, is_new=is_new, history=history, queries=queries)


def _read_record(task: Task, position: int, record: object) -> Record:
    fields = mapping_of(record, f"record {position}")
    return make_record(
        task,
        _id_or_position(fields, position, "record"),
        input_of(fields.get("input"), f"the input of record {position}").strip(),
        text_of(fields.get("output"), f"the output of record {position}"),
        fields.get("date"),
    )


def _read_query(task: Task, position: int, query: object, is_new: bool) -> Query:
    fields = mapping_of(query, f"query {position}")
    asked = f"the input of query {position}"
    target = fields.get("target")
    if target is None and not is_new:
        raise MalformedError(f"query {position} of a training user has no target")
    what = f"the target of query {position}"
    return Query(
        query_id=_id_or_position(fields, position, "query"),
        input=checked_question(task, input_of(fields.get("input"), asked), asked),
        target=None if target is None else checked_output(task, text_of(target, what), what),
    )


def _id_or_position(fields: Mapping[str, Any], position: int, what: str) -> str:
    given = fields.get("id")
    return str(position) if given is None else id_of(given, f"the id of {what} {position}")


def _id_or_empty(row: object) -> str:
    try:
        return id_of(mapping_of(_decoded(row), "the row").get("user_id"), "user_id")
    except MalformedError:
        return ""
