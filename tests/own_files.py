"""Users' own files for the tests, in all forms, and how they are read."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from hydra_ray.config import ColumnsConfig, Task
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.lamp_files import Sample
from hydra_ray.lamp.user_files import FileStart, read_user_files
from hydra_ray.rows import Rejected, User

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content[:50]) + gzip.compress(content[50:]),  # as `cat a.gz b.gz` makes it
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lambda content: pa.compress(content, codec="lz4", asbytes=True),
}
EVENTS = [
    {"user_id": "ann", "input": "a joke", "output": "comedy", "date": "1970-01-02", "is_new": False},
    {"user_id": "bob", "input": "a kiss, \"long\"\nand slow", "output": "romance", "date": "1970-01-03"},
    {"user_id": "ann", "input": "a laugh", "output": "dark comedy", "date": "1970-01-01"},
    {"user_id": "ann", "input": "which?", "target": "comedy"},
    {"user_id": "bob", "input": "and this?", "target": "romance"},
]  # fmt: skip
COLUMNS = ("user_id", "input", "output", "date", "target", "is_new")


def read(task: Task, *entries: object, columns: ColumnsConfig | None = None) -> list[Sample | Rejected]:
    """Everything that some entries of lamp.users_files give."""
    files, columns = input_files([str(entry) for entry in entries]), columns or ColumnsConfig()
    with TemporaryDirectory() as folder:
        found = list(read_user_files(task, files, Path(folder), columns=columns))
    assert not any(isinstance(each, FileStart) for each in found)
    return found  # pyright: ignore[reportReturnType]


def users(task: Task, *entries: object, columns: ColumnsConfig | None = None) -> list[User]:
    """The users that some entries give, of whom none is rejected."""
    found = read(task, *entries, columns=columns)
    assert [each for each in found if isinstance(each, Rejected)] == []
    return [each.user for each in found if isinstance(each, Sample)]


def lines(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def written(path: Path, rows: Iterable[Any]) -> str:
    """Write rows as JSON lines; return the path."""
    path.write_bytes(lines(rows))
    return str(path)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])


def parquet(content: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(content, file)
    return file.getvalue()


def arrow_file(content: pa.Table) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_file(file, content.schema) as writer:
        writer.write_table(content)
    return file.getvalue()


def arrow_stream(content: pa.Table) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, content.schema) as writer:
        writer.write_table(content)
    return file.getvalue()


def csv(content: pa.Table) -> bytes:
    """As pyarrow writes it."""
    file = io.BytesIO()
    pa_csv.write_csv(content, file)
    return file.getvalue()
