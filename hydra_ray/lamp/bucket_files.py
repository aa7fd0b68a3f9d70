"""Local append-only files of typed rows, one per bucket and kind of row, filled through a buffer of fixed size."""

# pyarrow comes without type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from hydra_ray.rows import from_table, to_table

SPILL_BUFFER_CHARACTERS = 8 * 2**20
"""Length of the texts of all buckets' rows that are buffered before they are appended to their files."""


class BucketFiles:
    """Rows by kind and bucket, in files below one folder: Arrow streams, one after the other."""

    def __init__(self, folder: Path, row_types: Mapping[str, type]):
        """Begin without rows.

        Args:
            row_types: the row type of each kind.
        """
        self._folder = folder
        self._row_types = row_types
        self._waiting: dict[tuple[str, int], list[Any]] = {}
        self._waiting_characters = 0

    def append(self, kind: str, bucket: int, row: Any, num_characters: int) -> None:
        """Append a row.

        Args:
            num_characters: approximate length of its texts.
        """
        self._waiting.setdefault((kind, bucket), []).append(row)
        self._waiting_characters += num_characters
        if self._waiting_characters > SPILL_BUFFER_CHARACTERS:
            self._flush()

    def rows(self, kind: str, bucket: int) -> Iterator[Any]:
        """Yield the rows of a bucket in the order in which they were appended."""
        self._flush()
        path = self._path(kind, bucket)
        if path.exists():
            with pa.OSFile(str(path)) as file:
                while file.tell() < file.size():
                    with pa.ipc.open_stream(file) as stream:
                        for batch in stream:
                            yield from from_table(pa.Table.from_batches([batch]), self._row_types[kind])

    def _flush(self) -> None:
        for (kind, bucket), rows in self._waiting.items():
            table = to_table(rows, self._row_types[kind])
            with self._path(kind, bucket).open("ab") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
        self._waiting.clear()
        self._waiting_characters = 0

    def _path(self, kind: str, bucket: int) -> Path:
        return self._folder / f"{kind}-{bucket:05d}.arrows"
