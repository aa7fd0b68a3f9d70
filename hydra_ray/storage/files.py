"""Files and Parquet tables, local or at s3://bucket/key; a file, such as a part of a table, is committed atomically.

Locations are plain strings: absolute paths or URIs. Listings of an object store may be stale: one may tell that a file
is there, but whether one that it lacks is missing is asked of that file itself.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from hydra_ray.errors import ConfigError, DamagedError, StorageError
from hydra_ray.storage.listings import listing_of, require_listed
from hydra_ray.storage.local import forbidden
from hydra_ray.storage.locations import is_uri, require_supported, store_of
from hydra_ray.storage.once import changed_at, keep_written, opened_once, was_opened
from hydra_ray.storage.recording import Written, is_recorded, record, record_removed, recorded_at
from hydra_ray.storage.s3 import WHOLE_BYTES, unreachable
from hydra_ray.storage.sealed_parquet import BLOCKS_KEY, OpenedFile, Part, SealedOutput
from hydra_ray.storage.seals import digest_of, new_digest, sealed_json, unsealed

COUNTERS_KEY = b"hydra_ray.counters"
"""Key in a Parquet file's schema metadata under which a part's counters are stored, as JSON."""
DAMAGED_SUFFIX = ".damaged"
"""Suffix of the name of a damaged file that was set aside."""
_TABLE_SUFFIX = ".parquet"
_CHUNK_BYTES = 16 << 20
_FOOTER_BYTES = 64 << 10
"""Size of the first read of a store's object of which the footer alone is wanted. For one that is read whole it is
WHOLE_BYTES; most need no other."""
_ARROW_REFUSED = "AWS Error"
"""Words by which pyarrow tells that a store did not fulfil a request; what is damaged is an OSError of it too."""
_MISSING = "If it belongs to a stage, remove the stage's manifest.json and run again: only what is missing is computed."
_ANEW = "Remove it, and its stage's manifest.json if it has one, and run again: only this file is computed again."


def require_absolute(location: str, setting: str) -> str:
    """Return `location` if it means the same on every machine and from every working directory.

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
    """Return `location` extended by `names`."""
    return "/".join([location.rstrip("/"), *names])


def exists(location: str) -> bool:
    """Return whether a file is at `location`."""
    store, path = store_of(location)
    return was_opened(location) or store.state(path) is not None


def present(locations: Sequence[str]) -> list[bool]:
    """Return whether a file is at each of the locations, which are all in one store.

    What an object store's listing lacks is queried by itself, because a listing may be stale, unless the listing of the
    folder is empty.
    """
    if not locations:
        return []
    store, _ = store_of(locations[0])
    return store.present([store_of(location)[1] for location in locations])


def list_files(location: str) -> list[str]:
    """Return the sorted names of the files directly in the folder `location`; empty if there is no such folder."""
    store, path = store_of(location)
    return sorted(store.list_files(path, is_recursive=False))


def list_tree(location: str) -> list[str]:
    """Return the sorted relative paths of all files below the folder `location`; empty if there is no such folder."""
    store, path = store_of(location)
    return sorted(store.list_files(path, is_recursive=True))


def file_sizes(location: str) -> dict[str, int]:
    """Return the sizes in bytes of all files below the folder `location`, by relative path."""
    store, path = store_of(location)
    return store.file_sizes(path)


def remove_file(location: str) -> None:
    """Remove the file at `location` if it exists."""
    store, path = store_of(location)
    _forget(location)
    store.remove_file(path)


def _forget(location: str) -> None:
    """Forget what was there, because the file is about to change."""
    record(location, None)
    changed_at(location)


def write_bytes(location: str, content: bytes) -> None:
    """Write `content` to `location`, atomically."""
    store, path = store_of(location)
    _forget(location)
    store.put(path, content)
    if is_recorded(location) and not location.endswith(_TABLE_SUFFIX):
        record(location, Written(num_bytes=len(content), digest=digest_of(content)))


def write_new(location: str, content: bytes) -> bool:
    """Create a file at `location`, atomically, unless one exists: of several writers exactly one succeeds.

    Returns:
        Whether this writer did.
    """
    store, path = store_of(location)
    return store.put_new(path, content)


