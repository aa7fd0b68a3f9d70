"""Users given as single events, a row a record or a query, grouped on disk: memory holds one bucket of users.

A row has a `user_id`, an `input` and an `output`, a `target` or neither. A row with an output is a record, one with a
target a query with its right answer, and one with neither, in an update or a file that has a column `target` or none
`output`, a query without one; `kind` (record or query) or `is_query` says so where that is not what is meant. `date`,
`id` (or `record_id`, `query_id`) and `is_new` are optional. Where no file gives a query, each user's newest record
becomes one, but not in an update. A row with an `op` is a record (`hydra_ray.lamp.changes`). In a preference task a row
with `candidates` and no `ratings`, or with an `input` alone, is a query and any other a record
(`hydra_ray.lamp.choices`).
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra_ray.config import Task
from hydra_ray.lamp.bucket_files import BucketFiles
from hydra_ray.lamp.changes import OPERATION, HandedIn, operation_of
from hydra_ray.lamp.choices import (
    ANSWERS,
    CANDIDATES,
    CHOSEN,
    RATINGS,
    REJECTED,
    is_ranked,
    read_choice,
    read_preference,
)
from hydra_ray.lamp.field_checks import (
    MalformedError,
    checked_output,
    checked_question,
    id_of,
    make_record,
    mapping_of,
    require_distinct,
    text_of,
    truth_of,
)
from hydra_ray.lamp.lamp_files import Sample
from hydra_ray.lamp.row_files import USER_ID
from hydra_ray.rows import Query, Record, Rejected, User

NUM_BUCKETS = 256
"""Number of buckets that events are divided into before they are grouped."""
_EVENTS = "events"
_KINDS = {"record": False, "query": True}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}

log = logging.getLogger(__name__)


def is_event(row: object) -> bool:
    """Return whether a row is a single event and not a whole user."""
    if not isinstance(row, Mapping) or USER_ID not in row or "history" in row or "queries" in row:
        return False
    return any(name in row for name in ("input", "output", CHOSEN, CANDIDATES, ANSWERS, OPERATION))


class Events:
    """Events of users, collected on disk and grouped at the end."""

    def __init__(self, task: Task, folder: Path, *, is_update: bool = False):
        self._task, self._is_update = task, is_update
        self._files = BucketFiles(folder, {_EVENTS: _Event})
        self._has_queries = False
        self._buckets: set[int] = set()

    def add(self, source: str, position: int, row: object) -> Rejected | None:
        """Add the event in a row of a file; return the row as a rejected one where it names no user.

        An event that cannot be used is kept with the reason, for which its user will be rejected.
        """
        try:
            fields = _fields(row)
            user_id = id_of(fields.get(USER_ID), USER_ID)
        except MalformedError as error:
            return Rejected(source=source, position=position, sample_id="", reason=error.reason)
        place: dict[str, Any] = {"user_id": user_id, "source": source, "position": position}
        try:
            event = self._read(fields, place)
        except MalformedError as error:
            event = _Event(**place, reason=error.reason)
        self._has_queries |= event.query is not None
        bucket = int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest()) % NUM_BUCKETS
        self._buckets.add(bucket)
        self._files.append(_EVENTS, bucket, event, event.num_characters)
        return None

    def users(self) -> Iterator[Sample | Rejected]:
        """Yield the users of all events, one bucket in memory at a time."""
        if self._buckets and self._takes_newest:
            log.info("the files of single events give no queries: each user's newest record becomes the query")
        for bucket in sorted(self._buckets):
            by_user: dict[str, list[_Event]] = {}
            for event in self._files.rows(_EVENTS, bucket):
                by_user.setdefault(event.user_id, []).append(event)
            for user_id, events in by_user.items():
                yield self._grouped(user_id, events)

    @property
    def _takes_newest(self) -> bool:
        """Whether users' newest records become their queries."""
        return not self._has_queries and not self._is_update and self._task.has_pseudo_queries

    def _read(self, row: Mapping[str, Any], place: Mapping[str, Any]) -> "_Event":
        is_preference = self._task.kind == "preference"
        is_query = _is_choice(row) if is_preference else _is_query(row, is_update=self._is_update)
        is_new = _truth(row.get("is_new"), "is_new")
        named = row.get("query_id" if is_query else "record_id")
        named = row.get("id") if named is None else named
        name = "" if named is None else id_of(named, "the id")
        operation = operation_of(row, "the row")
        if operation == "delete" and name:
            return _Event(**place, is_new=is_new, record=Record(record_id=name, input="", output=""), op=operation)
        if is_preference and is_query:
            return _Event(**place, is_new=is_new, query=read_choice(row, name, "the row"))
        if is_preference:
            preference = read_preference(self._task, row, name, "the row")
            return _Event(**place, is_new=is_new, record=preference, op=operation)
        text = text_of(row.get("input"), "the input")
        if is_query:
            target = row.get("output") if row.get("target") is None else row.get("target")
            answer = None if target is None else checked_output(self._task, text_of(target, "target"), "the target")
            question = checked_question(self._task, text, "the input of the query")
            query = Query(query_id=name, input=question, target=answer)
            return _Event(**place, is_new=is_new, query=query)
        if row.get("output") is None and not row.get(OPERATION):
            raise MalformedError("the output is missing; the row of a query says so in a column kind, as `query`")
        output = text_of(row.get("output"), "the output")
        record = make_record(self._task, name, text.strip(), output, row.get("date"))
        return _Event(**place, is_new=is_new, record=record, op=operation)

    def _grouped(self, user_id: str, events: "list[_Event]") -> Sample | Rejected:
        bad = next((event for event in events if event.reason is not None), None)
        if bad is not None and bad.reason is not None:
            return Rejected(source=bad.source, position=bad.position, sample_id=user_id, reason=bad.reason)
        place: dict[str, Any] = {"source": events[0].source, "position": events[0].position, "sample_id": user_id}
        try:
            handed_in = HandedIn(is_update=self._is_update)
            user = self._user(user_id, events, handed_in)
            replaced, withdrawn = handed_in.replaced, handed_in.withdrawn
            return Sample(**place, user=user, awaits_target=False, replaced=replaced, withdrawn=withdrawn)
        except MalformedError as error:
            return Rejected(**place, reason=error.reason)

    def _user(self, user_id: str, events: "list[_Event]", handed_in: HandedIn) -> User:
        told = {event.is_new for event in events} - {None}
        if len(told) > 1:
            raise MalformedError("is_new is true in one row of the user and false in another")
        is_new = told != {False}
        queries: list[Query] = []
        for event in events:
            record, query = event.record, event.query
            if record is not None:
                handed_in.take(operation_of({OPERATION: event.op}, "the row"), record)
            if query is not None:
                queries.append(query if query.query_id else replace(query, query_id=str(len(queries))))
        records = list(handed_in.history)
        if self._takes_newest:
            queries += _newest_as_query(self._task, records)
        if not is_new and any(query.target is None for query in queries):
            raise MalformedError("a query of a training user has no target")
        require_distinct(records, queries)
        return User(user_id=user_id, is_new=is_new, history=tuple(records), queries=tuple(queries))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """One row of a user: a record, a query, or the reason why it is neither. Key: (source, position)."""

    user_id: str
    source: str
    position: int
    is_new: bool | None = None
    """None where the row does not say."""
    record: Record | None = None
    """Its id is empty where the row gives none; a query's too."""
    op: str = "add"
    """What is done with the record (`hydra_ray.lamp.changes.Operation`)."""
    query: Query | None = None
    reason: str | None = None

    @property
    def num_characters(self) -> int:
        """Return the approximate length of its texts."""
        record, query = self.record, self.query
        return len(self.source) + sum(len(each.input) for each in (record, query) if each is not None)


