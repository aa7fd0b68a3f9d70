"""Files and Parquet tables, local or at a URI (s3://...), written atomically.

A local file is written under a temporary name, flushed to disk and renamed. An object store shows an object only once
its upload has ended, which is the same promise. Locations are plain strings: absolute paths or URIs.
"""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from hydra_ray.errors import ConfigError, StorageError

COUNTERS_KEY = b"hydra_ray.counters"
"""Key in a Parquet file's schema metadata under which a part keeps its counters, as JSON."""


def is_uri(location: str) -> bool:
    """Whether `location` names an object store and not a local path."""
    return len(urlsplit(location).scheme) > 1


def require_absolute(location: str, setting: str) -> str:
    """`location`, if it means the same on every machine and from every working directory.

    Raises:
        ConfigError: it is a relative path.
    """
    if is_uri(location) or os.path.isabs(location):
        return location
    raise ConfigError(
        f"{setting} is the relative path {location!r}: a submitted job runs in a temporary copy of the working "
        "directory, where it would be lost. Give an absolute path or a URI such as s3://bucket/folder."
    )


def join(location: str, *names: str) -> str:
    """`location` extended by `names`."""
    return "/".join([location.rstrip("/"), *names])


def exists(location: str) -> bool:
    """Whether a file is at `location`."""
    filesystem, path = _open(location)
    return filesystem.get_file_info(path).type == pafs.FileType.File


def list_files(location: str) -> list[str]:
    """Names of the files directly in the folder `location`, sorted; empty if there is no such folder."""
    filesystem, path = _open(location)
    selector = pafs.FileSelector(path, allow_not_found=True)
    return sorted(info.base_name for info in filesystem.get_file_info(selector) if info.is_file)


def list_tree(location: str) -> list[str]:
    """Paths of all files below the folder `location`, relative to it, sorted; empty if there is no such folder."""
    filesystem, path = _open(location)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=True)
    start = len(path.rstrip("/")) + 1
    return sorted(info.path[start:] for info in filesystem.get_file_info(selector) if info.is_file)


def remove_file(location: str) -> None:
    """Remove the file at `location`, if it is there."""
    filesystem, path = _open(location)
    if filesystem.get_file_info(path).is_file:
        filesystem.delete_file(path)


def write_bytes(location: str, content: bytes) -> None:
    """Put `content` at `location`, all or nothing."""
    with open_output(location) as file:
        file.write(content)


