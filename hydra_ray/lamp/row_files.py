"""Rows of a file of users in any format: JSON lines or a JSON array, Parquet, Arrow IPC (Feather) and CSV.

The format is told by the content; a name that ends in .jsonl, .ndjson or .parquet is believed. A row that cannot be
read is an error in its place, and the rows after it are read.
"""

# pyarrow comes without type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUnknownLambdaType=false

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from hydra_ray import storage
from hydra_ray.config import ColumnsConfig
from hydra_ray.errors import InputError
from hydra_ray.lamp.columns import known_names, renaming_of
from hydra_ray.lamp.field_checks import MalformedError
from hydra_ray.lamp.json_files import json_items
from hydra_ray.lamp.raw_streams import COMPRESSED_SUFFIXES, open_bytes, skip_mark

ROWS_PER_BATCH = 64
"""Number of rows of a Parquet or Arrow file that are decoded at a time."""
USER_ID = "user_id"
_EVENT_COLUMNS = frozenset({"input", "output", "chosen", "candidates", "answers"})
_LINES, _PARQUET = (".jsonl", ".ndjson"), (".parquet", ".pq")
ROW_SUFFIXES = (*_LINES, *_PARQUET)
"""Endings of names that say what a file is without a look at it."""
_ARROW_FILE, _ARROW_STREAM, _FEATHER_1, _PARQUET_MAGIC = b"ARROW1", b"\xff\xff\xff\xff", b"FEA1", b"PAR1"
_DELIMITERS = ",;\t|"
_MAX_CELL = 1 << 28
"""Longest cell of a CSV file, in characters: an opening quote without an end would take in the rest of the file."""
_MAX_LINE = 1 << 28
"""Longest line of JSON lines, in bytes."""
_MAX_HEADER = 1 << 20
_NULL = "\\N"
"""A missing value, as MySQL, PostgreSQL and Hive write it to CSV."""
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*")
"""Line before the header by which Excel tells the separator."""
_ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*\{")
_OBJECT_OVER_LINES = re.compile(rb"\s*\{[ \t\r]*\n\s*\"")
_START_BYTES = 4096
_UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError, MemoryError)
"""What pyarrow raises for damaged content, and for values that Python cannot represent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFile:
    """Open file of rows."""

    rows: Iterator[tuple[int, object]]
    """Positions and rows: decoded values, or a MalformedError for a row that cannot be read."""
    fraction_read: Callable[[], float]
    """Returns the approximate share of the file that has been read."""


_OURS = ColumnsConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What the first line of a CSV file must be."""

    fits: Callable[[list[str]], bool]
    """Tells whether names are those of the file's columns."""
    expected: str
    """What the columns are to be, for errors, and what else to do."""


@contextmanager
def open_rows(
    location: str,
    partition: Mapping[str, Any],
    columns: ColumnsConfig | None = _OURS,
    required: Collection[str] = (),
) -> Generator[RowFile]:
    """Open the file of rows at `location`.

    Args:
        partition: values of columns that the rows may lack.
        columns: names that columns have in the file, which become ours; with None any names are taken and kept.
        required: names that the first line of a CSV file must have then.

    Raises:
        InputError: it is in none of the formats, or damaged; also while rows are read.
        StorageError: it cannot be read.
    """
    name = location.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    with open_bytes(location) as (file, raw):
        start = file.peek(8)[:8]
        is_arrow = start.startswith((_ARROW_FILE, _ARROW_STREAM))
        if start.startswith(_FEATHER_1):
            raise InputError(f"{location} is Feather of version 1; write it again as version 2, or as Parquet")
        if not (is_arrow or start.startswith(_PARQUET_MAGIC) or name.endswith(_PARQUET)):
            rows = _text_rows(location, name, file, _header_of(columns, partition, required))
            rows = _with_partition(rows, partition, columns)
            yield RowFile(rows=rows, fraction_read=lambda: raw.fraction_before(file.tell()))
            return
    if raw.codec:
        raise InputError(f"{location} is a table packed with {raw.codec}; unpack it: tables are compressed inside")
    with storage.open_source(location) as source:
        seen = _Seen()
        batches = _arrow_batches(source, start) if is_arrow else _parquet_batches(source, seen)
        format_name = "Arrow IPC" if is_arrow else "Parquet"
        rows = _table_rows(location, format_name, batches, seen)
        yield RowFile(rows=_with_partition(rows, partition, columns), fraction_read=seen.share)


