"""Rows as bytes that travel between the steps of a part: Arrow IPC streams of their row types."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from hydra_ray.rows import from_table, to_table


def to_bytes(rows: Sequence[Any], row_type: type) -> bytes:
    """Return rows serialized as an Arrow IPC stream."""
    table = to_table(rows, row_type)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(content: bytes, row_type: type) -> Iterator[Any]:
    """Yield the rows of an Arrow IPC stream."""
    return from_table(pa.ipc.open_stream(content).read_all(), row_type)
