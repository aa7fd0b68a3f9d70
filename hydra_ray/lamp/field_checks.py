"""Checks and conversions of the fields of a sample from any source; invalid ones raise a MalformedError with the
reason.

No input is trusted: any value that a JSON or Parquet reader can return is either accepted or refused.
"""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from hydra_ray.config import Task
from hydra_ray.conversations import conversation_text
from hydra_ray.lamp.quality import canonical_label
from hydra_ray.rows import Query, Record

MAX_REASON_CHARACTERS = 300
"""Longest reason; longer ones are cut in the middle: they may quote a whole text."""

_MAX_SECONDS = 10**11
"""Smallest number (the year 5138) that is read as milliseconds or smaller units instead of seconds."""
_MAX_WORD = 5
"""Longest text that is quoted in a reason; longer ones may be a user's."""
_LINE_BREAKING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters and line separators: they cannot be typed, or would end a line of a file of ids."""
_ROUNDED = re.compile(r"\d\.\d+[eE]\+\d+")
"""Number as spreadsheets and programs write it where digits are lost."""
_EXACT = 2**53
"""Smallest whole number from which on floating-point numbers skip some."""
_MONTH = re.compile(r"\d{4}-\d{2}")


class MalformedError(Exception):
    """Error of an unusable sample; its text is the reason. Never leaves hydra_ray.lamp."""

    @property
    def reason(self) -> str:
        """Return the reason, short enough for a log."""
        text = str(self)
        if len(text) <= MAX_REASON_CHARACTERS:
            return text
        end = MAX_REASON_CHARACTERS // 3
        return f"{text[: MAX_REASON_CHARACTERS - end - 5]} ... {text[-end:]}"


def pseudo_query_id(record_id: str) -> str:
    """Return the id of the pseudo-query made of a record."""
    return f"record:{record_id}"


def make_record(task: Task, record_id: str, text: str, output: str, when: object) -> Record:
    """Return a history record with its output in canonical form.

    Raises:
        MalformedError: the output is empty or (where outputs are answers) not one of the task's labels, or the date is
            invalid.
    """
    what = f"the output of record {record_id!r}"
    return Record(
        record_id=record_id,
        input=text,
        output=checked_output(task, output, what) if task.is_history_labelled else _stripped(output, what),
        date=seconds_of(when, f"the date of record {record_id!r}"),
    )


def checked_output(task: Task, text: str, what: str) -> str:
    """Return an answer (a labelled record's output or a query's target) in canonical form.

    Raises:
        MalformedError: it is empty or not one of the task's labels.
    """
    stripped = _stripped(text, what)
    if not task.is_closed:
        return stripped
    label = canonical_label(task, text)
    if label is None:
        raise MalformedError(f"{what} is not a label of {task.name}")
    return label


def checked_question(task: Task, text: str, what: str) -> str:
    """Return a query's input without surrounding white space.

    Raises:
        MalformedError: it is empty or lacks the options that the task's labels stand for.
    """
    question = _stripped(text, what)
    if task.option_pattern and not re.search(task.option_pattern, question, flags=re.DOTALL):
        raise MalformedError(f"{what} lacks the options of {task.name}")
    return question


def require_distinct(history: Iterable[Record], queries: Iterable[Query]) -> None:
    """Check that the ids of a user's records and queries are unique.

    Raises:
        MalformedError: they are not.
    """
    records: set[str] = set()
    for record in history:
        if record.record_id in records:
            raise MalformedError(f"record {record.record_id!r} comes twice")
        records.add(record.record_id)
    taken = {pseudo_query_id(record_id) for record_id in records}
    seen: set[str] = set()
    for query in queries:
        if query.query_id in seen:
            raise MalformedError(f"query {query.query_id!r} comes twice")
        if query.query_id in taken:
            raise MalformedError(f"query {query.query_id!r} is named as the query that a record becomes; rename it")
        seen.add(query.query_id)


def mapping_of(value: object, what: str) -> Mapping[str, Any]:
    """Return `value` if it is a mapping.

    Raises:
        MalformedError: it is not.
    """
    if not isinstance(value, dict) and not isinstance(value, Mapping):  # of which the first is quick to tell
        raise MalformedError(f"{what} is {type(value).__name__}, not an object")
    return cast(Mapping[str, Any], value)


def list_of(value: object, what: str) -> list[Any]:
    """Return `value` if it is a list.

    Raises:
        MalformedError: it is not.
    """
    if not isinstance(value, list):
        raise MalformedError(f"{what} is {'missing' if value is None else type(value).__name__}, not a list")
    return cast(list[Any], value)


def truth_of(value: object, what: str) -> bool:
    """Return `value` if it is a boolean.

    Raises:
        MalformedError: it is not.
    """
    if not isinstance(value, bool):
        # A longer one may be somebody's text in the wrong place.
        is_word = isinstance(value, str) and len(value) <= _MAX_WORD
        raise MalformedError(f"{what} is {repr(value) if is_word else type(value).__name__}, not true or false")
    return value


def text_of(value: object, what: str) -> str:
    """Return `value` as text: bytes are UTF-8, and numbers are written without unnecessary decimals.

    Raises:
        MalformedError: it is neither text nor a finite number, or contains a lone surrogate.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError as error:
            del error  # it holds the text
            raise MalformedError(f"{what} is not valid Unicode; expected UTF-8") from None
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise MalformedError(f"{what} is bytes that are no UTF-8 text") from None
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise MalformedError(f"{what} is {'missing' if value is None else type(value).__name__}, not text")
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise MalformedError(f"{what} is {value}, not text")
    return str(int(value)) if abs(value) < 2**63 and value == int(value) else str(value)


