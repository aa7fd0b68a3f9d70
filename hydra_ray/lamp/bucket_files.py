"""Local append-only files of JSON lines, one per bucket and kind of row, filled through a buffer of fixed size."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPILL_BUFFER_BYTES = 8 * 2**20
"""Size of the rows of all buckets that are buffered before they are appended to their files."""


class BucketFiles:
    """Rows by kind and bucket, in files below one folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._waiting: dict[tuple[str, int], list[str]] = {}
        self._waiting_bytes = 0

    def append(self, kind: str, bucket: int, row: Any) -> None:
        """Append a row of plain values."""
        line = json.dumps(row) + "\n"
        self._waiting.setdefault((kind, bucket), []).append(line)
        self._waiting_bytes += len(line)
        if self._waiting_bytes > SPILL_BUFFER_BYTES:
            self._flush()

    def rows(self, kind: str, bucket: int) -> Iterator[Any]:
        """Yield the rows of a bucket in the order in which they were appended."""
        self._flush()
        path = self._path(kind, bucket)
        if path.exists():
            with path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)

    def _flush(self) -> None:
        for (kind, bucket), lines in self._waiting.items():
            with self._path(kind, bucket).open("a", encoding="utf-8") as file:
                file.writelines(lines)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _path(self, kind: str, bucket: int) -> Path:
        return self._folder / f"{kind}-{bucket:05d}.jsonl"
