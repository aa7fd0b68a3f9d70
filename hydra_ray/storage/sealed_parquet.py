"""Parquet files all of whose bytes are checked when they are read.

The footer lists the digests of blocks, which end where row groups end, and every mebibyte within larger ones. Before
the footer, where Parquet leaves room, stands a seal: eight bytes that mark it and the footer's digest. A reader checks
the seal first, and then each block that it reads anything of. Every other Parquet library reads such a file too. A file
without seal and list, of an earlier version, is read with the checksums of its pages alone.
"""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import IO, Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from hydra_ray.errors import DamagedError
from hydra_ray.storage.seals import digest_of

BLOCKS_KEY = b"hydra_ray.blocks"
"""Key in a file's metadata of its blocks: JSON lists of where they end and of their digests."""
_ARROW_SCHEMA_KEY = b"ARROW:schema"
_MAGIC = b"hydraray"
_END = b"PAR1"
_TRAILER_BYTES = 8
"""Size of what follows the footer: its length and Parquet's mark."""
_SEAL_BYTES = len(_MAGIC) + 16
_BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 64 << 10
"""Size of the first read, which holds most footers."""


class SealedOutput:
    """File that a Parquet writer writes to, and that digests what it passes on."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        """Take the file, which is empty."""
        self._file = file
        self._num_bytes = 0
        self._block_bytes = 0
        self._digest = _new_block()
        self._ends: list[int] = []
        self._digests: list[str] = []
        self._footer: bytearray | None = None

    def write(self, content: Any) -> int:
        """Write a buffer, or keep it back where it is of the footer."""
        view = memoryview(content).cast("B")
        if self._footer is not None:
            self._footer += view
        else:
            self._file.write(view)
            self._take(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._num_bytes + len(self._footer or b"")

    def flush(self) -> None:
        """Do nothing: who opened the file flushes it."""

    def close(self) -> None:
        """Do nothing: who opened the file closes it."""

    def end_block(self) -> None:
        """End the block that is being written, if there is any of it."""
        if self._block_bytes:
            self._ends.append(self._num_bytes)
            self._digests.append(self._digest.hexdigest())
            self._block_bytes, self._digest = 0, _new_block()

    def begin_footer(self) -> bytes:
        """Return the list of blocks; what is written from now on is the footer."""
        self.end_block()
        self._footer = bytearray()
        return json.dumps({"ends": self._ends, "digests": self._digests}).encode()

    def finish(self) -> str:
        """Write the seal and the footer; return the digest that a reader will find."""
        footer = bytes(self._footer or b"")
        assert len(footer) == _footer_bytes(footer), "a row group was written after the list of blocks"
        seal = _seal(footer)
        self._file.write(seal)
        self._file.write(footer)
        self._num_bytes += len(seal)
        return _digest_of(footer, pq.read_metadata(pa.BufferReader(footer)).metadata or {})

    def _take(self, view: memoryview) -> None:
        while view:
            piece = view[: _BLOCK_BYTES - self._block_bytes]
            self._digest.update(piece)
            self._num_bytes += len(piece)
            self._block_bytes += len(piece)
            if self._block_bytes == _BLOCK_BYTES:
                self.end_block()
            view = view[len(piece) :]


class TableFile(Protocol):
    """File of a table, read from its end."""

    is_remote: bool

    def size(self) -> int:
        """Return the number of bytes."""
        ...

    def tail(self, num_bytes: int) -> bytes:
        """Return the last bytes, fewer where there are no more."""
        ...

    def place(self, num_bytes: int) -> None:
        """Say how many bytes there are, as the footer tells."""
        ...

    def read_into(self, start: int, content: memoryview) -> None:
        """Fill `content` with the bytes from `start` on, as far as there are any."""
        ...

    def arrow_file(self) -> pa.NativeFile:
        """Return the file for readers of Arrow's own."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class OpenedFile:
    """A table's file that Arrow has opened."""

    is_remote = False

    def __init__(self, file: pa.NativeFile) -> None:
        """Take the file."""
        self._file = file

    def size(self) -> int:
        """Return the number of bytes."""
        return self._file.size()

    def tail(self, num_bytes: int) -> bytes:
        """Return the last bytes, fewer where there are no more."""
        size = self._file.size()
        return self._file.read_at(min(size, num_bytes), max(size - num_bytes, 0))

    def place(self, num_bytes: int) -> None:
        """Do nothing: the system knows it."""

    def read_into(self, start: int, content: memoryview) -> None:
        """Fill `content` with the bytes from `start` on, as far as there are any."""
        self._file.seek(start)
        self._file.readinto(content)

    def arrow_file(self) -> pa.NativeFile:
        """Return the file for readers of Arrow's own."""
        return self._file

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Part:
    """A table's file of which the footer has been read and checked; blocks are checked when they are read."""

    def __init__(self, file: TableFile, location: str, anew: str) -> None:
        """Read the footer.

        Args:
            anew: what to do where the file is damaged.

        Raises:
            DamagedError: it is no Parquet file, or its footer is not what was written.
        """
        footer, seal = _read_footer(file, location, anew)
        is_sealed = seal.startswith(_MAGIC)
        if is_sealed and seal != _seal(footer):
            raise DamagedError(f"the table {location} is damaged: its footer is not what was written. {anew}")
        opened = pq.ParquetFile(pa.BufferReader(footer))
        self.metadata: pq.FileMetaData = opened.metadata
        self.schema_arrow: pa.Schema = opened.schema_arrow
        self.num_row_groups: int = opened.num_row_groups
        entries: dict[bytes, bytes] = self.metadata.metadata or {}
        blocks = entries.get(BLOCKS_KEY)
        if is_sealed != (blocks is not None):
            raise DamagedError(f"the table {location} is damaged: it has lost its footer's seal. {anew}")
        self._file = file
        self._blocks = None if blocks is None else _Blocks(file, json.loads(blocks), location, anew)
        if self._blocks is not None:
            file.place(self._blocks.num_bytes + _SEAL_BYTES + len(footer))
        self.num_bytes: int = file.size()
        self.digest = _digest_of(footer, entries)
        """Digest of blocks and schema, not of the rest of the footer: a part that two processes make has the same one,
        whatever time each of them took. In a file without a seal it is that of the footer."""

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> pa.Table:
        """Return all rows.

        Raises:
            DamagedError: what is read is not what was written.
        """
        return self._opened(range(self.num_row_groups), None).read()

    def read_row_group(self, place: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one row group.

        Args:
            columns: columns to read; all by default.

        Raises:
            DamagedError: what is read is not what was written.
        """
        return self._opened([place], columns).read_row_group(place, columns=columns)

    def require_whole(self) -> None:
        """Check all blocks.

        Raises:
            DamagedError: one is not what was written.
        """
        if self._blocks is not None:
            self._blocks.read([(0, self._blocks.num_bytes)])

    def _opened(self, row_groups: Iterable[int], columns: Sequence[str] | None) -> pq.ParquetFile:
        """Return the file for a reader of Parquet: of one with blocks, those in memory that it will look at.

        They stand in memory of Arrow's own. From a file that is a Python object Arrow's threads would read too, and a
        thread that needs Python while the process ends takes the process down.
        """
        if self._blocks is None:
            return pq.ParquetFile(
                self._file.arrow_file(),
                metadata=self.metadata,
                pre_buffer=self._file.is_remote,
                page_checksum_verification=True,
            )
        ranges = [each for place in row_groups for each in self._ranges(place, columns)]
        return pq.ParquetFile(pa.BufferReader(self._blocks.read(ranges)), metadata=self.metadata, pre_buffer=False)

    def _ranges(self, place: int, columns: Sequence[str] | None) -> Iterator[tuple[int, int]]:
        """Yield the beginnings and ends of the columns of a row group."""
        group = self.metadata.row_group(place)
        for number in range(group.num_columns):
            chunk = group.column(number)
            if columns is None or chunk.path_in_schema.partition(".")[0] in columns:
                start = chunk.data_page_offset
                if chunk.dictionary_page_offset is not None:
                    start = min(start, chunk.dictionary_page_offset)
                yield start, start + chunk.total_compressed_size


class _Blocks:
    """The blocks of a file, by the list in its footer."""

    def __init__(self, file: TableFile, listed: dict[str, Any], location: str, anew: str) -> None:
        self._file = file
        self._ends: Sequence[int] = listed["ends"]
        self._digests: Sequence[str] = listed["digests"]
        self._location, self._anew = location, anew

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all blocks, which is all of the file but the footer."""
        return self._ends[-1]

    def read(self, ranges: Iterable[tuple[int, int]]) -> pa.Buffer:
        """Return the file's content, of which only the blocks that hold any of some ranges are read and checked."""
        found = pa.allocate_buffer(self.num_bytes)
        content = memoryview(found).cast("B")
        wanted = {
            block
            for start, end in ranges
            for block in range(bisect_right(self._ends, start), bisect_left(self._ends, end) + 1)
        }
        for first, last in _runs(sorted(wanted)):
            begin = self._start(first)
            self._file.read_into(begin, content[begin : self._ends[last]])
            for block in range(first, last + 1):
                self._check(block, content[self._start(block) : self._ends[block]])
        return found

    def _start(self, block: int) -> int:
        return self._ends[block - 1] if block else 0

    def _check(self, block: int, content: memoryview) -> None:
        if _new_block(content).hexdigest() != self._digests[block]:
            raise DamagedError(
                f"the table {self._location} is damaged: bytes {self._start(block)} to {self._ends[block]} are not "
                f"what was written. {self._anew}"
            )


def _digest_of(footer: bytes, entries: Mapping[bytes, bytes]) -> str:
    """Return a part's digest, given its footer and the entries in it."""
    blocks = entries.get(BLOCKS_KEY)
    return digest_of(footer if blocks is None else blocks + entries.get(_ARROW_SCHEMA_KEY, b""))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last of each run of neighbours in ascending numbers."""
    for _, run in groupby(enumerate(numbers), lambda each: each[1] - each[0]):
        own = [number for _, number in run]
        yield own[0], own[-1]


def _read_footer(file: TableFile, location: str, anew: str) -> tuple[bytes, bytes]:
    """Return the footer, with what follows it, and what stands where a seal would be."""
    tail = file.tail(_TAIL_BYTES)
    length = _footer_bytes(tail)
    if length + _SEAL_BYTES > len(tail):
        if length + len(_END) > file.size():
            raise DamagedError(f"the table {location} is damaged: it is cut off, or no Parquet file. {anew}")
        tail = file.tail(length + _SEAL_BYTES)
    return tail[-length:], tail[:-length][-_SEAL_BYTES:]


def _footer_bytes(tail: bytes) -> int:
    """Return the size of the footer that a file ends with, and of what follows it."""
    if len(tail) < _TRAILER_BYTES + len(_END) or not tail.endswith(_END):
        return 1 << 62
    return int.from_bytes(tail[-_TRAILER_BYTES : -len(_END)], "little") + _TRAILER_BYTES


def _seal(footer: bytes) -> bytes:
    return _MAGIC + bytes.fromhex(digest_of(footer))


def _new_block(content: bytes | memoryview = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(content, digest_size=8)
