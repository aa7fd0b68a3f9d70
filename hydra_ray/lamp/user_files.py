"""Users' own files, in any format of `hydra_ray.lamp.row_files`: one row a user, or one row an event of a user.

A user's row is {user_id, is_new?, history: [{id?, input, output, date?, op?}], queries: [{id?, input, target?}]}.
`is_new` is true by default; an input is a text or a list of messages; records and queries without an id are numbered by
their position; what `op` is for is told in `hydra_ray.lamp.changes`; the records and queries of a preference task have
other fields (`hydra_ray.lamp.choices`). In the place of a list of objects there may be an
object of lists of equal length. Rows of events are described in `hydra_ray.lamp.events`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from hydra_ray.config import ColumnsConfig, Task
from hydra_ray.config.check import did_you_mean
from hydra_ray.errors import InputError
from hydra_ray.lamp.changes import HandedIn, Operation, operation_of
from hydra_ray.lamp.choices import read_choice, read_preference
from hydra_ray.lamp.events import Events, is_event
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
    user_id_or_empty,
)
from hydra_ray.lamp.input_files import InputFile
from hydra_ray.lamp.lamp_files import Sample
from hydra_ray.lamp.row_files import RowFile, open_rows
from hydra_ray.rows import Query, Record, Rejected, User

_EVENTS_PER_USER = 100
"""Number of rows of a file of events that are read in the place of one row of users, where not all are."""

_OURS = ColumnsConfig()
_RECORD_KEYS = ("input", "output", "id", "date", "op")
_MAX_KEY = 60
_MAX_UNREADABLE = 1000
"""Number of rows among which the first that can be read tells whether a file holds users or events."""


@dataclass(slots=True, kw_only=True)
class FileStart:
    """What was read of a file of which only the first rows are wanted. Key: location."""

    location: str
    num_rows: int = 0
    is_whole: bool = True
    """Whether all rows were read."""
    fraction: float = 1.0
    """Approximate share of the file that these rows are, where not all were read."""


def read_user_files(
    task: Task,
    files: Sequence[InputFile],
    folder: Path,
    max_rows: int | None = None,
    columns: ColumnsConfig = _OURS,
    *,
    is_update: bool = False,
) -> Iterator[Sample | Rejected | FileStart]:
    """Yield the users of some files, in their order, or the reason for their rejection; users who are given as events
    come last.

    Args:
        folder: empty local folder, in which events are grouped.
        max_rows: number of users to read of each file, all by default; with it a FileStart follows the users of a file.
        columns: names that columns have in the files.
        is_update: whether the files tell what is new of users who may be there already (`hydra_ray.lamp.changes`).

    Raises:
        InputError: a file cannot be read, or there is no row in it; a folder's or a pattern's files need only one row
            together.
    """
    events = Events(task, folder, is_update=is_update)
    num_rows: dict[str, int] = {}
    for file in files:
        start = FileStart(location=file.location)
        with open_rows(file.location, file.partition, columns) as opened:
            yield from _file_users(task, start, opened, events, max_rows, is_update=is_update)
        num_rows[file.given] = num_rows.get(file.given, 0) + start.num_rows
        if max_rows is not None:
            yield start
    for given, number in num_rows.items():
        if not number:
            raise InputError(f"{given} holds no row; expected users' rows. Leave it out of lamp.users_files.")
    yield from events.users()


def handed_in_records(task: Task, records: Iterable[object]) -> HandedIn:
    """Return what is new of one user who may be there already.

    Args:
        records: each as in a user's row, or a record to add.

    Raises:
        MalformedError: one is no record, or the same record comes twice.
    """
    handed_in = HandedIn(is_update=True)
    for position, given in enumerate(records):
        if isinstance(given, Record) and task.kind == "preference":  # whose input is a choice that was read before
            handed_in.take("add", given)
        else:
            fields = _fields_of(given) if isinstance(given, Record) else given
            handed_in.take(*_read_record(task, position, fields))
    return handed_in


def _fields_of(record: Record) -> dict[str, object]:
    return {"id": record.record_id or None, "input": record.input, "output": record.output, "date": record.date}


def _file_users(
    task: Task, start: FileStart, file: RowFile, events: Events, max_rows: int | None, *, is_update: bool
) -> Iterator[Sample | Rejected]:
    first = _until_readable(file.rows)
    holds_events = any(is_event(row) for _, row in first)
    if max_rows is not None and holds_events:
        max_rows *= _EVENTS_PER_USER
    for position, row in chain(first, file.rows):
        if start.num_rows == max_rows:
            start.is_whole = False
            return
        start.num_rows += 1
        if start.num_rows == max_rows:
            start.fraction = file.fraction_read()
        if not holds_events:
            yield _user_or_rejected(task, start.location, position, row, is_update=is_update)
        elif (rejected := events.add(start.location, position, row)) is not None:
            yield rejected


def _until_readable(rows: Iterator[tuple[int, object]]) -> list[tuple[int, object]]:
    """Return the rows up to the first that is an object, which tells what the rows of a file are."""
    first: list[tuple[int, object]] = []
    for each in islice(rows, _MAX_UNREADABLE):
        first.append(each)
        if isinstance(each[1], Mapping):
            break
    return first


def _user_or_rejected(task: Task, location: str, position: int, row: object, *, is_update: bool) -> Sample | Rejected:
    handed_in = HandedIn(is_update=is_update)
    try:
        user = _read_user(task, row, handed_in)
    except MalformedError as error:
        return Rejected(source=location, position=position, sample_id=user_id_or_empty(row), reason=error.reason)
    return Sample(
        source=location,
        position=position,
        sample_id=user.user_id,
        user=user,
        awaits_target=False,
        replaced=handed_in.replaced,
        withdrawn=handed_in.withdrawn,
    )


def _read_user(task: Task, row: object, handed_in: HandedIn) -> User:
    if isinstance(row, MalformedError):
        raise row
    fields = mapping_of(row, "the row")
    user_id = id_of(fields.get("user_id"), "user_id")
    is_new = fields.get("is_new") is None or truth_of(fields["is_new"], "is_new")
    for position, record in enumerate(_objects_of(fields, "history", handed_in)):
        handed_in.take(*_read_record(task, position, record))
    queries = tuple(
        _read_query(task, position, query, is_new)
        for position, query in enumerate(_objects_of(fields, "queries", handed_in))
    )
    require_distinct(handed_in.history, queries)
    return User(user_id=user_id, is_new=is_new, history=handed_in.history, queries=queries)


def _objects_of(fields: Mapping[str, Any], name: str, handed_in: HandedIn) -> list[Any]:
    """Return a list of objects, which may be missing where users are there already."""
    value = fields.get(name)
    return [] if value is None and handed_in.is_update else _objects(value, name)


def _objects(value: object, what: str) -> list[Any]:
    """Return a list of objects that is given as one, or as an object of lists, as Hugging Face's `Sequence` of a
    dictionary is stored."""
    if not isinstance(value, Mapping):
        return list_of(value, what)
    columns = {str(name): list_of(column, what) for name, column in cast(Mapping[Any, Any], value).items() if column}
    lengths = set(map(len, columns.values()))
    if len(lengths) > 1:
        raise MalformedError(f"{what} is an object of lists of the lengths {sorted(lengths)}, expected equal ones")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def read_record(task: Task, position: int, given: Mapping[str, Any]) -> Record:
    """Return a record that is given as it stands in users' files; one without an id has its position as one.

    Raises:
        InputError: it is none; the message has no text of it.
    """
    try:
        operation, record = _read_record(task, position, given)
    except MalformedError as error:
        raise InputError(f"{error}; expected a record with input and output{_unknown(given)}") from None
    if operation != "add":
        raise InputError(f"record {position} has an op, {operation}; expected the records that there are")
    return record if record.record_id else replace(record, record_id=str(position))


def _unknown(given: object) -> str:
    """Return the keys of a record that mean nothing, and what each may have been meant as."""
    names = map(str, cast(Mapping[Any, Any], given)) if isinstance(given, Mapping) else ()
    unknown = (name for name in names if name not in _RECORD_KEYS)
    return "".join(f"; {name[:_MAX_KEY]} is no key of a record{did_you_mean(name, _RECORD_KEYS)}" for name in unknown)


def _read_record(task: Task, position: int, record: object) -> tuple[Operation, Record]:
    """Return a record, with an empty id where it has none, and what is done with it."""
    fields, what = mapping_of(record, f"record {position}"), f"record {position}"
    operation = operation_of(fields, what)
    given = fields.get("id")
    name = "" if given is None else id_of(given, f"the id of {what}")
    if operation == "delete" and name:
        return operation, Record(record_id=name, input="", output="")
    if task.kind == "preference":
        return operation, read_preference(task, fields, name, what)
    read = make_record(
        task,
        name or str(position),
        input_of(fields.get("input"), f"the input of {what}").strip(),
        text_of(fields.get("output"), f"the output of {what}"),
        fields.get("date"),
    )
    return operation, replace(read, record_id=name)


def _read_query(task: Task, position: int, query: object, is_new: bool) -> Query:
    fields = mapping_of(query, f"query {position}")
    asked = f"the input of query {position}"
    target = fields.get("target")
    if target is None and not is_new:
        raise MalformedError(f"query {position} of a training user has no target")
    query_id = _id_or_position(fields, position, "query")
    if task.kind == "preference":
        return read_choice(fields, query_id, f"query {position}")
    what = f"the target of query {position}"
    return Query(
        query_id=query_id,
        input=checked_question(task, input_of(fields.get("input"), asked), asked),
        target=None if target is None else checked_output(task, text_of(target, what), what),
    )


def _id_or_position(fields: Mapping[str, Any], position: int, what: str) -> str:
    given = fields.get("id")
    return str(position) if given is None else id_of(given, f"the id of {what} {position}")