def _newest_as_query(task: Task, records: list[Record]) -> Iterator[Query]:
    """Take the newest record that can be asked out of a user's records and yield it as a query; the last of equals.

    One without an input cannot, and a rated list, whose input tells the ratings.
    """
    is_preference = task.kind == "preference"
    places = [
        place for place, record in enumerate(records) if record.input and not (is_preference and is_ranked(record))
    ]
    if places:
        newest = max(places, key=lambda place: (records[place].date is not None, records[place].date or 0, place))
        record = records.pop(newest)
        question = checked_question(task, record.input, "the input of the newest record")
        yield Query(query_id=record.record_id, input=question, target=record.output)


def _fields(row: object) -> Mapping[str, Any]:
    if isinstance(row, MalformedError):
        raise row
    return mapping_of(row, "the row")


def _is_choice(row: Mapping[str, Any]) -> bool:
    """Return whether the row of a preference task is a query: candidates that are not judged, or an input alone."""
    is_judged = any(row.get(name) is not None for name in (CHOSEN, REJECTED, ANSWERS, RATINGS))
    if row.get(CANDIDATES) is not None:
        return row.get(RATINGS) is None
    return row.get("input") is not None and not is_judged and not row.get(OPERATION)


def _is_query(row: Mapping[str, Any], *, is_update: bool) -> bool:
    if row.get(OPERATION):
        return False
    kind = row.get("kind")
    if kind is not None:
        if not isinstance(kind, str) or kind.strip().casefold() not in _KINDS:
            raise MalformedError("kind is neither record nor query")
        return _KINDS[kind.strip().casefold()]
    is_query = _truth(row.get("is_query"), "is_query")
    if is_query is not None:
        return is_query
    has_output, has_target = row.get("output") is not None, row.get("target") is not None
    if has_output and has_target:
        raise MalformedError("the row has an output and a target; say in `kind` whether it is a record or a query")
    return has_target or (not has_output and (is_update or "target" in row or "output" not in row))


def _truth(value: object, what: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip().casefold() if isinstance(value, str | int) else ""
    return _TRUTHS[text] if text in _TRUTHS else truth_of(value, what)