def write_over(location: str, expected: bytes, content: bytes) -> bool:
    """Replace a file whose content is `expected` (compare-and-swap): of several writers exactly one succeeds.

    Returns:
        Whether this writer did; False also where there is no such file.
    """
    store, path = store_of(location)
    return store.put_over(path, expected, content)


def open_output(location: str) -> AbstractContextManager[IO[bytes]]:
    """Return a new file, writable from its start; it appears at `location` only if the block ends without an error.

    Raises:
        StorageError: it cannot be written, such as on a full disk; then nothing is left of it.
    """
    store, path = store_of(location)
    _forget(location)
    return store.output(path)


def open_input(location: str) -> IO[bytes]:
    """Return the file at `location`, open for random access.

    Raises:
        StorageError: there is none.
    """
    store, path = store_of(location)
    with _read_errors(location):
        return store.arrow.open_input_file(path)


def open_source(location: str) -> IO[bytes]:
    """Return a file that is not this package's own, such as users' raw files, open for random access.

    Any key of an object store can be read. No error advises to remove the file, which may be its owner's only copy.

    Raises:
        StorageError: it cannot be read.
    """
    store, path = store_of(location)
    try:
        return store.source(path)
    except FileNotFoundError as error:
        raise StorageError(f"no file at {location}; check the name") from error
    except PermissionError as error:
        raise forbidden(location) from error
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot open {location} ({error}); nothing was changed there: check the name") from error


def glob_files(pattern: str) -> list[str]:
    """Return the sorted locations of the files and folders whose names match `pattern` (`*`, `?`, `[...]`, and `**` for
    any folders)."""
    store, path = store_of(pattern)
    return sorted(f"{'s3://' if store.is_remote else ''}{found}" for found in store.glob(path))


def file_state(location: str) -> tuple[int, int]:
    """Return the size in bytes and the modification time in nanoseconds of a file, without reading it.

    Raises:
        StorageError: there is no such file.
    """
    store, path = store_of(location)
    found = store.state(path)
    if found is None:
        raise StorageError(f"no file at {location}")
    return found


def read_bytes(location: str) -> bytes:
    """Return the content of the file at `location`.

    Raises:
        StorageError: there is none.
        DamagedError: the listing of its folder names another digest.
    """
    found = read_if_there(location)
    if found is None:
        raise StorageError(f"no file at {location}. {_MISSING}")
    if listing_of(location) is not None:
        require_listed(location, _digest_of(found, location), _ANEW)
    return found


def _digest_of(content: bytes, location: str) -> str:
    if not location.endswith(_TABLE_SUFFIX):
        return digest_of(content)
    with _read_errors(location):
        part = Part(OpenedFile(pa.BufferReader(content)), location, _ANEW)
        part.require_whole()
        return part.digest


def read_if_there(location: str) -> bytes | None:
    """Return the content of the file at `location`; None if there is no such file."""
    store, path = store_of(location)
    with _read_errors(location):
        return store.content(path)


def write_json(location: str, value: Mapping[str, Any]) -> None:
    """Write `value` to `location` as JSON with a seal (see `hydra_ray.storage.seals`), atomically."""
    write_bytes(location, sealed_json(value))


def publish_json(location: str, value: Mapping[str, Any]) -> None:
    """Write `value` to `location` as plain JSON, atomically, in a folder whose listing has its digest.

    It is for files that other programs read too, which do not expect a seal.
    """
    write_bytes(location, json.dumps(value, indent=2, ensure_ascii=False).encode())


Shape = Mapping[str, type | tuple[type, ...]]
"""Keys that a JSON object must have, each with the type of its value."""


def read_json(location: str, shape: Shape | None = None, anew: str = _ANEW) -> dict[str, Any]:
    """Return the JSON object at `location`.

    Args:
        shape: what it must have.
        anew: what to do where it is damaged.

    Raises:
        StorageError: there is none.
        DamagedError: it is no such object, or not what was written.
    """
    return parse_json(read_bytes(location), location, shape, anew)


