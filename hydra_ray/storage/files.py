"""Files and Parquet tables, local or at s3://bucket/key, written atomically.

Locations are plain strings: absolute paths or URIs. What an object store lists may lag behind what it has, so listings
find files that nobody else names, and never tell that one is missing.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from hydra_ray.errors import ConfigError, DamagedError, StorageError
from hydra_ray.storage.local import forbidden
from hydra_ray.storage.locations import is_uri, require_supported, store_of

COUNTERS_KEY = b"hydra_ray.counters"
"""Key in a Parquet file's schema metadata under which a part keeps its counters, as JSON."""
DAMAGED_SUFFIX = ".damaged"
"""What the name of a file ends with that was set aside."""
_MISSING = "If it is a stage's, remove the stage's manifest.json, run again, and only what is missing is made anew."
_ANEW = "Remove it, and the manifest.json of its stage if it is a stage's; run again, and only this is made anew."


def require_absolute(location: str, setting: str) -> str:
    """`location`, if it means the same on every machine and from every working directory.

    Raises:
        ConfigError: it is a relative path, or in a store that is not supported.
    """
    require_supported(location)
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
    store, path = store_of(location)
    return store.state(path) is not None


def present(locations: Sequence[str]) -> list[bool]:
    """Whether a file is at each of the locations, which are all in one store.

    Each is asked for by itself: what an object store lists may lag behind what it has.
    """
    if not locations:
        return []
    store, _ = store_of(locations[0])
    return store.present([store_of(location)[1] for location in locations])


def list_files(location: str) -> list[str]:
    """Names of the files directly in the folder `location`, sorted; empty if there is no such folder."""
    store, path = store_of(location)
    return sorted(store.list_files(path, is_recursive=False))


def list_tree(location: str) -> list[str]:
    """Paths of all files below the folder `location`, relative to it, sorted; empty if there is no such folder."""
    store, path = store_of(location)
    return sorted(store.list_files(path, is_recursive=True))


def remove_file(location: str) -> None:
    """Remove the file at `location`, if it is there."""
    store, path = store_of(location)
    store.remove_file(path)


def write_bytes(location: str, content: bytes) -> None:
    """Put `content` at `location`, all or nothing."""
    store, path = store_of(location)
    store.put(path, content)


def write_new(location: str, content: bytes) -> bool:
    """Put `content` at `location`, all or nothing, unless a file is there: of several writers the first one wins.

    Returns:
        Whether this one did.
    """
    store, path = store_of(location)
    return store.put_new(path, content)


def write_over(location: str, expected: bytes, content: bytes) -> bool:
    """Put `content` in the place of a file whose content is `expected`: of several writers the first one wins.

    Returns:
        Whether this one did; False also where there is no such file.
    """
    store, path = store_of(location)
    return store.put_over(path, expected, content)


def open_output(location: str) -> AbstractContextManager[IO[bytes]]:
    """A new file to fill from its start; it is at `location` only after the block has ended without an error.

    Raises:
        StorageError: it cannot be written, such as for want of room; then nothing is left of it.
    """
    store, path = store_of(location)
    return store.output(path)


def open_input(location: str) -> IO[bytes]:
    """The file at `location`, readable from any position.

    Raises:
        StorageError: there is none.
    """
    store, path = store_of(location)
    with _reading(location):
        return store.arrow.open_input_file(path)


def file_state(location: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds: what can be known of a file without reading it.

    Raises:
        StorageError: there is no such file.
    """
    store, path = store_of(location)
    found = store.state(path)
    if found is None:
        raise StorageError(f"no file at {location}")
    return found


def read_bytes(location: str) -> bytes:
    """The content of the file at `location`.

    Raises:
        StorageError: there is none.
    """
    found = read_if_there(location)
    if found is None:
        raise StorageError(f"no file at {location}. {_MISSING}")
    return found


def read_if_there(location: str) -> bytes | None:
    """The content of the file at `location`; None where there is none."""
    store, path = store_of(location)
    with _reading(location):
        return store.content(path)


def write_json(location: str, value: Any) -> None:
    """Put `value` at `location` as JSON, all or nothing."""
    write_bytes(location, json.dumps(value, indent=2, ensure_ascii=False).encode())


def read_json(location: str) -> Any:
    """The JSON value at `location`.

    Raises:
        StorageError: there is none.
        DamagedError: it is no JSON.
    """
    try:
        return json.loads(read_bytes(location))
    except ValueError as error:
        raise DamagedError(f"{location} is damaged, it is no JSON: {error}. {_ANEW}") from error


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
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=repeating,  # pyright: ignore[reportArgumentType]
            write_page_checksum=True,
        ) as writer,
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


def set_aside_if_damaged(location: str) -> bool:
    """Give the table at `location` another name if it is no table, so that it can be made again.

    Returns:
        Whether it was set aside.
    """
    try:
        open_part(location).close()
    except DamagedError:
        store, path = store_of(location)
        store.move(path, f"{path}{DAMAGED_SUFFIX}")
        return True
    return False


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
    store, path = store_of(location)
    with _reading(location):
        # Of a remote table the pages that are wanted are asked for together.
        file = pq.ParquetFile(path, filesystem=store.arrow, pre_buffer=store.is_remote, page_checksum_verification=True)
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
    except FileNotFoundError as error:
        raise StorageError(f"no file at {location}. {_MISSING}") from error
    except StorageError:
        raise
    except PermissionError as error:
        raise forbidden(location) from error
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DamagedError(f"the table {location} is damaged: {error}. {_ANEW}") from error
    except OSError as error:
        raise StorageError(f"cannot read {location}: {error}. If it is damaged: {_ANEW}") from error


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


def copy_files(source: str, destination: str, names: Iterable[str]) -> None:
    """Copy files from one folder to another; not all or nothing, so write what marks them as complete afterwards."""
    for name in names:
        with open_input(join(source, name)) as file, open_output(join(destination, name)) as copy:
            shutil.copyfileobj(file, copy, length=16 << 20)


def remove_folder(location: str) -> None:
    """Remove the folder `location` and everything below it, if it is there."""
    store, path = store_of(location)
    store.remove_folder(path)


def arrow_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `location` and the path in it, for libraries that write by themselves."""
    store, path = store_of(location)
    return store.arrow, path
