"""First rows of a person's files, whatever their columns are named, and what can be counted in them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from hydra_ray.errors import InputError
from hydra_ray.lamp.field_checks import MalformedError, seconds_of
from hydra_ray.lamp.input_files import InputFile
from hydra_ray.lamp.row_files import open_rows

MAX_ROWS = 20_000
"""Number of rows that are looked at, of all files together."""
_MAX_CHARACTERS = 50_000_000
"""Number of characters of text after which no more rows are looked at."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSample:
    """First rows of some files."""

    rows: tuple[Row, ...]
    num_files: int
    num_unreadable: int
    is_whole: bool
    """Whether these are all rows."""

    def names(self) -> list[str]:
        """Return the names of all columns, in the order in which they come."""
        return names_of(self.rows)

    def has_lists(self) -> bool:
        """Return whether a row is a user with lists of objects in it, and not a single event."""
        return any(nested(row[name]) for row in islice(self.rows, 100) for name in row)


def sample_of(files: Sequence[InputFile]) -> FileSample:
    """Return the first rows of some files.

    Raises:
        InputError: a file cannot be read, or no row of them can be.
    """
    rows: list[Row] = []
    num_unreadable, num_characters, is_whole = 0, 0, True
    for file in files:
        with open_rows(file.location, file.partition, None) as opened:
            for _, row in opened.rows:
                if len(rows) >= MAX_ROWS or num_characters > _MAX_CHARACTERS:
                    is_whole = False
                    break
                if isinstance(row, Mapping):
                    rows.append(cast(Row, row))
                    num_characters += sum(map(_num_characters, rows[-1].values()))
                else:
                    num_unreadable += 1
        if not is_whole:
            break
    if not rows:
        given = files[0].given
        raise InputError(f"{given} has no row that can be read as an object of fields; expected a row a user or event")
    return FileSample(rows=tuple(rows), num_files=len(files), num_unreadable=num_unreadable, is_whole=is_whole)


def names_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of all fields of some rows, in the order in which they come."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name]


def nested(value: object) -> list[Row]:
    """Return the objects in a list of objects, or of an object of lists; none where a value is neither."""
    if isinstance(value, Mapping):
        columns = cast(Row, value)
        lists = [cast(list[Any], each) for each in columns.values() if isinstance(each, list)]
        if not lists or len(lists) < len(columns) or len({len(each) for each in lists}) > 1:
            return []
        return [{name: each[place] for name, each in columns.items()} for place in range(len(lists[0]))]
    if not isinstance(value, list):
        return []
    found = [cast(Row, each) for each in cast(list[object], value) if isinstance(each, Mapping)]
    return [] if _are_messages(found) else found


def _are_messages(rows: Sequence[Row]) -> bool:
    """Return whether these are the messages of a conversation, which is one input."""
    return bool(rows) and all({*row} >= {"role", "content"} for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What can be counted in the values of one column. Key: name."""

    name: str
    num_values: int
    """Number of values that are not empty."""
    num_distinct: int
    mean_characters: float
    num_texts: int
    """Number of values that are texts, numbers or conversations."""
    num_dates: int
    """Number of values that a run reads as dates."""

    def is_repeated(self) -> bool:
        """Return whether values mostly come more than once."""
        return 2 * self.num_distinct <= self.num_values

    def is_text(self) -> bool:
        """Return whether most values can be texts."""
        return self.num_values > 0 and 10 * self.num_texts >= 9 * self.num_values


def column_of(name: str, rows: Sequence[Row]) -> Column:
    """Return what can be counted in a column of some rows."""
    values = [row[name] for row in rows if row.get(name) not in (None, "")]
    texts = [each for each in values if isinstance(each, str | int | float | list) and not isinstance(each, bool)]
    return Column(
        name=name,
        num_values=len(values),
        num_distinct=len({str(each) for each in values}),
        mean_characters=sum(len(str(each)) for each in values) / max(len(values), 1),
        num_texts=len(texts),
        num_dates=sum(map(_is_date, values)),
    )


def texts_of(name: str | None, rows: Iterable[Row]) -> Iterator[str]:
    """Yield the values of a column that are texts or finite numbers, as texts."""
    for row in rows:
        value = None if name is None else row.get(name)
        if isinstance(value, str) and value.strip():
            yield value.strip()
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield str(int(value)) if value == int(value) else str(value)


def unread_date(name: str, rows: Iterable[Row]) -> str | None:
    """Return the form of the first date of a column that a run cannot read, digits shown as 9 and letters as A."""
    for row in rows:
        value = row.get(name)
        if value not in (None, "") and not _is_date(value):
            shown = str(value)[:20]
            return "".join("9" if each.isdigit() else "A" if each.isalpha() else each for each in shown)
    return None


def _is_date(value: object) -> bool:
    if isinstance(value, bool | list | Mapping):
        return False
    try:
        return seconds_of(value, "it") is not None
    except MalformedError:
        return False


def _num_characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_num_characters, cast(Row, value).values()))
    return sum(map(_num_characters, cast(list[object], value))) if isinstance(value, list) else 8