def parse_json(content: bytes, location: str, shape: Shape | None = None, anew: str = _ANEW) -> dict[str, Any]:
    """Return the JSON object that a file's content is; see `read_json`."""
    try:
        value = unsealed(content)
    except ValueError as error:
        raise DamagedError(f"{location} is damaged: {error}. {anew}") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{location} is damaged: expected a JSON object, got {_kind(value)}. {anew}")
    wrong = [name for name, kind in (shape or {}).items() if not isinstance(value.get(name), kind)]
    if wrong:
        raise DamagedError(
            f"{location} is damaged, or another version of hydra_ray wrote it: {', '.join(map(repr, wrong))} is missing"
            f" or of another type. {anew}"
        )
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def write_part(location: str, table: pa.Table, counters: Mapping[str, float] | None = None) -> None:
    """Write `table` to `location` as one Parquet file, atomically.

    Args:
        counters: sums that describe how the part was computed (rows, tokens, seconds); stored in the file itself.
    """
    write_row_groups(location, table.schema, [table], counters or {})


def write_row_groups(
    location: str, schema: pa.Schema, tables: Iterable[pa.Table], counters: Mapping[str, float]
) -> None:
    """Write `tables` to `location` as one Parquet file, a row group each, atomically; one table is in memory at a time.

    Args:
        counters: as for `write_part`; read after the last table, so that they may grow while tables are computed.
    """
    own = (COUNTERS_KEY, BLOCKS_KEY)
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key not in own}
    schema = schema.with_metadata(metadata)
    # Floats hardly repeat: dictionary encoding would take several times as long and more space. Their signs and
    # exponents do, once they are apart from the other bytes.
    repeating = [path for path, kind in _leaves(schema) if not pa.types.is_floating(kind)]
    split = [path for path, kind in _leaves(schema) if pa.types.is_float32(kind) or pa.types.is_float64(kind)]
    with open_output(location) as file:
        output = SealedOutput(file)
        # pyarrow's type stubs only allow a bool and a file of its own here.
        with pq.ParquetWriter(
            output,  # pyright: ignore[reportArgumentType]
            schema,
            compression="zstd",
            use_dictionary=repeating,  # pyright: ignore[reportArgumentType]
            use_byte_stream_split=split,  # pyright: ignore[reportArgumentType]
            write_page_checksum=True,
        ) as writer:
            for table in tables:
                writer.write_table(table)
                output.end_block()
            own_entries = {COUNTERS_KEY: json.dumps(counters).encode(), BLOCKS_KEY: output.begin_footer()}
            writer.add_key_value_metadata(own_entries)
        digest = output.finish()
        keep_written(location, file)
    if is_recorded(location):
        stored = json.loads(own_entries[COUNTERS_KEY])
        record(location, Written(num_bytes=output.tell(), digest=digest, counters=stored))


def read_part(location: str, schema: pa.Schema | None = None) -> pa.Table:
    """Return the table at `location`.

    Args:
        schema: the schema that the table must have, metadata aside.

    Raises:
        StorageError: there is no table, it cannot be read, or its schema differs.
    """
    with open_part(location, schema, WHOLE_BYTES) as file, _read_errors(location):
        return file.read()


def read_part_if_there(location: str, schema: pa.Schema) -> pa.Table | None:
    """Return the table at `location` as `read_part` does; None if there is no such file."""
    try:
        return read_part(location, schema)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def set_aside_if_damaged(location: str) -> bool:
    """Rename the file at `location` if it is not a readable Parquet file, so that it can be computed again.

    Returns:
        Whether it was renamed.
    """
    return written_part(location) is None


def written_part(location: str) -> Written | None:
    """Return what was written to the Parquet file at `location`, from its footer alone.

    One that is not a readable Parquet file is renamed, so that it can be computed again; then None is returned.

    Raises:
        StorageError: there is no file, or it cannot be read.
    """
    try:
        with open_part(location) as file:
            return Written(num_bytes=file.num_bytes, digest=file.digest, counters=_counters_of(file, location))
    except DamagedError:
        store, path = store_of(location)
        store.move(path, f"{path}{DAMAGED_SUFFIX}")
        return None


def read_row_groups(
    location: str,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    choose: Callable[[Part], Iterable[int]] | None = None,
) -> Iterator[pa.Table]:
    """Yield the row groups of the table at `location`, one in memory at a time.

    Args:
        schema: the schema that the table must have, metadata aside.
        columns: columns to read; all by default.
        choose: returns the row groups to read, given the open file's footer; all by default.

    Raises:
        StorageError: there is no table, it cannot be read, or its schema differs.
    """
    with open_part(location, schema, _FOOTER_BYTES if choose else WHOLE_BYTES) as file:
        for place in range(file.num_row_groups) if choose is None else choose(file):
            with _read_errors(location):
                table = file.read_row_group(place, columns=columns)
            yield table