@dataclass(slots=True)
class _Seen:
    """What has been read of a table."""

    num_rows: int = 0
    num_all: int = 0
    """Number of all rows; 0 where no footer tells."""

    def share(self) -> float:
        return self.num_rows / self.num_all if self.num_all else 1.0


def _with_partition(
    rows: Iterator[tuple[int, object]], partition: Mapping[str, Any], columns: ColumnsConfig | None
) -> Iterator[tuple[int, object]]:
    renamed = None if columns is None else renaming_of(columns)
    for position, row in rows:
        if not isinstance(row, Mapping):
            yield position, row
            continue
        fields = cast(Mapping[str, Any], row)
        yield position, {**partition, **(fields if renamed is None else renamed(fields))}


def _header_of(columns: ColumnsConfig | None, partition: Mapping[str, Any], required: Collection[str]) -> _Header:
    if columns is None:
        named = f"the columns {', '.join(required)}" if required else "its columns"
        return _Header(
            fits=lambda names: len(names) > 1 and {*required} <= {*partition, *names},
            expected=f"{named}; write it as one of these.",
        )
    return _Header(
        fits=lambda names: (
            USER_ID in {*partition, *(known := known_names(columns, names))} and not _EVENT_COLUMNS.isdisjoint(known)
        ),
        expected=f"the columns {USER_ID}, input and output, or other names that lamp.columns tells; write it as one of "
        "these, or leave it out of lamp.users_files. `hydra-ray init FILE` looks at a file and writes a configuration.",
    )


def _text_rows(location: str, name: str, file: io.BufferedReader, expected: _Header) -> Iterator[tuple[int, object]]:
    skip_mark(file, location)
    head = file.peek(_START_BYTES)
    if _OBJECT_OVER_LINES.match(head):
        raise InputError(
            f"{location} holds a JSON object over several lines; expected one object a line, or a JSON array. Write it "
            "again so, such as by `jq -c . FILE`."
        )
    if name.endswith(_LINES) and not _ARRAY_OF_OBJECTS.match(head):
        yield from _lines(location, file)
        return
    while (blank := file.peek(1)[:1]) and blank.isspace():
        file.read(1)
    start = file.peek(1)[:1]
    if start in (b"{", b"<", b""):
        yield from _lines(location, file)
    elif start == b"[":
        yield from enumerate(json_items(location, "item", "a JSON array of objects, or one object a line"))
    else:
        yield from _csv_rows(location, file, expected)


def _lines(location: str, file: io.BufferedReader) -> Iterator[tuple[int, object]]:
    is_first = True
    for position, line in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), b"")):
        if len(line) > _MAX_LINE:
            raise InputError(
                f"{location} has a line of more than {_MAX_LINE >> 20} MB at position {position}; expected one JSON "
                "object a line, lines ended by a line feed, or a JSON array"
            )
        start = line.lstrip()[:1]
        if is_first and start == b"<":
            raise InputError(
                f"{location} is a web page or XML, it starts with <; expected one JSON object a line. Download it "
                "again: it may be an error page in its place."
            )
        if start:
            is_first = False
            yield position, _decoded(line)