def input_of(value: object, what: str) -> str:
    """Return an input as text: a text, a number, or a conversation (see `hydra_ray.conversations`).

    Raises:
        MalformedError: it is something else.
    """
    if not isinstance(value, list | dict):
        return text_of(value, what)
    try:
        return conversation_text(cast(object, value))
    except ValueError as error:
        raise MalformedError(f"{what} is {error}") from error


def id_of(value: object, what: str) -> str:
    """Return `value` as an id.

    Raises:
        MalformedError: it is missing or blank, a number whose last digits are lost, so that several may look alike, or
            contains a control character or a line break, so that it could not be given on a command line or in a file
            of ids.
    """
    text = text_of(value, what)
    if isinstance(value, str) and text.isalnum():
        return text
    if (isinstance(value, float) and abs(value) >= _EXACT) or _ROUNDED.fullmatch(text):
        raise MalformedError(f"{what} is a rounded number, whose last digits are lost: write ids as text")
    if not text.strip():
        raise MalformedError(f"{what} is empty")
    found = _LINE_BREAKING.search(text)
    if found:
        raise MalformedError(f"{what} holds the control character U+{ord(found[0]):04X}")
    return text


def user_id_or_empty(row: object) -> str:
    """Return the user id in a row; nothing where there is none."""
    try:
        return id_of(mapping_of(row, "the row").get("user_id"), "user_id")
    except MalformedError:
        return ""


def seconds_of(value: object, what: str) -> int | None:
    """Return seconds since 1970 (UTC); None where there is no date.

    Args:
        value: number or numeric text (seconds, or milliseconds and smaller units if too large for seconds), or an ISO
            date, which may be a month.

    Raises:
        MalformedError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, date):
        return _timestamp(value if isinstance(value, datetime) else datetime.combine(value, time()), what)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise MalformedError(f"{what} is {type(value).__name__}, neither a number nor a text")
    text = str(value).strip()
    if not text:
        return None
    number = _number(text)
    if number is not None:
        while abs(number) >= _MAX_SECONDS:
            number /= 1000
        return int(number)
    try:
        moment = datetime.fromisoformat(f"{text}-01" if _MONTH.fullmatch(text) else text)
    except ValueError as error:
        raise MalformedError(f"{what} is neither seconds since 1970 nor an ISO date") from error
    return _timestamp(moment, what)


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except ArithmeticError:
        return None
    return number if number.is_finite() and -(2**63) < number < 2**63 else None


def _timestamp(moment: datetime, what: str) -> int:
    try:
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:  # not a time, or one before year 1
        raise MalformedError(f"{what} is no moment") from error


def _stripped(text: str, what: str) -> str:
    if not text.strip():
        raise MalformedError(f"{what} is empty")
    return text.strip()