def open_part(location: str, schema: pa.Schema | None = None, tail_bytes: int = _FOOTER_BYTES) -> Part:
    """Return the Parquet file at `location`, of which only the footer has been read.

    Args:
        schema: the schema that the table must have, metadata aside.
        tail_bytes: number of bytes to fetch at once from an object store, for who will read more than the footer.

    Raises:
        StorageError: there is no table, it cannot be read, or its schema differs.
    """
    file = _open(location, tail_bytes)
    require_listed(location, file.digest, _ANEW)
    found = file.schema_arrow
    if schema is not None and not found.equals(schema, check_metadata=False):
        file.close()
        raise StorageError(f"{location} has the schema\n{found}\nexpected\n{schema}\nRemove it and run again.")
    return file


def content_digest(location: str) -> str:
    """Return the digest of a file's content; of a table, the one that its footer holds.

    Raises:
        StorageError: there is no such file, or its footer is damaged.
    """
    if location.endswith(_TABLE_SUFFIX):
        with _open(location) as part:
            return part.digest
    digest = new_digest()
    with open_input(location) as file, _read_errors(location):
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _open(location: str, tail_bytes: int = _FOOTER_BYTES) -> Part:
    store, path = store_of(location)
    with _read_errors(location):
        return Part(opened_once(location, lambda: store.table_file(path, tail_bytes)), location, _ANEW)


def _leaves(fields: Iterable[pa.Field], prefix: str = "") -> Iterator[tuple[str, pa.DataType]]:
    """Yield the dotted paths and types of Parquet's leaf columns."""
    for field in fields:
        path, kind = prefix + field.name, field.type
        if pa.types.is_list(kind):
            yield from _leaves([pa.field("element", kind.value_type)], f"{path}.list.")
        elif pa.types.is_struct(kind):
            yield from _leaves(kind, f"{path}.")
        else:
            yield path, kind


@contextmanager
def _read_errors(location: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"no file at {location}. {_MISSING}") from error
    except StorageError:
        raise
    except PermissionError as error:
        raise forbidden(location) from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DamagedError(f"the table {location} is damaged: {error}. {_ANEW}") from error
    except OSError as error:
        if is_uri(location) and _ARROW_REFUSED in str(error):
            raise unreachable(store_of(location)[1], error) from error
        raise StorageError(f"cannot read {location}: {error}. If it is damaged: {_ANEW}") from error


def read_counters(location: str) -> dict[str, float]:
    """Return the counters of the part at `location`: as they were recorded, else from its footer alone."""
    if (written := recorded_at(location)) is not None:
        return dict(written.counters)
    with open_part(location) as file:
        return _counters_of(file, location)


def _counters_of(file: Part, location: str) -> dict[str, float]:
    return parse_json((file.metadata.metadata or {}).get(COUNTERS_KEY, b"{}"), f"the footer of {location}")


def add_counters(counters: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums of several parts' counters, by name."""
    total: dict[str, float] = {}
    for each in counters:
        for name, value in each.items():
            total[name] = total.get(name, 0) + value
    return total


def copy_files(source: str, destination: str, names: Iterable[str]) -> None:
    """Copy files from one folder to another; not atomic, so write the file that marks them as complete afterwards.

    Raises:
        StorageError: there is no such file, or it cannot be written.
        DamagedError: the listing of its folder names another digest.
    """
    for name in names:
        if name.endswith(_TABLE_SUFFIX):  # a bucket's, whose listed digest is not that of its bytes
            with open_output(join(destination, name)) as copy:
                copy.write(read_bytes(join(source, name)))
            continue
        digest = new_digest()
        with open_input(join(source, name)) as file, open_output(join(destination, name)) as copy:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
            require_listed(join(source, name), digest.hexdigest(), _ANEW)


def remove_folder(location: str) -> None:
    """Remove the folder `location` and everything below it, if it exists."""
    store, path = store_of(location)
    record_removed(location)
    changed_at(location)
    store.remove_folder(path)


def arrow_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """Return the Arrow file system of `location` and the path in it, for libraries that do their own I/O."""
    store, path = store_of(location)
    return store.arrow, path