def write_new(location: str, content: bytes) -> None:
    """Put `content` at `location`, all or nothing, unless a file is there: of several writers the first one wins.

    An object store has no such promise, so there the last one does.
    """
    filesystem, path = _open(location)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        write_bytes(location, content)
        return
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    write_bytes(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


@contextmanager
def open_output(location: str) -> Iterator[IO[bytes]]:
    """A new file to fill from its start; it is at `location` only after the block has ended without an error."""
    filesystem, path = _open(location)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        # An object store shows whatever was sent before an error, so nothing is sent until all of it is there.
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with filesystem.open_output_stream(path) as stream:
                shutil.copyfileobj(file, stream)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def open_input(location: str) -> IO[bytes]:
    """The file at `location`, readable from any position.

    Raises:
        StorageError: there is none.
    """
    filesystem, path = _open(location)
    try:
        return filesystem.open_input_file(path)
    except FileNotFoundError as error:
        raise StorageError(f"no file at {location}") from error


def file_state(location: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds: what can be known of a file without reading it.

    Raises:
        StorageError: there is no such file.
    """
    filesystem, path = _open(location)
    info = filesystem.get_file_info(path)
    if not info.is_file:
        raise StorageError(f"no file at {location}")
    return info.size, info.mtime_ns or 0


def read_bytes(location: str) -> bytes:
    """The content of the file at `location`.

    Raises:
        StorageError: there is none.
    """
    filesystem, path = _open(location)
    try:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise StorageError(f"no file at {location}") from error


def write_json(location: str, value: Any) -> None:
    """Put `value` at `location` as JSON, all or nothing."""
    write_bytes(location, json.dumps(value, indent=2, ensure_ascii=False).encode())


def read_json(location: str) -> Any:
    """The JSON value at `location`."""
    return json.loads(read_bytes(location))


def write_part(location: str, table: pa.Table, counters: Mapping[str, float] | None = None) -> None:
    """Put `table` at `location` as one Parquet file, all or nothing.

    Args:
        counters: sums that describe how the part was made (rows, tokens, seconds); kept in the file itself.
    """
    write_row_groups(location, table.schema, [table], counters or {})


def write_row_groups(
    location: str, schema: pa.Schema, tables: Iterable[pa.Table], counters: Mapping[str, float]
) -> None:
    """Put `tables` at `location` as one Parquet file, a row group each, all or nothing; one is in memory at a time.

    Args:
        counters: as of `write_part`; read after the last table, so that they may grow while tables are made.
    """
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != COUNTERS_KEY}
    schema = schema.with_metadata(metadata)
    # Floating-point numbers hardly repeat: a dictionary of them takes several times the time and more room.
    repeating = [path for path, kind in _leaves(schema) if not pa.types.is_floating(kind)]
    with (
        open_output(location) as file,
        # pyarrow's own types know of all columns or none only.
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=repeating) as writer,  # pyright: ignore[reportArgumentType]
    ):
        for table in tables:
            writer.write_table(table)
        writer.add_key_value_metadata({COUNTERS_KEY: json.dumps(counters).encode()})


def read_part(location: str, schema: pa.Schema | None = None) -> pa.Table:
    """The table at `location`.

    Args:
        schema: what the table must look like, metadata aside.

    Raises:
        StorageError: there is no table, it cannot be read, or its schema is another.
    """
    with open_part(location, schema) as file, _reading(location):
        return file.read()


def read_row_groups(
    location: str,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    choose: Callable[[pq.ParquetFile], Iterable[int]] | None = None,
) -> Iterator[pa.Table]:
    """The row groups of the table at `location`, one in memory at a time.

    Args:
        schema: what the table must look like, metadata aside.
        columns: the columns to read; all where not given.
        choose: which row groups to read, by what the footer says; all where not given.

    Raises:
        StorageError: there is no table, it cannot be read, or its schema is another.
    """
    with open_part(location, schema) as file:
        for place in range(file.num_row_groups) if choose is None else choose(file):
            with _reading(location):
                table = file.read_row_group(place, columns=columns)
            yield table


def open_part(location: str, schema: pa.Schema | None = None) -> pq.ParquetFile:
    """The Parquet file at `location`, of which the footer alone has been read.

    Args:
        schema: what the table must look like, metadata aside.

    Raises:
        StorageError: there is no table, it cannot be read, or its schema is another.
    """
    filesystem, path = _open(location)
    with _reading(location):
        file = pq.ParquetFile(path, filesystem=filesystem)
    found = file.schema_arrow
    if schema is not None and not found.equals(schema, check_metadata=False):
        file.close()
        raise StorageError(f"{location} has the schema\n{found}\nexpected\n{schema}\nRemove it and run again.")
    return file


def _leaves(fields: Iterable[pa.Field], prefix: str = "") -> Iterator[tuple[str, pa.DataType]]:
    """Parquet's own columns: their dotted paths and types."""
    for field in fields:
        path, kind = prefix + field.name, field.type
        if pa.types.is_list(kind):
            yield from _leaves([pa.field("element", kind.value_type)], f"{path}.list.")
        elif pa.types.is_struct(kind):
            yield from _leaves(kind, f"{path}.")
        else:
            yield path, kind


@contextmanager
def _reading(location: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"cannot read the table {location}: {error}") from error


def read_counters(location: str) -> dict[str, float]:
    """The counters of the part at `location`, from its footer alone."""
    with open_part(location) as file:
        return json.loads((file.metadata.metadata or {}).get(COUNTERS_KEY, b"{}"))


def add_counters(counters: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sums of several parts' counters, by name."""
    total: dict[str, float] = {}
    for each in counters:
        for name, value in each.items():
            total[name] = total.get(name, 0) + value
    return total


def copy_folder(source: str, destination: str) -> None:
    """Copy all files below the folder `source`; not all or nothing, so write what marks it as complete afterwards."""
    source_filesystem, source_path = _open(source)
    filesystem, path = _open(destination)
    filesystem.create_dir(path, recursive=True)
    pafs.copy_files(source_path, path, source_filesystem=source_filesystem, destination_filesystem=filesystem)


def remove_folder(location: str) -> None:
    """Remove the folder `location` and everything below it, if it is there."""
    filesystem, path = _open(location)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)


def _open(location: str) -> tuple[pafs.FileSystem, str]:
    if not is_uri(location):
        return pafs.LocalFileSystem(), location
    try:
        return pafs.FileSystem.from_uri(location)
    except (ValueError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{location!r} is no location that tables can be kept at: {error}") from error