def _decoded(line: bytes) -> object:
    try:
        return json.loads(line.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        return MalformedError(f"the line is not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return MalformedError(f"the line is not JSON: {error.msg} at character {error.pos}")
    except (ValueError, RecursionError) as error:
        return MalformedError(f"the line is not JSON: {error}")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no value")


def _csv_rows(location: str, file: io.BufferedReader, expected: _Header) -> Iterator[tuple[int, object]]:
    """Yield the rows of CSV with a header, each a mapping of its cells; an empty cell is None."""
    csv.field_size_limit(_MAX_CELL)
    # What is not UTF-8 becomes half characters, which the checks of the row's fields refuse.
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
    header = text.readline(_MAX_HEADER)
    if _SEPARATOR_LINE.fullmatch(header):
        header = text.readline(_MAX_HEADER)
    names, delimiter = _names(location, header, expected)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    position = -1
    while True:
        position += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise InputError(
                    f"{location} has a quoted text at position {position} that does not end: the rest of the file "
                    "cannot be told apart from it. Close the quote, or get the file again: it may be cut off."
                ) from None
            # The module's message is about quotes or lengths; the line is not the one that the defect began in.
            yield position, MalformedError("the row is not CSV: check its quotes, which are doubled inside a text")
            continue
        if len(cells) > len(names):
            yield position, MalformedError(f"the row has {len(cells)} cells, the header {len(names)}: quote its texts")
        elif cells and [cell.strip() for cell in cells] != names:  # the header again, where files were joined
            cells = (None if cell in ("", _NULL) else cell for cell in cells)
            yield position, dict(zip(names, cells, strict=False))


def _names(location: str, line: str, expected: _Header) -> tuple[list[str], str]:
    for delimiter in _DELIMITERS:
        try:
            names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if expected.fits(names):
            named = [name for name in names if name]
            if len(set(named)) < len(named):
                raise InputError(f"{location} has a column twice in its header; name each once")
            return names, delimiter
    raise InputError(
        f"{location} is none of JSON lines, a JSON array, Parquet, Arrow IPC, and CSV whose first line names "
        f"{expected.expected}"
    )


def _parquet_batches(source: Any, seen: _Seen) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(source)
    seen.num_all = file.metadata.num_rows
    yield from file.iter_batches(batch_size=ROWS_PER_BATCH)


def _arrow_batches(source: Any, start: bytes) -> Iterator[pa.RecordBatch]:
    ipc = cast(Any, pa.ipc)
    if start.startswith(_ARROW_FILE):
        reader = ipc.open_file(source)
        batches: Iterable[Any] = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = ipc.open_stream(source)
    for batch in batches:
        batch.validate(full=True)  # damaged offsets would be read out of bounds
        for place in range(0, batch.num_rows, ROWS_PER_BATCH):
            yield batch.slice(place, ROWS_PER_BATCH)


def _table_rows(
    location: str, format_name: str, batches: Iterator[pa.RecordBatch], seen: _Seen
) -> Iterator[tuple[int, object]]:
    try:
        for batch in batches:
            decode = _decoder(pa.struct(list(batch.schema))) or _same
            for row in _python_rows(batch):
                position, seen.num_rows = seen.num_rows, seen.num_rows + 1
                yield position, row if isinstance(row, MalformedError) else decode(row)
    except _UNREADABLE as error:
        raise InputError(
            f"{location} cannot be read as {format_name} ({type(error).__name__} after {seen.num_rows} rows): it "
            "may be cut off or damaged; write it again"
        ) from None


def _python_rows(batch: pa.RecordBatch) -> list[object]:
    """Return the rows of a batch, each that Python cannot represent replaced by an error."""
    try:
        return batch.to_pylist()
    except _UNREADABLE as error:  # text that is not UTF-8, a date after the year 9999, an unknown time zone
        if batch.num_rows == 1:
            return [MalformedError(f"the row cannot be read: a value in it gives {type(error).__name__}")]
        return [row for place in range(batch.num_rows) for row in _python_rows(batch.slice(place, 1))]


def _decoder(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """Return the function that makes plain values of Python values of a type: bytes of fixed width become text (16 are
    a UUID), and maps become mappings; None where values are plain already."""
    if pa.types.is_fixed_size_binary(kind):
        return _optional(lambda value: str(UUID(bytes=value)) if len(value) == 16 else value.hex())
    if isinstance(kind, pa.DictionaryType):
        return _decoder(kind.value_type)
    if isinstance(kind, pa.MapType):
        key, item = _decoder(kind.key_type) or _same, _decoder(kind.item_type) or _same
        return _optional(lambda value: {key(name): item(each) for name, each in value})
    if isinstance(kind, pa.StructType):
        fields = {field.name: decode for field in kind if (decode := _decoder(field.type)) is not None}
        if not fields:
            return None
        return _optional(lambda value: {name: fields.get(name, _same)(each) for name, each in value.items()})
    element = _decoder(kind.value_type) if _is_list(kind) else None
    return None if element is None else _optional(lambda value: [element(each) for each in value])


def _is_list(kind: pa.DataType) -> bool:
    is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return is_view or pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _optional(decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else decode(value)


def _same(value: Any) -> Any:
    return value
